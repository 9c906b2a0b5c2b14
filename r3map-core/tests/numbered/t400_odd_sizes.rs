use super::*;

#[test]
fn odd_offsets_and_lengths_read_and_write_what_an_array_would() {
    const SIZE: usize = 70_001;
    let (mount, mut model, mut random) = (mount("memory:?size=70001"), vec![0; SIZE], 12345_u32);
    let mut below = |bound: usize| {
        random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
        (random >> 3) as usize % bound
    };
    for round in 0..2000 {
        let offset = below(SIZE);
        let length = below(SIZE - offset + 1);
        let mut data = pattern(length, round);
        if round % 2 == 0 {
            mount.write_at(&data, offset as u64).unwrap();
            model[offset..offset + length].copy_from_slice(&data);
        } else {
            mount.read_at(&mut data, offset as u64).unwrap();
            assert!(data == model[offset..offset + length], "round {round}: {length} bytes at {offset}");
        }
    }
    mount.close().unwrap();
}

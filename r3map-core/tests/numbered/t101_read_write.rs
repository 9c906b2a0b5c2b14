use super::*;

#[test]
fn what_is_written_to_a_backend_is_read_back_and_what_lies_outside_is_refused() {
    let memory = open("memory:?size=100001").unwrap();
    let (written, mut found) = (pattern(100_001, 1), vec![0; 100_001]);
    memory.write_at(&written, 0).unwrap();
    memory.read_at(&mut found, 0).unwrap();
    assert!(found == written);
    memory.sync().unwrap();
    fails(memory.read_at(&mut [0; 2], 100_000), Code::OutOfRange, "2 bytes at 100000");
    fails(memory.write_at(&[0], u64::MAX), Code::OutOfRange, "outside");
}

use super::*;

#[test]
fn a_region_goes_a_to_b_to_c_and_back_written_at_each() {
    let directory = seeding::Directory::new();
    let mut bytes = pattern(500_001, 6);
    std::fs::write(directory.file("a"), &bytes).unwrap();
    let mut here = mount(&directory.url("a"));
    for (hop, place) in ["b", "c", "a", "b"].into_iter().enumerate() {
        let at = hop * 100_000 + 777;
        bytes[at..at + 5000].copy_from_slice(&pattern(5000, hop as u32));
        here.write_at(&bytes[at..at + 5000], at as u64).unwrap();
        let seeder = seeding::seed(&here);
        let (_leecher, there) = moving::take(&seeder, &directory.url(place), b"");
        seeder.wait_drained(SOON).unwrap();
        seeder.close().unwrap();
        here.close().unwrap();
        here = there;
        let mut found = vec![0; bytes.len()];
        here.read_at(&mut found, 0).unwrap();
        assert!(found == bytes, "at {place}");
    }
    here.wait_local(1.0, SOON).unwrap();
    here.close().unwrap();
    assert!(std::fs::read(directory.file("b")).unwrap() == bytes);
}

use super::*;
use moving::take;

#[test]
fn finalize_brings_every_byte_written_before_the_app_stopped() {
    let (mount, bytes) = (mount("memory:?size=1000001"), pattern(1_000_001, 4));
    let seeder = seeding::seed(&mount);
    mount.write_at(&bytes, 0).unwrap();
    let (leecher, here) = take(&seeder, "memory:", b"");
    let mut found = vec![0; bytes.len()];
    here.read_at(&mut found, 0).unwrap();
    assert!(found == bytes);
    here.wait_local(1.0, SOON).unwrap();
    seeder.wait_drained(SOON).unwrap();
    seeder.close().unwrap();
    mount.close().unwrap();
    here.write_at(b"ours", 0).unwrap();
    leecher.close().unwrap();
    here.close().unwrap();
}

use super::*;

#[test]
fn many_threads_use_one_handle() {
    const PART: usize = 100_003;
    let mount = mount("memory:?size=1MiB");
    std::thread::scope(|scope| {
        for part in 0..8 {
            let mount = &mount;
            scope.spawn(move || {
                for round in 0..20 {
                    let (written, mut found) = (pattern(PART, part + round), vec![0; PART]);
                    mount.write_at(&written, u64::from(part) * PART as u64).unwrap();
                    mount.read_at(&mut found, u64::from(part) * PART as u64).unwrap();
                    assert!(found == written, "part {part}, round {round}");
                }
            });
        }
    });
    mount.close().unwrap();
}

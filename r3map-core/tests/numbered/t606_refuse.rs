use r3map_core::{Leecher, SeedState};

use super::*;

#[test]
fn an_app_that_refuses_goes_on_and_the_pull_too() {
    let mount = mount("memory:?size=500001");
    let seeder = seeding::seed(&mount);
    let url = seeder.url().unwrap();
    let leecher = Leecher::open(url, "memory:", MountOptions::default(), &BackendOptions::default()).unwrap();
    let refused = std::thread::scope(|scope| {
        let refusing = scope.spawn(|| {
            let mut after = moving::asked(&seeder, 0);
            seeder.refuse(after, "not now").unwrap();
            seeding::expect(&seeder, &mut after, &[SeedState::Resumed]);
            after
        });
        fails(leecher.finalize(), Code::Busy, "not now");
        refusing.join().unwrap()
    });
    mount.write_at(b"goes on", 0).unwrap();
    let taking = std::thread::spawn(move || leecher.finalize().unwrap());
    seeder.suspended(moving::asked(&seeder, refused), b"").unwrap();
    let here = taking.join().unwrap();
    let mut found = [0; 7];
    here.read_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"goes on");
    seeder.wait_drained(SOON).unwrap();
    seeder.close().unwrap();
}

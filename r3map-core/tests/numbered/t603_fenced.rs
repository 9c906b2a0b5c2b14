use super::*;

#[test]
fn after_the_commit_every_way_to_the_region_at_its_source_is_fenced() {
    let directory = seeding::Directory::new();
    std::fs::write(directory.file("region"), vec![0; 200_001]).unwrap();
    let source = mount(&directory.url("region"));
    let seeder = seeding::seed(&source);
    let (_leecher, here) = moving::take(&seeder, "memory:", b"");
    seeder.wait_drained(SOON).unwrap();
    for outcome in [source.read_at(&mut [0], 0), source.write_at(&[0], 0), source.sync(), source.path().map(drop)] {
        fails(outcome, Code::Fenced, "");
    }
    seeder.close().unwrap();
    fails(source.read_at(&mut [0], 0), Code::Fenced, "");
    source.close().unwrap();
    let again = mount(&directory.url("region"));
    fails(again.write_at(&[0], 0), Code::Fenced, "");
    again.close().unwrap();
    here.close().unwrap();
}

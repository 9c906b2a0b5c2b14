use super::*;

#[test]
fn a_backend_opens_by_its_url_and_says_its_size() {
    let memory = open("memory:?size=12345").unwrap();
    assert_eq!((memory.info().size, memory.info().read_only), (12345, false));
    let directory = seeding::Directory::new();
    std::fs::write(directory.file("open"), [0; 777]).unwrap();
    assert_eq!(open(&directory.url("open")).unwrap().info().size, 777);
}

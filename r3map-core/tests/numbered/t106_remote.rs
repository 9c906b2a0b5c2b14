use r3map_core::{ExportOptions, Server, ServerOptions};

use super::*;

#[test]
fn what_one_program_exports_another_opens() {
    let directory = seeding::Directory::new();
    std::fs::write(directory.file("file"), vec![0; 200_001]).unwrap();
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("state", open(&directory.url("file")).unwrap(), &ExportOptions::default()).unwrap();
    let tcp = server.listen("127.0.0.1:0").unwrap();
    let local = server.listen(&format!("unix:{}", directory.file("socket").display())).unwrap();
    let remote = open(&format!("{tcp}/state")).unwrap();
    let (written, mut found) = (pattern(200_001, 3), vec![0; 200_001]);
    remote.write_at(&written, 0).unwrap();
    remote.sync().unwrap();
    remote.close().unwrap();
    assert!(std::fs::read(directory.file("file")).unwrap() == written);
    open(&format!("{local}?name=state")).unwrap().read_at(&mut found, 0).unwrap();
    assert!(found == written);
    fails(open(&format!("{tcp}/stat")), Code::NotFound, "stat");
    server.close().unwrap();
}

use r3map_core::{ExportOptions, Server, ServerOptions};

use super::*;

#[test]
fn a_remote_that_is_gone_is_disconnected_by_the_deadline() {
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("m", open("memory:?size=1MiB").unwrap(), &ExportOptions::default()).unwrap();
    let url = format!("{}/m", server.listen("127.0.0.1:0").unwrap());
    let mount = mount_with(&url, "deadline", "300ms");
    mount.write_at(b"here", 4096).unwrap();
    mount.sync().unwrap();
    server.close().unwrap();
    drop(server);
    fails(mount.write_at(b"lost", 4096).and_then(|()| mount.sync()), Code::Disconnected, "127.0.0.1");
    fails(mount.close(), Code::Disconnected, "the mount stays open");
    mount.discard().unwrap();
    fails(open(&url), Code::Disconnected, "127.0.0.1");
}

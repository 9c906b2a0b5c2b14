use r3map_core::{ExportOptions, Server, ServerOptions};

use super::*;

#[test]
fn an_export_is_read_only_where_told_takes_a_name_once_and_needs_insecure_off_loopback() {
    let (server, memory) = (Server::new(ServerOptions::default()).unwrap(), open("memory:?size=4096").unwrap());
    server.export("fixed", memory.clone(), &ExportOptions { read_only: true, ..ExportOptions::default() }).unwrap();
    fails(server.export("fixed", memory.clone(), &ExportOptions::default()), Code::Busy, "\"fixed\"");
    fails(server.export("", memory, &ExportOptions::default()), Code::InvalidArgument, "name");
    let away = backend::open("r3map://192.0.2.1/x", &BackendOptions::default());
    fails(away.map(drop), Code::PermissionDenied, "insecure");
    let remote = open(&format!("{}/fixed", server.listen("127.0.0.1:0").unwrap())).unwrap();
    assert!(remote.info().read_only);
    fails(remote.write_at(b"x", 0), Code::ReadOnly, "read-only");
    server.close().unwrap();
}

use std::os::unix::net::UnixStream;

use r3map_core::backend::remote::Remote;
use r3map_core::{ExportOptions, Server, ServerOptions};

use super::*;

#[test]
fn a_connected_socket_is_a_backend() {
    let server = Server::new(ServerOptions::default()).unwrap();
    server.export("m", open("memory:?size=8193").unwrap(), &ExportOptions::default()).unwrap();
    let connect = |name: &str| {
        let (theirs, ours) = UnixStream::pair().unwrap();
        server.handle(theirs.into()).unwrap();
        Remote::connect(ours.into(), name, &BackendOptions::default())
    };
    let remote = connect("m").unwrap();
    let mut found = [0; 5];
    remote.write_at(b"bytes", 8188).unwrap();
    remote.read_at(&mut found, 8188).unwrap();
    assert_eq!(&found, b"bytes");
    fails(connect("other"), Code::NotFound, "other");
    server.close().unwrap();
}

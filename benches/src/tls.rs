//! What encryption costs: the same bytes over loopback by TLS and in plain.

use r3map_core::copy::Copy;
use r3map_core::server::named;
use r3map_core::{BackendOptions, Credentials, ExportOptions, Server, ServerOptions, backend};

use crate::{Directory, Measured, speed, time};

const SIZE: u64 = 1 << 30;
const TOKEN: &str = "0123456789abcdef";

/// A copy of 1 GiB from our server by TLS, beside the same in plain.
pub fn copied() -> Measured {
    let directory = Directory::fresh();
    let keys = directory.path().join("keys");
    r3map_core::tls::make::keygen(&keys, &["127.0.0.1".to_owned()], "client").unwrap();
    let credentials = Credentials {
        tls_cert: Some(keys.join("server-cert.pem")),
        tls_key: Some(keys.join("server-key.pem")),
        token: Some(TOKEN.into()),
        ..Credentials::default()
    };
    let source = crate::slice::source(SIZE);
    let serve = |credentials| {
        let server = Server::new(ServerOptions { credentials, ..ServerOptions::default() }).unwrap();
        server.export("region", source.clone(), &ExportOptions::default()).unwrap();
        let url = named(&server.listen("127.0.0.1:0").unwrap(), "region");
        (server, url)
    };
    let ((_secure, by_tls), (_plain, in_plain)) = (serve(credentials), serve(Credentials::default()));
    let known = BackendOptions {
        tls_ca: Some(keys.join("ca-cert.pem")),
        token: Some(TOKEN.into()),
        ..BackendOptions::default()
    };
    let copy = |url: &str, options: &BackendOptions| {
        let source = backend::open(url, options).unwrap();
        let target = backend::open(&format!("memory:?size={SIZE}"), &BackendOptions::default()).unwrap();
        time(|| Copy::between(source, target).unwrap().run(None).unwrap())
    };
    speed(SIZE, || copy(&by_tls, &known), || copy(&in_plain, &BackendOptions::default()))
}

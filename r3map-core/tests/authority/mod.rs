//! What the tests of TLS share: certificates made by us and by openssl, which knows nothing of us.

#![allow(dead_code)] // No test file uses all of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use r3map_core::tls::make::keygen;
use r3map_core::{Backend, BackendOptions, Credentials, Error, Result, backend};

use crate::peers::{Directory, succeeds};

/// Certificates in a directory of their own: those of keygen, for a server on this host and a client named `ann`.
pub struct Authority(pub Directory);

impl Authority {
    pub fn new() -> Authority {
        let directory = Directory::new();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        keygen(&directory.file("made"), &names, "ann").unwrap();
        Authority(directory)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.file("made").join(format!("{name}.pem"))
    }

    fn text(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    /// A server that knows its clients by certificates.
    pub fn server(&self) -> Credentials {
        Credentials {
            tls_cert: Some(self.file("server-cert")),
            tls_key: Some(self.file("server-key")),
            tls_ca: Some(self.file("ca-cert")),
            ..Credentials::default()
        }
    }

    /// A client that knows its server by the authority and shows no certificate.
    pub fn stranger(&self) -> BackendOptions {
        BackendOptions { tls_ca: Some(self.file("ca-cert")), ..BackendOptions::default() }
    }

    /// A client with one of the certificates here.
    pub fn client(&self, name: &str) -> BackendOptions {
        BackendOptions {
            tls_cert: Some(self.file(&format!("{name}-cert"))),
            tls_key: Some(self.file(&format!("{name}-key"))),
            ..self.stranger()
        }
    }

    /// Makes a certificate by openssl: for localhost and this name, from the authority `by`, or from itself.
    pub fn openssl(&self, name: &str, by: Option<&str>, days: &str) {
        let (cert, key) = (self.text(&format!("{name}-cert")), self.text(&format!("{name}-key")));
        let subject = format!("/CN={name}");
        succeeds(&["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
        let Some(by) = by else {
            let request = ["openssl", "req", "-x509", "-new", "-key", &key, "-subj", &subject, "-out", &cert];
            succeeds(&[&request[..], &["-days", days]].concat());
            return;
        };
        let (request, extensions) = (self.text("request"), self.text("extensions"));
        succeeds(&["openssl", "req", "-new", "-key", &key, "-subj", &subject, "-out", &request]);
        std::fs::write(&extensions, format!("subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:{name}\n")).unwrap();
        let (by_cert, by_key) = (self.text(&format!("{by}-cert")), self.text(&format!("{by}-key")));
        let sign = ["openssl", "x509", "-req", "-in", &request, "-CA", &by_cert, "-CAkey", &by_key, "-CAcreateserial"];
        succeeds(&[&sign[..], &["-extfile", &extensions, "-out", &cert, "-days", days]].concat());
        if days == "0" {
            // It was good for the second in which it was made.
            let made = std::fs::metadata(&cert).unwrap().modified().unwrap();
            while SystemTime::now() < made + Duration::from_millis(2100) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Makes the certificates that are wrong for a client or a server.
    pub fn makes_wrong_ones(&self) {
        self.openssl("other", None, "30");
        self.openssl("foreign", Some("other"), "30");
        self.openssl("expired", Some("ca"), "0");
    }

    /// Servers that are wrong for a client that knows the authority, each with what it is told.
    pub fn wrong_servers(&self) -> Vec<(Credentials, &'static str)> {
        self.makes_wrong_ones();
        let wrong = [
            ("other", "is self-signed and not in tls_ca"),
            ("foreign", "comes from an authority that is not in tls_ca"),
            ("expired", "has expired"),
            ("client", "is for another purpose"),
        ];
        let credentials = |name| Credentials {
            tls_cert: Some(self.file(&format!("{name}-cert"))),
            tls_key: Some(self.file(&format!("{name}-key"))),
            ..self.server()
        };
        wrong.map(|(name, words)| (credentials(name), words)).into()
    }

    /// Clients that are wrong for a server that knows them by certificates, each with what it is told.
    pub fn wrong_clients(&self) -> Vec<(BackendOptions, &'static str)> {
        self.makes_wrong_ones();
        vec![
            (self.stranger(), "it wants a certificate: give tls_cert and tls_key"),
            (self.client("other"), "self-signed or of an authority that it does not know"),
            (self.client("foreign"), "self-signed or of an authority that it does not know"),
            (self.client("expired"), "this side's certificate has expired"),
            (self.client("server"), "it does not accept this side's certificate"),
        ]
    }

    /// SHA-256 of a certificate's key, as openssl has it.
    pub fn pin(&self, name: &str) -> String {
        let (key, der) = (self.text("key"), self.text("der"));
        let cert = self.text(&format!("{name}-cert"));
        std::fs::write(&key, succeeds(&["openssl", "x509", "-in", &cert, "-pubkey", "-noout"])).unwrap();
        succeeds(&["openssl", "pkey", "-pubin", "-in", &key, "-outform", "DER", "-out", &der]);
        let sum = succeeds(&["openssl", "dgst", "-sha256", "-r", &der]);
        sum.split_whitespace().next().unwrap().to_owned()
    }
}

/// The error of an opening that must fail.
#[track_caller]
pub fn denied(url: &str, options: &BackendOptions) -> Error {
    match open(url, options) {
        Ok(_) => panic!("{url} was opened"),
        Err(error) => error,
    }
}

pub fn open(url: &str, options: &BackendOptions) -> Result<Arc<dyn Backend>> {
    backend::open(url, options)
}

/// Puts a file in the place of another at once, as a tool that renews certificates does.
pub fn replace(new: &Path, old: &Path) {
    let beside = old.with_extension("new");
    std::fs::copy(new, &beside).unwrap();
    std::fs::rename(beside, old).unwrap();
}

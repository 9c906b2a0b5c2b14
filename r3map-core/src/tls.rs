//! TLS 1.3 for the native wire, for gRPC and for NBD: who a peer is, by certificates, by the pin of a public key or by a token.
//!
//! A client knows its server by an authority or by a pin, a server its clients by an authority or by tokens, and each
//! is made sure of before a byte of the protocol above is looked at. Nothing here knows of exports or requests:
//! [`secure`] is the encryption of a [`Channel`](crate::wire::channel::Channel), [`client`] and [`server`] are the two
//! sides of its beginning, [`make`] makes certificates. Sessions are never resumed, so every connection shows its
//! certificate anew.

use std::fs;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, RootCertStore};

use crate::error::{Code, Error, Result};

pub(crate) mod client;
pub mod make;
pub(crate) mod secure;
pub(crate) mod server;
pub(crate) mod token;
mod verify;

/// What the native protocol is called inside TLS, so that no server of another answers in its place.
const NATIVE: &[u8] = b"r3map/1";
/// What HTTP/2, and so gRPC, is called there.
#[cfg(feature = "grpc")]
const HTTP2: &[u8] = b"h2";
/// The longest file of certificates, keys or tokens.
const MOST_FILE: u64 = 1 << 20;

/// The protocol above TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Above {
    /// r3map's own.
    Native,
    /// NBD, which names none.
    Nbd,
    /// gRPC.
    #[cfg(feature = "grpc")]
    Grpc,
}

impl Above {
    fn names(self) -> Vec<Vec<u8>> {
        match self {
            Above::Native => vec![NATIVE.to_vec()],
            Above::Nbd => Vec::new(),
            #[cfg(feature = "grpc")]
            Above::Grpc => vec![HTTP2.to_vec()],
        }
    }
}

/// SHA-256 of a certificate's public key.
pub(crate) fn pin_of(certificate: &CertificateDer<'_>) -> Result<[u8; 32]> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|error| Error::new(Code::InvalidArgument, format!("a certificate cannot be read: {error}")))?;
    Ok(sha256(&parsed.subject_public_key_info()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    hash
}

/// The bytes of a file that an option names.
fn read(option: &str, path: &Path) -> Result<Vec<u8>> {
    let failed = |error| Error::io(format!("{option}: read {}", path.display()), error);
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MOST_FILE {
        let message = format!("{option}: {} has {length} bytes, which is no such file", path.display());
        return Err(Error::new(Code::InvalidArgument, message));
    }
    fs::read(path).map_err(failed)
}

fn chain(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    certificates(&read(option, path)?).ok_or_else(|| {
        Error::new(Code::InvalidArgument, format!("{option}: {} holds no certificates in PEM", path.display()))
    })
}

/// The certificates in such a file, if there are any and all of them are whole.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty())
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    private_key(&read("tls_key", path)?).ok_or_else(|| {
        Error::new(Code::InvalidArgument, format!("tls_key: {} holds no private key in PEM", path.display()))
    })
}

/// The private key in such a file.
pub(crate) fn private_key(pem: &[u8]) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).ok()
}

fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in chain("tls_ca", path)? {
        roots
            .add(certificate)
            .map_err(|error| Error::new(Code::InvalidArgument, format!("tls_ca: {}: {error}", path.display())))?;
    }
    Ok(roots)
}

/// What is wrong with options or files, by rustls.
fn unusable(error: rustls::Error) -> Error {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            Error::new(Code::InvalidArgument, "tls_cert and tls_key do not belong together")
        }
        other => Error::new(Code::InvalidArgument, format!("tls_cert, tls_key: {other}")),
    }
}

/// Why a connection is over, said so that whoever reads it knows what to change. `peer` is what the other side is.
fn trouble(error: &rustls::Error, peer: &str) -> Error {
    let refused = |why: String| Error::new(Code::NotAuthenticated, why);
    match error {
        rustls::Error::InvalidCertificate(wrong) => {
            refused(format!("the {peer}'s certificate {}", what_is_wrong(wrong)))
        }
        rustls::Error::NoCertificatesPresented => refused(format!("the {peer} showed no certificate")),
        rustls::Error::AlertReceived(alert) => match said(*alert) {
            Some(why) => refused(format!("the {peer} says: {why}")),
            None => Error::new(Code::Disconnected, format!("the {peer} ended TLS with {alert:?}")),
        },
        rustls::Error::PeerIncompatible(why) => {
            Error::new(Code::Unsupported, format!("the {peer} speaks no TLS 1.3 as it is spoken here: {why:?}"))
        }
        rustls::Error::InvalidMessage(_) => Error::new(Code::Corrupt, format!("the {peer} speaks no TLS here")),
        rustls::Error::DecryptError => {
            Error::new(Code::Corrupt, format!("what came from the {peer} was changed on its way: it fails TLS's check"))
        }
        other => refused(format!("TLS with the {peer} failed: {other}")),
    }
}

fn what_is_wrong(error: &CertificateError) -> String {
    use CertificateError::*;
    match error {
        Expired | ExpiredContext { .. } => "has expired: it needs a new one".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "is not valid yet: is a clock wrong?".to_owned(),
        UnknownIssuer => "comes from an authority that is not in tls_ca".to_owned(),
        NotValidForName | NotValidForNameContext { .. } => {
            "is for another name than it was reached by: connect by a name in it, or make it for this one".to_owned()
        }
        Revoked => "was revoked".to_owned(),
        BadSignature => "carries a wrong signature".to_owned(),
        InvalidPurpose | InvalidPurposeContext { .. } => "is for another purpose".to_owned(),
        Other(why) => why.to_string(),
        other => format!("cannot be accepted: {other:?}"),
    }
}

/// What the other side's alert is about, where it is about who this side is.
fn said(alert: AlertDescription) -> Option<String> {
    use AlertDescription::*;
    let why = match alert {
        CertificateRequired => "it wants a certificate: give tls_cert and tls_key",
        CertificateExpired => "this side's certificate has expired: it needs a new one",
        UnknownCA => "this side's certificate is self-signed or of an authority that it does not know",
        BadCertificate | UnsupportedCertificate | CertificateRevoked | CertificateUnknown => {
            "it does not accept this side's certificate"
        }
        DecryptError | AccessDenied => "it does not accept who this side is",
        HandshakeFailure | ProtocolVersion | InsufficientSecurity | NoApplicationProtocol => {
            return Some(format!("there is nothing that both sides speak ({alert:?})"));
        }
        _ => return None,
    };
    Some(why.to_owned())
}

//! Certificates made here: an authority with certificates of a server and a client, or one that vouches for itself.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::error::{Code, Error, Result};

/// The name of the authority.
const AUTHORITY: &str = "r3map CA";
/// How long an authority is good for, in days.
const AUTHORITY_DAYS: i64 = 3650;
/// How long what it vouches for is good for, in days.
const DAYS: i64 = 825;

/// Makes `ca`, `server` and `client` certificates and keys in a directory: `ca-cert.pem`, `ca-key.pem` and so on, as
/// nbdkit and libnbd look for them too. The server's is for `names` (host names or addresses), the client's for
/// `client`. Where the authority was made here before only what is missing is made, so that a certificate is renewed by
/// moving the old one and its key away. No file is overwritten.
pub fn keygen(directory: &Path, names: &[String], client: &str) -> Result<()> {
    let path = |file: &str| directory.join(format!("{file}.pem"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| Error::io(format!("keygen: make {}", directory.display()), error))?;
    let is_there = |who: &str| {
        let [cert, key] = [format!("{who}-cert"), format!("{who}-key")].map(|file| path(&file));
        match (cert.exists(), key.exists()) {
            (true, false) | (false, true) => {
                let message = format!("keygen: of {} and {} one is missing", cert.display(), key.display());
                Err(Error::new(Code::Busy, message))
            }
            (found, _) => Ok(found),
        }
    };
    let (renews, has_server, has_client) = (is_there("ca")?, is_there("server")?, is_there("client")?);
    if has_server && has_client || !renews && (has_server || has_client) {
        let there = path(if has_server { "server-cert" } else { "client-cert" });
        let message = format!("keygen: {} is there already: move it away to have a new one", there.display());
        return Err(Error::new(Code::Busy, message));
    }
    let key = if renews {
        let text = fs::read_to_string(path("ca-key")).map_err(|error| Error::io("keygen: read ca-key.pem", error))?;
        KeyPair::from_pem(&text).map_err(failed)?
    } else {
        KeyPair::generate().map_err(failed)?
    };
    let params = authority()?;
    if !renews {
        let certificate = params.self_signed(&key).map_err(failed)?;
        store(&path("ca-key"), &key.serialize_pem())?;
        store(&path("ca-cert"), &certificate.pem())?;
    }
    let issuer = Issuer::from_params(&params, key);
    for (who, has_it, names, usage) in [
        ("server", has_server, names.to_vec(), ExtendedKeyUsagePurpose::ServerAuth),
        ("client", has_client, vec![client.to_owned()], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        if has_it {
            continue;
        }
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = leaf(names, DAYS, usage)?.signed_by(&key, &issuer).map_err(failed)?;
        store(&path(&format!("{who}-key")), &key.serialize_pem())?;
        store(&path(&format!("{who}-cert")), &certificate.pem())?;
    }
    Ok(())
}

/// A certificate and key in PEM that vouch for themselves: for a server that its clients know by a pin.
pub(super) fn self_signed() -> Result<(String, String)> {
    let key = KeyPair::generate().map_err(failed)?;
    let params = leaf(vec!["r3map".to_owned()], AUTHORITY_DAYS, ExtendedKeyUsagePurpose::ServerAuth)?;
    Ok((params.self_signed(&key).map_err(failed)?.pem(), key.serialize_pem()))
}

fn authority() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = called(AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, AUTHORITY_DAYS);
    Ok(params)
}

fn leaf(names: Vec<String>, days: i64, usage: ExtendedKeyUsagePurpose) -> Result<CertificateParams> {
    let first =
        names.first().cloned().ok_or_else(|| Error::new(Code::InvalidArgument, "a certificate without name"))?;
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name = called(&first);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    lasts(&mut params, days);
    Ok(params)
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// From an hour ago, since clocks differ.
fn lasts(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(days);
}

fn failed(error: rcgen::Error) -> Error {
    Error::new(Code::InvalidArgument, format!("make a certificate: {error}"))
}

/// Writes a file that only its owner reads; one that is there stays and is an error.
pub(super) fn store(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| Error::io(format!("write {}", path.display()), error))
}

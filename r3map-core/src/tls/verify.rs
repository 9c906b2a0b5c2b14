//! Whether a certificate is accepted, and what is wrong with one that is not.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::pin_of;
use crate::error::{Code, Result};

type Outcome<T> = std::result::Result<T, Error>;

/// What is wrong with a certificate, in our own words.
#[derive(Debug)]
struct Wrong(&'static str);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Wrong {}

fn wrong(why: &'static str) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Wrong(why)))))
}

/// Whether a certificate vouches for itself.
fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok_and(|parsed| parsed.issuer() == parsed.subject())
}

/// Names of the certificate by which exports allow its owner.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    parsed.map_or_else(|_| Vec::new(), |parsed| parsed.valid_dns_names().map(str::to_owned).collect())
}

fn unusable(error: impl fmt::Display) -> crate::error::Error {
    crate::error::Error::new(Code::InvalidArgument, format!("tls_ca: {error}"))
}

/// How a client knows its server: by an authority, by the pin of its key, or by both.
#[derive(Debug)]
pub(super) struct KnownServer {
    authority: Option<Arc<WebPkiServerVerifier>>,
    pin: Option<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl KnownServer {
    /// One of them must be given.
    pub fn new(provider: &Arc<CryptoProvider>, roots: Option<RootCertStore>, pin: Option<[u8; 32]>) -> Result<Self> {
        let algorithms = provider.signature_verification_algorithms;
        let built = |roots| WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let authority = roots.map(built).transpose().map_err(unusable)?;
        Ok(KnownServer { authority, pin, algorithms })
    }
}

impl ServerCertVerifier for KnownServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Outcome<ServerCertVerified> {
        if let Some(pin) = &self.pin {
            let shown = pin_of(end_entity).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
            if shown != *pin {
                return Err(wrong("has another key than tls_pin says: it is another server, or its key was changed"));
            }
        }
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        let outcome = authority.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        outcome.map_err(|error| match error {
            Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => error,
            Error::InvalidCertificate(_) if is_self_signed(end_entity) => {
                wrong("is self-signed and not in tls_ca: give tls_pin, or the authority it should have come from")
            }
            other => other,
        })
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Outcome<HandshakeSignatureValid> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Outcome<HandshakeSignatureValid> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// How a server knows its clients: by an authority, and perhaps by a token that comes later.
#[derive(Debug)]
pub(super) struct KnownClients(Arc<dyn ClientCertVerifier>);

impl KnownClients {
    /// Clients of an authority. Those without a certificate get in only where something `else_known` follows.
    pub fn new(provider: &Arc<CryptoProvider>, roots: RootCertStore, else_known: bool) -> Result<Self> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let builder = if else_known { builder.allow_unauthenticated() } else { builder };
        builder.build().map(KnownClients).map_err(unusable)
    }
}

impl ClientCertVerifier for KnownClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Outcome<ClientCertVerified> {
        let outcome = self.0.verify_client_cert(end_entity, intermediates, now);
        outcome.map_err(|error| match error {
            // A certificate that vouches for itself is often one that says it is an authority: no other error of its.
            Error::InvalidCertificate(CertificateError::Other(_)) if is_self_signed(end_entity) => {
                Error::InvalidCertificate(CertificateError::UnknownIssuer)
            }
            other => other,
        })
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Outcome<HandshakeSignatureValid> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Outcome<HandshakeSignatureValid> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

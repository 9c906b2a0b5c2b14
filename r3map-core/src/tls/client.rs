//! How a client begins TLS, and what it has to show.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::secure::Secure;
use super::verify::KnownServer;
use super::{Above, authorities, chain, key, unusable};
use crate::backend::BackendOptions;
use crate::error::{Code, Error, Result};
use crate::options::Secret;
use crate::wire::channel::Channel;

/// How a client begins TLS with one server. Files are read at each connection, so that new ones count at the next.
#[derive(Clone)]
pub(crate) struct ClientTls {
    name: ServerName<'static>,
    certificate: Option<(PathBuf, PathBuf)>,
    authorities: Option<PathBuf>,
    pin: Option<[u8; 32]>,
    token: Option<Secret>,
    above: Above,
}

impl ClientTls {
    /// As the options say, for a server reached by the name `host`. They are wrong unless the server can be known.
    pub fn new(options: &BackendOptions, host: &str, above: Above) -> Result<ClientTls> {
        let invalid = |message: String| Error::new(Code::InvalidArgument, message);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| invalid(format!("{host:?} is no name that a certificate could be for")))?;
        let BackendOptions { tls_cert, tls_key, tls_ca, tls_pin, token, insecure: _, compression: _ } = options.clone();
        let certificate = match (tls_cert, tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(invalid("tls_cert and tls_key go together: one of them is missing".to_owned())),
        };
        if tls_ca.is_none() && tls_pin.is_none() {
            let message = "nothing says by what to know the server: give tls_ca, or tls_pin as the server printed it";
            return Err(invalid(message.to_owned()));
        }
        if above == Above::Nbd && token.is_some() {
            return Err(invalid("token: NBD knows no tokens: give tls_cert and tls_key".to_owned()));
        }
        let pin = tls_pin.as_deref().map(parse_pin).transpose()?;
        let tls = ClientTls { name, certificate, authorities: tls_ca, pin, token, above };
        // What is wrong with files is better said before anything is connected.
        tls.config()?;
        Ok(tls)
    }

    fn config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = self.authorities.as_deref().map(authorities).transpose()?;
        let known = KnownServer::new(&provider, roots, self.pin)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(known));
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, secret)) => {
                builder.with_client_auth_cert(chain("tls_cert", certificate)?, key(secret)?).map_err(unusable)?
            }
        };
        config.alpn_protocols = self.above.names();
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Begins TLS on a connection and makes sure who the server is.
    pub fn begin(&self, channel: &Channel, deadline: Instant) -> Result<()> {
        let connection = ClientConnection::new(Arc::new(self.config()?), self.name.clone()).map_err(unusable)?;
        let secure = channel.encrypt(Secure::new(connection.into(), "server"))?;
        secure.shake_hands(channel, deadline)
    }

    /// What is to be said first inside TLS.
    pub fn token(&self) -> Option<&str> {
        self.token.as_ref().map(Secret::reveal)
    }
}

/// A pin as people write it.
pub(crate) fn parse_pin(text: &str) -> Result<[u8; 32]> {
    let digit = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    bytes.filter(|_| plain).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        Error::new(Code::InvalidArgument, "tls_pin is the SHA-256 of the server's public key: 64 hexadecimal digits")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_sixty_four_hexadecimal_digits() {
        assert_eq!(parse_pin(&"0fA1".repeat(16)).unwrap()[..2], [0x0f, 0xa1]);
        for wrong in ["", "0f", &"0f".repeat(33), &"+f".repeat(32), &"ü".repeat(32), &"0g".repeat(32)] {
            assert_eq!(parse_pin(wrong).unwrap_err().code(), Code::InvalidArgument, "{wrong}");
        }
    }
}

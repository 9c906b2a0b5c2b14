//! How a server begins TLS, and by what it knows its clients.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, ServerConnection};

use super::secure::Secure;
use super::token::{self, Tokens};
use super::verify::{KnownClients, names};
use super::{Above, authorities, chain, key, make, pin_of, read, unusable};
use crate::error::{Code, Error, Result};
use crate::options::{Credentials, Secret};
use crate::server::caller::Caller;
use crate::wire::channel::Channel;
use crate::wire::hexadecimal;

/// What every record of TLS that begins a connection begins with.
const HANDSHAKE: u8 = 0x16;

/// How a server begins TLS with its clients. Files that change count from the next connection on.
pub(crate) struct ServerTls {
    credentials: Credentials,
    above: Above,
    loaded: Mutex<Loaded>,
    /// The token that was made with the certificate, for the line that a client is told.
    made: Option<Secret>,
}

/// What was read of the files, and what they looked like then.
struct Loaded {
    proof: Arc<Proof>,
    looks: Vec<Look>,
}

/// What a server shows and what it accepts.
struct Proof {
    config: Arc<ServerConfig>,
    tokens: Tokens,
    pin: [u8; 32],
}

/// Device, inode, size and time of a file's last change: what is replaced or written looks otherwise.
type Look = Option<(u64, u64, u64, i64, i64)>;

fn look(path: &Path) -> Look {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

impl ServerTls {
    /// As the credentials say, which have to name a certificate and a way to know clients.
    pub fn new(credentials: &Credentials, above: Above) -> Result<ServerTls> {
        let looks = looks(credentials);
        let proof = Arc::new(load(credentials, above)?);
        let loaded = Mutex::new(Loaded { proof, looks });
        Ok(ServerTls { credentials: credentials.clone(), above, loaded, made: None })
    }

    /// By a certificate and a token that lie in the state directory, and are made where they do not.
    pub fn made(credentials: &Credentials, above: Above) -> Result<ServerTls> {
        let directory = state_directory(credentials.state.as_deref())?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| Error::io(format!("state: make {}", directory.display()), error))?;
        let [certificate, key, tokens] =
            ["server-cert.pem", "server-key.pem", "token"].map(|file| directory.join(file));
        if !certificate.exists() {
            let (made, secret) = make::self_signed()?;
            // Left by one that died between the two.
            let _ = fs::remove_file(&key);
            make::store(&key, &secret)?;
            make::store(&certificate, &made)?;
        }
        if !tokens.exists() {
            make::store(&tokens, &format!("client:{}\n", token::fresh()?.reveal()))?;
        }
        let text = String::from_utf8(read("state", &tokens)?).unwrap_or_default();
        let first = text.lines().next().and_then(|line| line.split_once(':')).map(|(_, token)| Secret::from(token));
        let credentials = Credentials {
            tls_cert: Some(certificate),
            tls_key: Some(key),
            token_file: Some(tokens),
            ..credentials.clone()
        };
        Ok(ServerTls { made: first, ..ServerTls::new(&credentials, above)? })
    }

    /// What is shown and accepted now.
    fn proof(&self) -> Arc<Proof> {
        let mut loaded = self.loaded.lock().unwrap_or_else(|e| e.into_inner());
        let looks = looks(&self.credentials);
        if looks != loaded.looks {
            match load(&self.credentials, self.above) {
                Ok(proof) => {
                    tracing::info!("certificates or tokens were read anew");
                    loaded.proof = Arc::new(proof);
                }
                // A certificate whose key is still to come, perhaps: its coming is another change.
                Err(error) => tracing::warn!(%error, "certificates or tokens changed and cannot be used"),
            }
            loaded.looks = looks;
        }
        loaded.proof.clone()
    }

    /// Begins TLS on a connection and makes sure who the client is, as far as its certificate says.
    pub fn begin(&self, channel: &Channel, deadline: Instant) -> Result<Caller> {
        if first_byte(channel, deadline)?.is_some_and(|byte| byte != HANDSHAKE) {
            let message = "this server speaks TLS only: write r3maps:// or grpcs:// and give tls_ca or tls_pin";
            return Err(Error::new(Code::NotAuthenticated, message));
        }
        let proof = self.proof();
        let connection = ServerConnection::new(proof.config.clone()).map_err(unusable)?;
        let secure = channel.encrypt(Secure::new(connection.into(), "client"))?;
        secure.shake_hands(channel, deadline)?;
        Ok(secure.certificate().map_or(Caller::Unknown, |certificate| Caller::Known(names(&certificate))))
    }

    /// Who has this token.
    pub fn know(&self, token: &[u8]) -> Result<Caller> {
        let proof = self.proof();
        let owner = proof.tokens.owner(token).map(|owner| Caller::Known(vec![owner.to_owned()]));
        owner.ok_or_else(|| Error::new(Code::NotAuthenticated, "the server does not know this token"))
    }

    /// What a client is asked for that has shown nothing.
    pub fn demands(&self) -> &'static str {
        match (self.credentials.tls_ca.is_some(), self.proof().tokens.is_empty()) {
            (true, false) => "the server wants a certificate or a token: give tls_cert and tls_key, or token",
            (true, true) => "the server wants a certificate: give tls_cert and tls_key",
            _ => "the server wants a token: give token",
        }
    }

    /// The command that does this with an export, where all that it needs was made here.
    pub fn client_line(&self, verb: &str, url: &str) -> Option<String> {
        let token = self.made.as_ref()?.reveal();
        // A server that listens at every address is reached by this host's name.
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let here = format!("//{}:", host.trim());
        let url = url.replacen("//0.0.0.0:", &here, 1).replacen("//[::]:", &here, 1);
        Some(format!("R3MAP_TOKEN={token} r3map {verb} --tls-pin {} {url}", hexadecimal(&self.proof().pin)))
    }
}

/// The first byte of what comes, which stays where it is; `None` at the end.
fn first_byte(channel: &Channel, deadline: Instant) -> Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match recv(channel.socket().as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => channel.wait(true, Some(deadline))?,
            Err(errno) => return Err(Error::io("receive", errno.into())),
        }
        if channel.is_stopped() {
            return Err(Error::new(Code::Closed, "the connection is closing"));
        }
    }
}

fn looks(credentials: &Credentials) -> Vec<Look> {
    let Credentials { tls_cert, tls_key, tls_ca, token_file, .. } = credentials;
    [tls_cert, tls_key, tls_ca, token_file].into_iter().flatten().map(|path| look(path)).collect()
}

fn load(credentials: &Credentials, above: Above) -> Result<Proof> {
    let invalid = |message: &str| Error::new(Code::InvalidArgument, message);
    let (Some(certificate), Some(secret)) = (&credentials.tls_cert, &credentials.tls_key) else {
        return Err(invalid("tls_cert and tls_key: a server that speaks TLS needs both"));
    };
    let mut tokens = Tokens::default();
    if let Some(token) = &credentials.token {
        tokens.add("client", token.reveal())?;
    }
    if let Some(path) = &credentials.token_file {
        tokens.add_file(path)?;
    }
    if above == Above::Nbd && !tokens.is_empty() {
        return Err(invalid("token: NBD knows no tokens: give tls_ca, by which clients are known"));
    }
    if tokens.is_empty() && credentials.tls_ca.is_none() {
        return Err(invalid("nothing says by what to know clients: give tls_ca, or a token"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?;
    let builder = match credentials.tls_ca.as_deref() {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let known = KnownClients::new(&provider, authorities(path)?, !tokens.is_empty())?;
            builder.with_client_cert_verifier(Arc::new(known))
        }
    };
    let chain = chain("tls_cert", certificate)?;
    let pin = pin_of(&chain[0])?;
    let mut config = builder.with_single_cert(chain, key(secret)?).map_err(unusable)?;
    config.alpn_protocols = above.names();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Proof { config: Arc::new(config), tokens, pin })
}

/// Where a server keeps what it made: as told, else where the user's programs keep such things.
fn state_directory(told: Option<&Path>) -> Result<PathBuf> {
    if let Some(told) = told {
        return Ok(told.to_owned());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    base.map(|base| base.join("r3map")).ok_or_else(|| {
        let message = "state: nothing says where to keep a certificate: give state, or certificates, or insecure";
        Error::new(Code::InvalidArgument, message)
    })
}

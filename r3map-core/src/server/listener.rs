//! An address at which a server accepts connections, and the file of a UNIX socket.

use std::fs::{self, File};
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::{Inner, Protocol};
use crate::error::{Code, Error, Result};
use crate::thread;
use crate::tls::server::ServerTls;
use crate::url::percent_encode;
use crate::wire::socket;

/// An address being listened at, and its thread.
pub struct Listener {
    url: String,
    socket: Arc<Socket>,
    file: Option<SocketFile>,
    thread: JoinHandle<()>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Socket::Tcp(listener) => listener.accept().map(|(stream, _)| stream.into()),
            Socket::Unix(listener) => listener.accept().map(|(stream, _)| stream.into()),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Socket::Tcp(listener) => listener.as_raw_fd(),
            Socket::Unix(listener) => listener.as_raw_fd(),
        }
    }
}

impl Listener {
    /// Listens at `host:port` or `unix:/path` for a server.
    pub fn start(address: &str, server: &Arc<Inner>) -> Result<Listener> {
        let (protocol, mut tls) = (server.options.protocol, server.tls.get().cloned());
        let (socket, url, file) = match address.strip_prefix("unix:") {
            Some(path) => {
                // Whoever may open the file is let in; NBD has a way to say otherwise.
                tls = tls.filter(|_| protocol == Protocol::Nbd);
                let (listener, file) = listen_unix(Path::new(path))?;
                (Socket::Unix(listener), unix_url(protocol, tls.is_some(), path), Some(file))
            }
            None => {
                let (listener, place) = listen_tcp(address, server, &mut tls)?;
                (Socket::Tcp(listener), format!("{}{}://{place}", protocol.name(), secured(tls.is_some())), None)
            }
        };
        let socket = Arc::new(socket);
        let thread = thread::spawn("r3map-listen", {
            let (socket, server) = (socket.clone(), server.clone());
            move || accept(&socket, &server, tls.as_ref())
        });
        let thread = thread.map_err(|error| Error::io("start a thread to listen", error))?;
        Ok(Listener { url, socket, file, thread })
    }

    /// The address as a client writes it in a URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Accepts no more, and takes the file of a UNIX socket away.
    pub fn stop(self) {
        // The file goes first: whoever connects from here on is told at once that nobody is there.
        drop(self.file);
        // On Linux this wakes a thread in accept.
        socket::shutdown(&*self.socket, Shutdown::Both);
        if self.thread.join().is_err() {
            tracing::error!(address = self.url, "the thread that listened had panicked");
        }
    }
}

fn accept(socket: &Socket, server: &Arc<Inner>, tls: Option<&Arc<ServerTls>>) {
    loop {
        match socket.accept() {
            Ok(descriptor) => {
                if let Err(error) = server.admit(descriptor, tls.cloned()) {
                    tracing::warn!(%error, "a connection was turned away");
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            Err(error) => {
                // Out of descriptors or memory: those who wait in the queue may get in later.
                tracing::warn!(%error, "cannot accept a connection");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Listens at a host and port: by TLS, or in plain on this host or where that was asked for. Else the server makes
/// what it needs for TLS.
fn listen_tcp(address: &str, server: &Inner, tls: &mut Option<Arc<ServerTls>>) -> Result<(TcpListener, String)> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = parts.filter(|(host, _)| !host.is_empty() && !host.contains('/')) else {
        let message = format!("{address:?} is no address to listen at: write HOST:PORT or unix:/PATH");
        return Err(Error::new(Code::InvalidArgument, message));
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let failed = |error: Error| error.context(format!("listen at {address}"));
    // A leecher of the Go library speaks in plain.
    let above = server.options.protocol.above().filter(|_| server.options.protocol != Protocol::Nbd);
    let above = above.filter(|_| cfg!(feature = "tls") && !server.seeds_legacy());
    let found = socket::resolve(bare, port, server.options.insecure || tls.is_some());
    let found = match (found, above) {
        (Err(error), Some(above)) if error.code() == Code::PermissionDenied => {
            let made = server.tls.get_or_try_init(|| ServerTls::made(&server.options.credentials, above).map(Arc::new));
            *tls = Some(made.map_err(failed)?.clone());
            socket::resolve(bare, port, true)
        }
        (found, _) => found,
    };
    let found = found.map_err(failed)?;
    let listener = TcpListener::bind(&found[..]).map_err(|error| Error::io(format!("listen at {address}"), error))?;
    let chosen = listener.local_addr().map_err(|error| Error::io(format!("listen at {address}"), error))?.port();
    let host = if bare.contains(':') { format!("[{bare}]") } else { bare.to_owned() };
    Ok((listener, format!("{host}:{chosen}")))
}

/// The file of a UNIX socket; gone when dropped, if it is still the one that was made.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if now.is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn listen_unix(path: &Path) -> Result<(UnixListener, SocketFile)> {
    if !path.is_absolute() {
        let message = format!("unix:{}: the path of a socket begins with a slash", path.display());
        return Err(Error::new(Code::InvalidArgument, message));
    }
    socket::unix_address(path)?;
    let failed = |error| Error::io(format!("listen at unix:{}", path.display()), error);
    // Two servers that find the same stale file must not both replace it.
    let _lock = path.parent().map(lock_directory).transpose()?;
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            UnixListener::bind(path)
        }
        outcome => outcome,
    };
    let listener = listener.map_err(failed)?;
    let made = fs::symlink_metadata(path).map_err(failed)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity: (made.dev(), made.ino()) }))
}

fn remove_stale(path: &Path) -> Result<()> {
    let name = path.display();
    let found = fs::symlink_metadata(path).map_err(|error| Error::io(format!("look at {name}"), error))?;
    if !found.file_type().is_socket() {
        return Err(Error::new(Code::Busy, format!("listen at unix:{name}: a file that is no socket is there")));
    }
    if socket::is_served(path) {
        return Err(Error::new(Code::Busy, format!("listen at unix:{name}: another server listens there")));
    }
    fs::remove_file(path).map_err(|error| Error::io(format!("replace the stale socket {name}"), error))
}

/// A lock that leaves nothing behind. A directory that cannot be opened for it does without.
fn lock_directory(path: &Path) -> Result<Option<Flock<File>>> {
    let Ok(mut directory) = File::open(path) else { return Ok(None) };
    for _ in 0..100 {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) => directory = back,
            Err(_) => return Ok(None),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::new(Code::Busy, format!("listen: another process holds a lock on {}", path.display())))
}

/// The address of a UNIX socket as a client writes it, without the name of an export.
fn unix_url(protocol: Protocol, is_secured: bool, path: &str) -> String {
    let path = percent_encode(path);
    match protocol {
        Protocol::Nbd => format!("nbd{}+unix:///?socket={path}", secured(is_secured)),
        other => format!("{}+unix://{path}", other.name()),
    }
}

/// What a scheme has behind its name where TLS is spoken.
fn secured(is_secured: bool) -> &'static str {
    if is_secured { "s" } else { "" }
}

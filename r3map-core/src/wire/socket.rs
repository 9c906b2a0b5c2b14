//! Sockets: options, connecting, and the few random bytes that name clients and regions.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrLike, UnixAddr, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::error::{Code, Error, Result};
use crate::wire::Identity;

/// What a UNIX socket may hold on its way; the kernel takes as much of it as the system allows. TCP sizes
/// its buffers itself, and better for not being told.
const UNIX_BUFFER: usize = 4 << 20;

/// What a TCP socket for bulk may hold on its way: 10 Gbit/s for 25 ms.
const BULK_BUFFER: usize = 32 << 20;
/// How much of it may wait to be sent.
static UNSENT: libc::c_int = 512 << 10;

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// A host and port.
    Tcp(String, u16),
    /// The path of a UNIX socket.
    Unix(PathBuf),
}

/// Sets what a connection wants. An option that a socket does not take is one it can do without.
pub fn prepare(socket: &OwnedFd) {
    if is_unix(socket) {
        let _ = setsockopt(socket, sockopt::SndBuf, &UNIX_BUFFER);
        return;
    }
    let _ = setsockopt(socket, sockopt::TcpNoDelay, &true);
    // A peer that vanished without a word is noticed after a minute, however idle the connection is.
    let _ = setsockopt(socket, sockopt::KeepAlive, &true);
    let _ = setsockopt(socket, sockopt::TcpKeepIdle, &30);
    let _ = setsockopt(socket, sockopt::TcpKeepInterval, &10);
    let _ = setsockopt(socket, sockopt::TcpKeepCount, &3);
}

fn is_unix(socket: &OwnedFd) -> bool {
    let own = socket::getsockname::<socket::SockaddrStorage>(socket.as_raw_fd());
    own.is_ok_and(|own| own.family() == Some(AddressFamily::Unix))
}

/// Whether the peer of a socket is on another host, as far as its address says.
pub fn is_far(socket: &OwnedFd) -> bool {
    let Ok(peer) = socket::getpeername::<socket::SockaddrStorage>(socket.as_raw_fd()) else { return false };
    match (peer.as_sockaddr_in(), peer.as_sockaddr_in6()) {
        (Some(peer), _) => !peer.ip().is_loopback(),
        (_, Some(peer)) => !peer.ip().to_canonical().is_loopback(),
        _ => false,
    }
}

/// How many bytes a second the network behind a TCP socket takes at most, as the kernel measured it last; `None` where
/// nothing was measured, or what was sent was too little to find out.
pub fn rate(socket: &OwnedFd) -> Option<u64> {
    /// Where the bit stands that says that the application, and no network, bounded the rate.
    const APP_LIMITED: usize = 7;
    /// Where `tcpi_delivery_rate` does; the kernel has it since 4.9.
    const DELIVERY_RATE: usize = 160;
    let mut info = [0_u8; DELIVERY_RATE + 8];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most as many bytes as are said, which are ours.
    let got = unsafe {
        let to = info.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &mut length)
    };
    if got != 0 || (length as usize) < info.len() || info[APP_LIMITED] & 1 != 0 {
        return None;
    }
    let rate = info.last_chunk::<8>().map(|bytes| u64::from_ne_bytes(*bytes));
    rate.filter(|rate| *rate > 0)
}

/// Sets what a connection wants that carries much over a long way, besides: its buffer for sending holds what is on its
/// way, for which the system's default is too little on a fast network, and next to nothing that is not.
pub fn prepare_bulk(socket: &OwnedFd) {
    if is_unix(socket) {
        return;
    }
    // Only the privileged may have more than the system allows. Who asks for less loses the kernel's own sizing.
    if setsockopt(socket, sockopt::SndBufForce, &BULK_BUFFER).is_err() {
        tracing::trace!("the system's own bound of a socket's buffer stays");
    }
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option is a number that lives on, of the size that is said.
    unsafe {
        let unsent = (&raw const UNSENT).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, unsent, size);
    }
}

/// Ends one or both directions of a connection; one that is over already stays so.
pub fn shutdown(socket: &impl AsRawFd, how: Shutdown) {
    let how = match how {
        Shutdown::Read => socket::Shutdown::Read,
        Shutdown::Write => socket::Shutdown::Write,
        Shutdown::Both => socket::Shutdown::Both,
    };
    let _ = socket::shutdown(socket.as_raw_fd(), how);
}

/// Whether the first of what has come on a socket, and is left there, is this.
#[cfg(feature = "grpc")]
pub fn begins_with(stream: &OwnedFd, what: &[u8]) -> bool {
    let mut first = vec![0; what.len()];
    let flags = socket::MsgFlags::MSG_PEEK | socket::MsgFlags::MSG_DONTWAIT;
    let seen = socket::recv(stream.as_raw_fd(), &mut first, flags).unwrap_or(0);
    seen > 0 && what.starts_with(&first[..seen])
}

/// The addresses of a host. Fails if one of them is not this host's own, unless plain TCP there is allowed.
pub fn resolve(host: &str, port: u16, insecure: bool) -> Result<Vec<SocketAddr>> {
    let found = (host, port).to_socket_addrs().map_err(|error| match error.raw_os_error() {
        Some(_) => Error::io(format!("look up {host}"), error),
        None => Error::new(Code::NotFound, format!("look up {host}: {error}")),
    })?;
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err(Error::new(Code::NotFound, format!("look up {host}: it has no address")));
    }
    if let Some(remote) = found.iter().find(|address| !address.ip().is_loopback()).filter(|_| !insecure) {
        return Err(Error::new(
            Code::PermissionDenied,
            format!(
                "{} is not loopback, and plain TCP would show every byte to the network between: say insecure if \
                 that network is trusted, or use TLS or a UNIX socket",
                remote.ip()
            ),
        ));
    }
    Ok(found)
}

/// Connects to a server before `deadline`.
pub fn connect(address: &Address, insecure: bool, deadline: Instant) -> Result<OwnedFd> {
    match address {
        Address::Tcp(host, port) => connect_tcp(host, *port, insecure, deadline),
        Address::Unix(path) => connect_unix(path, deadline),
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn connect_tcp(host: &str, port: u16, insecure: bool, deadline: Instant) -> Result<OwnedFd> {
    let mut outcome = Err(io::Error::from(io::ErrorKind::TimedOut));
    for address in resolve(host, port, insecure)? {
        outcome = TcpStream::connect_timeout(&address, left(deadline));
        if outcome.is_ok() {
            break;
        }
    }
    outcome.map(OwnedFd::from).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => Error::new(Code::Timeout, format!("connect to {host}:{port}: no answer")),
        _ => Error::io(format!("connect to {host}:{port}"), error),
    })
}

fn connect_unix(path: &Path, deadline: Instant) -> Result<OwnedFd> {
    let failed = |errno: nix::errno::Errno| match errno {
        nix::errno::Errno::EAGAIN => Error::new(Code::Timeout, format!("connect to {}: no answer", path.display())),
        errno => Error::io(format!("connect to {}", path.display()), errno.into()),
    };
    let address = unix_address(path)?;
    let fresh = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let left = left(deadline);
    let patience = TimeVal::new(left.as_secs() as i64, i64::from(left.subsec_micros()).max(1));
    // The kernel bounds the wait for a place in the server's queue by the time for sending.
    setsockopt(&fresh, sockopt::SendTimeout, &patience).map_err(failed)?;
    socket::connect(fresh.as_raw_fd(), &address).map_err(failed)?;
    Ok(fresh)
}

/// The path of a UNIX socket as the kernel takes it.
pub fn unix_address(path: &Path) -> Result<UnixAddr> {
    UnixAddr::new(path).map_err(|_| {
        let message = format!("{}: the path of a UNIX socket has 1 to 107 bytes and no NUL", path.display());
        Error::new(Code::InvalidArgument, message)
    })
}

/// A process of this host: its number, and when it began, since numbers come again.
pub type PeerProcess = (i32, u64);

/// The process at the other end of a UNIX socket, where the kernel knows. A pair of sockets would tell of its maker
/// rather than of its user.
pub fn peer_process(socket: BorrowedFd<'_>) -> Option<PeerProcess> {
    let is_named = |address: nix::Result<UnixAddr>| address.is_ok_and(|address| address.path().is_some());
    let descriptor = socket.as_raw_fd();
    if !is_named(socket::getsockname(descriptor)) && !is_named(socket::getpeername(descriptor)) {
        return None;
    }
    let process = socket::getsockopt(&socket, sockopt::PeerCredentials).ok()?.pid();
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may hold anything.
    let began = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some((process, began))
}

/// Whether somebody accepts connections on this UNIX socket.
pub fn is_served(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Between half of a pause and all of it, so that many who wait for the same do not come back as one.
pub fn spread(pause: Duration) -> Duration {
    let random = random().map_or(0, |bytes| bytes[0]);
    pause / 2 + pause / 2 * u32::from(random) / 256
}

/// Sixteen bytes nobody can guess.
pub fn random() -> Result<Identity> {
    let mut bytes = Identity::default();
    // SAFETY: the buffer is ours and as long as said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        return Err(Error::last_os("get random bytes"));
    }
    Ok(bytes)
}

//! A connected TCP or UNIX socket, and where one listens.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::{setsockopt, sockopt};

/// A connected stream socket.
pub enum Stream {
    /// Of TCP.
    Tcp(TcpStream),
    /// Of this host.
    Unix(UnixStream),
}

impl Stream {
    /// Connects to `host:port` or `unix:/path`.
    pub fn connect(address: &str) -> io::Result<Stream> {
        Ok(match address.strip_prefix("unix:") {
            Some(path) => Stream::Unix(UnixStream::connect(path)?),
            None => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        })
    }

    /// Another handle of the same socket.
    pub fn copy(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        })
    }

    /// Ends one direction or both; one that has ended already stays so.
    pub fn end(&self, how: Shutdown) {
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        };
    }

    /// From now on closing it resets the connection, where there is such a thing.
    pub fn reset_on_close(&self) {
        if let Stream::Tcp(stream) = self {
            let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            let _ = setsockopt(stream, sockopt::Linger, &at_once);
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).read(bytes),
            Stream::Unix(stream) => (&mut &*stream).read(bytes),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).write(bytes),
            Stream::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where connections come in.
pub enum Door {
    /// By TCP.
    Tcp(TcpListener),
    /// By a socket of this host, whose file goes with it.
    Unix(UnixListener, String),
}

impl Door {
    /// Listens at `host:port` or `unix:/path`.
    pub fn at(address: &str) -> io::Result<Door> {
        Ok(match address.strip_prefix("unix:") {
            Some(path) => Door::Unix(UnixListener::bind(path)?, path.to_owned()),
            None => Door::Tcp(TcpListener::bind(address)?),
        })
    }

    /// An address of the same kind as that one, which nobody has.
    pub fn like(target: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !target.starts_with("unix:") {
            return "127.0.0.1:0".to_owned();
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("r3map-chaos-{}-{number}", std::process::id()));
        format!("unix:{}", path.display())
    }

    /// The address as it is connected to.
    pub fn address(&self) -> io::Result<String> {
        Ok(match self {
            Door::Tcp(listener) => listener.local_addr()?.to_string(),
            Door::Unix(_, path) => format!("unix:{path}"),
        })
    }

    /// The next connection.
    pub fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Door::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Door::Unix(listener, _) => Stream::Unix(listener.accept()?.0),
        })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Door::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A connected pair of sockets of this host, for peers that bring their own.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = UnixStream::pair()?;
    Ok((one.into(), other.into()))
}

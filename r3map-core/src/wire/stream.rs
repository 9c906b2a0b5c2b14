//! Connected sockets as the runtime takes them, encrypted where they are.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::error::{Code, Error};
use crate::tls::secure::Secure;
use crate::wire::channel::Channel;
use crate::wire::socket;

/// A connected stream socket.
pub enum Stream {
    /// Of TCP.
    Tcp(TcpStream),
    /// Of this host.
    Unix(UnixStream),
    /// Of TCP, by TLS.
    Secured(Secured),
}

impl Stream {
    /// Hands a connected socket to the runtime; to be called inside it.
    pub fn new(socket: OwnedFd) -> io::Result<Stream> {
        socket::prepare(&socket);
        let own = getsockname::<SockaddrStorage>(socket.as_raw_fd())?;
        if own.family() == Some(AddressFamily::Unix) {
            let stream = std::os::unix::net::UnixStream::from(socket);
            stream.set_nonblocking(true)?;
            return UnixStream::from_std(stream).map(Stream::Unix);
        }
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream).map(Stream::Tcp)
    }

    /// The same with the socket of a channel, which receives nothing itself from here on. Where it is encrypted already,
    /// so is this.
    pub fn of(channel: &Arc<Channel>) -> io::Result<Stream> {
        match Stream::new(channel.socket().try_clone()?)? {
            Stream::Tcp(socket) if channel.secure().is_some() => {
                Ok(Stream::Secured(Secured { channel: channel.clone(), socket, refusal: Refusal::default() }))
            }
            // TLS is for TCP.
            plain => Ok(plain),
        }
    }

    /// Where it says why the other side would not have this one, if that comes to be.
    pub fn refusal(&self) -> Refusal {
        match self {
            Stream::Secured(secured) => secured.refusal.clone(),
            _ => Refusal::default(),
        }
    }
}

/// Why the other side of a connection would not have this one: the last word of TLS 1.3 comes after hands are shaken.
pub type Refusal = Arc<OnceLock<Error>>;

/// The socket of a channel, as its encryption sees it.
pub struct Secured {
    channel: Arc<Channel>,
    /// The same socket, for the runtime to wait for.
    socket: TcpStream,
    refusal: Refusal,
}

impl Secured {
    fn secure(&self) -> io::Result<&Secure> {
        self.channel.secure().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }

    fn poll_receive(&self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let secure = self.secure()?;
        let mut receive = || {
            let mut pieces = [IoSliceMut::new(into.initialize_unfilled())];
            match secure.receive(self.channel.socket(), &mut pieces) {
                Ok(Some(count)) => {
                    into.advance(count);
                    Ok(())
                }
                Ok(None) => Err(io::Error::from(io::ErrorKind::WouldBlock)),
                Err(error) => {
                    if error.code() == Code::NotAuthenticated {
                        let _ = self.refusal.set(error.clone());
                    }
                    Err(io::Error::other(error))
                }
            }
        };
        // First what was decrypted already, of which the socket says nothing.
        let mut outcome = receive();
        while would_block(&outcome) {
            ready!(self.socket.poll_read_ready(context))?;
            outcome = self.socket.try_io(Interest::READABLE, &mut receive);
        }
        Poll::Ready(outcome)
    }

    /// Does what may have to wait for room in the socket.
    fn poll_room<T>(
        &self,
        context: &mut Context<'_>,
        mut act: impl FnMut(&Secure) -> nix::Result<T>,
    ) -> Poll<io::Result<T>> {
        let secure = self.secure()?;
        let mut act = || act(secure).map_err(io::Error::from);
        let mut outcome = act();
        while would_block(&outcome) {
            ready!(self.socket.poll_write_ready(context))?;
            outcome = self.socket.try_io(Interest::WRITABLE, &mut act);
        }
        Poll::Ready(outcome)
    }

    fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_room(context, |secure| secure.push(self.channel.socket()))
    }

    fn poll_end(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(context))?;
        self.secure()?.say_goodbye(self.channel.socket());
        socket::shutdown(self.channel.socket(), std::net::Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

fn would_block<T>(outcome: &io::Result<T>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Secured(stream) => stream.poll_receive(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Secured(stream) => {
                stream.poll_room(context, |secure| secure.send(stream.channel.socket(), &[IoSlice::new(bytes)]))
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Stream::Secured(stream) => stream.poll_room(context, |secure| secure.send(stream.channel.socket(), pieces)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Secured(stream) => stream.poll_flush(context),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Secured(stream) => stream.poll_end(context),
        }
    }
}

//! The encryption of one connection, whichever thread sends or receives.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, sendmsg};
use rustls::Connection;
use rustls::pki_types::CertificateDer;

use super::trouble;
use crate::error::{Code, Error, Result};
use crate::wire::channel::Channel;

/// How much is taken from the socket at once.
const ARRIVES: usize = 64 << 10;
/// How much is encrypted before it goes out: it is still in the processor's cache then.
const TOGETHER: usize = 64 << 10;

/// The encryption of a connection. Sending and receiving hold its lock while they encrypt or decrypt, and never while
/// they wait.
pub(crate) struct Secure {
    state: Mutex<State>,
    /// Whether encrypted bytes wait to go out, as of the end of the last call.
    owes: AtomicBool,
    /// What the other side is, for messages.
    peer: &'static str,
}

struct State {
    connection: Connection,
    /// What came from the socket and was not decrypted.
    arrived: Box<[u8]>,
    start: usize,
    end: usize,
    /// The first bytes that came, to tell what speaks no TLS.
    first: [u8; 8],
    /// Whether the socket's end was seen.
    ended: bool,
}

impl Secure {
    /// Encryption that has not begun.
    pub(super) fn new(mut connection: Connection, peer: &'static str) -> Secure {
        connection.set_buffer_limit(Some(TOGETHER));
        let arrived = vec![0; ARRIVES].into_boxed_slice();
        let state = State { connection, arrived, start: 0, end: 0, first: [0; 8], ended: false };
        Secure { state: Mutex::new(state), owes: AtomicBool::new(false), peer }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether encrypted bytes wait to go out.
    pub fn owes(&self) -> bool {
        self.owes.load(Ordering::SeqCst)
    }

    fn flush(&self, state: &mut State, socket: &OwnedFd) -> nix::Result<()> {
        let outcome = state.flush(socket);
        self.owes.store(state.connection.wants_write(), Ordering::SeqCst);
        outcome
    }

    /// Sends what waits, for as long as the socket takes it.
    pub fn push(&self, socket: &OwnedFd) -> nix::Result<()> {
        self.flush(&mut self.state(), socket)
    }

    /// Encrypts some of these bytes and sends what the socket takes; says how many were taken. None are while earlier
    /// ones wait.
    pub fn send(&self, socket: &OwnedFd, pieces: &[IoSlice<'_>]) -> nix::Result<usize> {
        let mut state = self.state();
        self.flush(&mut state, socket)?;
        let count = state.connection.writer().write_vectored(pieces).map_err(|_| Errno::EIO)?;
        match self.flush(&mut state, socket) {
            Ok(()) | Err(Errno::EAGAIN) => Ok(count),
            Err(errno) => Err(errno),
        }
    }

    /// Fills these pieces with what came, without waiting: `None` if nothing did, 0 at the end.
    pub fn receive(&self, socket: &OwnedFd, pieces: &mut [IoSliceMut<'_>]) -> Result<Option<usize>> {
        let mut state = self.state();
        let mut total = 0;
        for piece in pieces {
            let mut filled = 0;
            while filled < piece.len() {
                match state.connection.reader().read(&mut piece[filled..]) {
                    Ok(0) => return Ok(Some(total)),
                    Ok(count) => {
                        filled += count;
                        total += count;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // What the socket has is taken in one call or two, so that others get the lock between.
                        if state.start == state.end && total > 0 {
                            return Ok(Some(total));
                        }
                        if !self.advance(&mut state, socket)? {
                            return Ok((total > 0).then_some(total));
                        }
                    }
                    // Cut off without a goodbye: what a frame lacks is missed by whoever reads it.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(total)),
                    Err(error) => return Err(Error::io("receive", error)),
                }
            }
        }
        Ok(Some(total))
    }

    /// Takes some bytes from the socket and decrypts them; `false` if there are none now.
    fn advance(&self, state: &mut State, socket: &OwnedFd) -> Result<bool> {
        if !state.fill(socket)? {
            return Ok(false);
        }
        let processed = state.decrypt();
        // An alert or a change of keys may have to go out; who cannot is found out by the next to send.
        let _ = self.flush(state, socket);
        processed.map_err(|error| self.explain(state, &error))?;
        Ok(true)
    }

    fn explain(&self, state: &State, error: &rustls::Error) -> Error {
        if matches!(error, rustls::Error::InvalidMessage(_)) && state.first.starts_with(&crate::wire::MAGIC) {
            let message = "the server speaks no TLS: it serves r3map://, or has to be given certificates";
            return Error::new(Code::NotAuthenticated, message);
        }
        trouble(error, self.peer)
    }

    /// Agrees on keys with the other side and makes sure who it is, before `deadline`.
    pub fn shake_hands(&self, channel: &Channel, deadline: Instant) -> Result<()> {
        loop {
            {
                let mut state = self.state();
                match self.flush(&mut state, channel.socket()) {
                    Ok(()) | Err(Errno::EAGAIN) => {}
                    Err(errno) => return Err(Error::io("send", errno.into())),
                }
                if !state.connection.is_handshaking() {
                    return Ok(());
                }
                if self.advance(&mut state, channel.socket())? {
                    continue;
                }
                if state.ended {
                    let message = format!("the {} closed the connection while TLS began", self.peer);
                    return Err(Error::new(Code::Disconnected, message));
                }
            }
            channel.wait(true, Some(deadline)).map_err(|error| error.context("agree on TLS"))?;
            if channel.is_stopped() {
                return Err(Error::new(Code::Closed, "the connection is closing"));
            }
        }
    }

    /// Says that no more will be sent.
    pub fn say_goodbye(&self, socket: &OwnedFd) {
        let mut state = self.state();
        state.connection.send_close_notify();
        // A peer that takes no more needs no goodbye.
        let _ = self.flush(&mut state, socket);
    }

    /// The certificate that the other side showed and was accepted by.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        let state = self.state();
        state.connection.peer_certificates()?.first().map(|certificate| certificate.clone().into_owned())
    }
}

impl State {
    fn flush(&mut self, socket: &OwnedFd) -> nix::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Wire(socket)) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    errno => return Err(errno.unwrap_or(Errno::EIO)),
                },
            }
        }
        Ok(())
    }

    /// Makes sure that something is there to be decrypted, or the end; `false` if nothing came.
    fn fill(&mut self, socket: &OwnedFd) -> Result<bool> {
        while self.start == self.end && !self.ended {
            match recv(socket.as_raw_fd(), &mut self.arrived, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    if self.first == [0; 8] {
                        let length = count.min(8);
                        self.first[..length].copy_from_slice(&self.arrived[..length]);
                    }
                    (self.start, self.end) = (0, count);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(errno) => return Err(Error::io("receive", errno.into())),
            }
        }
        // The end is told once: while hands are shaken nothing follows it.
        Ok(self.start < self.end || !self.connection.is_handshaking())
    }

    /// Decrypts a record or so of what arrived.
    fn decrypt(&mut self) -> std::result::Result<(), rustls::Error> {
        let mut rest = &self.arrived[self.start..self.end];
        let before = rest.len();
        self.connection.read_tls(&mut rest).map_err(|error| rustls::Error::General(error.to_string()))?;
        self.start += before - rest.len();
        self.connection.process_new_packets().map(drop)
    }
}

/// The socket as rustls writes to it.
struct Wire<'a>(&'a OwnedFd);

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(sendmsg::<()>(self.0.as_raw_fd(), pieces, &[], flags, None)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! The sending side of a connection, and the one place where its thread waits.
//!
//! Any thread sends, at once if the socket takes it. What it does not take is queued, and the thread that
//! receives brings it out while it waits; so nobody who sends is ever held up by a slow peer.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{MsgFlags, recvmsg, sendmsg};

use crate::buffer::Buffer;
use crate::cancel::deadline_in;
use crate::error::{Code, Error, Result};
use crate::stats::Traffic;
use crate::tls::secure::Secure;
use crate::wire::{HEADER_LENGTH, Header, socket};

/// How many frames go out in one call.
const TOGETHER: usize = 16;
/// How much of a file that the kernel cannot send goes through memory at once.
const BEHIND: usize = 256 << 10;

/// The bytes behind a header.
pub enum Payload {
    /// None.
    Empty,
    /// Bytes that nobody needs afterwards.
    Owned(Buffer),
    /// Bytes that may have to be sent again.
    Shared(Arc<Buffer>),
    /// Some of the bytes that several frames have parts of.
    Part(Arc<Buffer>, Range<usize>),
    /// A range of a file, which goes from the kernel's memory to the socket's.
    File(Arc<File>, Range<u64>),
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        match self {
            Payload::Empty | Payload::File(..) => &[],
            Payload::Owned(buffer) => buffer,
            Payload::Shared(buffer) => buffer,
            Payload::Part(buffer, range) => &buffer[range.clone()],
        }
    }

    fn length(&self) -> usize {
        match self {
            Payload::File(_, range) => (range.end - range.start) as usize,
            other => other.bytes().len(),
        }
    }
}

/// A frame ready to be sent.
pub struct Packet {
    header: [u8; HEADER_LENGTH],
    /// How much of `header` there is.
    length: usize,
    payload: Payload,
}

impl Packet {
    /// The frame of this header and payload, of which the header gets length and checksum.
    pub fn new(header: Header, payload: Payload) -> Packet {
        Packet::ready(header.with_payload(payload.bytes()), payload)
    }

    /// The frame of a header that knows its payload already.
    pub fn ready(header: Header, payload: Payload) -> Packet {
        Packet { header: header.encode(), length: HEADER_LENGTH, payload }
    }

    /// The message of another protocol, which begins with these bytes: no more than our own header has.
    pub fn raw(head: &[u8], payload: Payload) -> Packet {
        let mut header = [0; HEADER_LENGTH];
        header[..head.len()].copy_from_slice(head);
        Packet { header, length: head.len(), payload }
    }

    /// A frame without payload.
    pub fn bare(header: Header) -> Packet {
        Packet::ready(header, Payload::Empty)
    }

    fn length(&self) -> usize {
        self.length + self.payload.length()
    }

    /// What is left to send from memory once `sent` bytes are out.
    fn rest(&self, sent: usize) -> [&[u8]; 2] {
        let payload = self.payload.bytes();
        let from = sent.saturating_sub(self.length).min(payload.len());
        [&self.header[sent.min(self.length)..self.length], &payload[from..]]
    }
}

struct Outgoing {
    queue: VecDeque<Packet>,
    /// How much of the first packet is out.
    sent: usize,
    /// When the first packet became the first.
    since: Instant,
    /// Whether all are queued, since more will follow at once.
    corked: bool,
}

impl Outgoing {
    /// So many bytes more are out.
    fn advance(&mut self, count: usize) {
        self.sent += count;
        while let Some(first) = self.queue.front().filter(|first| self.sent >= first.length()) {
            self.sent -= first.length();
            self.queue.pop_front();
            self.since = Instant::now();
        }
    }
}

/// A connected socket.
pub struct Channel {
    socket: OwnedFd,
    /// What encrypts it, once that has begun.
    secure: OnceLock<Secure>,
    wake: EventFd,
    outgoing: Mutex<Outgoing>,
    stopped: AtomicBool,
    /// How long the peer may take to receive one frame; zero is for ever.
    patience: Duration,
    /// Which features both sides use, for those who send by it.
    features: AtomicU64,
    /// What counts how much goes over it.
    traffic: OnceLock<Arc<Traffic>>,
    /// Whether the peer is on another host.
    is_far: OnceLock<bool>,
}

impl Channel {
    /// Takes over a connected stream socket.
    pub fn new(socket: OwnedFd, patience: Duration) -> Result<Channel> {
        socket::prepare(&socket);
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::io("make an event descriptor", errno.into()))?;
        let outgoing = Mutex::new(Outgoing { queue: VecDeque::new(), sent: 0, since: Instant::now(), corked: false });
        Ok(Channel {
            socket,
            secure: OnceLock::new(),
            wake,
            outgoing,
            stopped: AtomicBool::new(false),
            patience,
            features: AtomicU64::new(0),
            traffic: OnceLock::new(),
            is_far: OnceLock::new(),
        })
    }

    /// Both sides use these features from here on.
    pub fn agree(&self, features: u64) {
        self.features.store(features, Ordering::Relaxed);
    }

    /// Which features both sides use.
    pub fn features(&self) -> u64 {
        self.features.load(Ordering::Relaxed)
    }

    /// Counts what goes and comes from here on.
    pub fn count_into(&self, traffic: &Arc<Traffic>) {
        // It is counted already where it was set.
        let _ = self.traffic.set(traffic.clone());
    }

    /// So many bytes came.
    pub(super) fn received(&self, count: usize) {
        if let Some(traffic) = self.traffic.get() {
            traffic.received.add(count as u64);
        }
    }

    /// How many bytes a second the network takes, as [`socket::rate`] says; `None` within a host.
    pub fn rate(&self) -> Option<u64> {
        self.is_far.get_or_init(|| socket::is_far(&self.socket)).then(|| socket::rate(&self.socket)).flatten()
    }

    /// Lets files be sent: a socket that is full then takes nothing more, rather than that a thread waits for it.
    /// Not where bytes have to be encrypted.
    pub fn send_files(&self) -> Result<()> {
        if self.secure().is_some() {
            return Err(Error::new(Code::Unsupported, "a file goes through memory to be encrypted"));
        }
        let flags = fcntl(&self.socket, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        let set = flags.and_then(|flags| fcntl(&self.socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)));
        set.map(drop).map_err(|errno| Error::io("make a socket non-blocking", errno.into()))
    }

    /// The socket itself, to ask the kernel about it.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Encrypts all that goes and comes from here on.
    #[cfg(feature = "tls")]
    pub(crate) fn encrypt(&self, secure: Secure) -> Result<&Secure> {
        if self.is_backed_up() || self.secure.set(secure).is_err() {
            return Err(Error::new(Code::Internal, "encryption begins in the middle of a connection"));
        }
        self.secure().ok_or_else(|| Error::new(Code::Internal, "encryption is gone"))
    }

    /// What encrypts it, if anything does.
    pub(crate) fn secure(&self) -> Option<&Secure> {
        self.secure.get()
    }

    /// Takes what has arrived into these pieces, without waiting: `None` if nothing has, 0 at the end of the stream.
    pub(super) fn receive(&self, pieces: &mut [IoSliceMut<'_>]) -> Result<Option<usize>> {
        let count = self.receive_now(pieces)?;
        self.received(count.unwrap_or(0));
        Ok(count)
    }

    fn receive_now(&self, pieces: &mut [IoSliceMut<'_>]) -> Result<Option<usize>> {
        if let Some(secure) = self.secure() {
            return secure.receive(&self.socket, pieces);
        }
        loop {
            let got = recvmsg::<()>(self.socket.as_raw_fd(), pieces, None, MsgFlags::MSG_DONTWAIT);
            match got.map(|message| message.bytes) {
                Ok(count) => return Ok(Some(count)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(Error::io("receive", errno.into())),
            }
        }
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sends a frame, or queues what the socket does not take now. An error means the connection is over.
    pub fn send(&self, packet: Packet) -> Result<()> {
        let mut outgoing = self.outgoing();
        let idle = outgoing.queue.is_empty();
        if idle {
            outgoing.since = Instant::now();
        }
        outgoing.queue.push_back(packet);
        if !idle || outgoing.corked {
            return Ok(());
        }
        self.push(&mut outgoing)?;
        if self.has_more(&outgoing) {
            self.wake();
        }
        Ok(())
    }

    /// Queues all frames from here on: the thread that receives is about to make more of them, and sends them
    /// together when it [uncorks](Channel::uncork) or waits.
    pub fn cork(&self) {
        self.outgoing().corked = true;
    }

    /// Sends what was queued since [`cork`](Channel::cork).
    pub fn uncork(&self) -> Result<()> {
        let mut outgoing = self.outgoing();
        if !outgoing.corked {
            return Ok(());
        }
        outgoing.corked = false;
        self.push(&mut outgoing)
    }

    /// Whether frames wait to go out.
    pub fn is_backed_up(&self) -> bool {
        self.has_more(&self.outgoing())
    }

    /// Whether anything of what was sent is still here.
    fn has_more(&self, outgoing: &Outgoing) -> bool {
        !outgoing.queue.is_empty() || self.secure().is_some_and(Secure::owes)
    }

    /// Whether frames wait to go out that the socket does not take, or as many as go together.
    pub fn is_stuck(&self) -> bool {
        let outgoing = self.outgoing();
        let most = if outgoing.corked { TOGETHER } else { 1 };
        outgoing.queue.len() >= most
    }

    /// Sends queued frames for as long as the socket takes them, short ones together.
    fn push(&self, outgoing: &mut Outgoing) -> Result<()> {
        while let Some(first) = outgoing.queue.front() {
            let count = match &first.payload {
                Payload::File(file, range) if outgoing.sent >= first.length => {
                    let done = (outgoing.sent - first.length) as u64;
                    send_file(&self.socket, file, range.start + done..range.end)
                }
                _ => self.send_together(outgoing),
            };
            match count {
                Ok(count) => {
                    if let Some(traffic) = self.traffic.get() {
                        traffic.sent.add(count as u64);
                    }
                    outgoing.advance(count);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(self.broken(errno)),
            }
        }
        match self.secure().filter(|secure| secure.owes()).map(|secure| secure.push(&self.socket)) {
            None | Some(Ok(()) | Err(Errno::EAGAIN)) => Ok(()),
            Some(Err(errno)) => Err(self.broken(errno)),
        }
    }

    /// The error of a send that failed. Half a frame may be out: nothing sensible can follow it.
    fn broken(&self, errno: Errno) -> Error {
        self.shutdown();
        Error::io("send", errno.into())
    }

    /// Sends what lies in memory of the first frames, as far as a file.
    fn send_together(&self, outgoing: &Outgoing) -> nix::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); 2 * TOGETHER];
        let (mut sent, mut count, mut flags) = (outgoing.sent, 0, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        for packet in outgoing.queue.iter().take(TOGETHER) {
            for piece in packet.rest(sent) {
                pieces[count] = IoSlice::new(piece);
                count += 1;
            }
            sent = 0;
            if matches!(packet.payload, Payload::File(..)) {
                flags |= MsgFlags::from_bits_retain(libc::MSG_MORE);
                break;
            }
        }
        match self.secure() {
            Some(secure) => secure.send(&self.socket, &pieces[..count]),
            None => sendmsg::<()>(self.socket.as_raw_fd(), &pieces[..count], &[], flags, None),
        }
    }

    /// Waits until something may have changed: input where it is wanted, room for queued frames (which then
    /// go out), or a [`wake`](Channel::wake). Fails when `deadline` passes or the connection is over.
    pub fn wait(&self, input: bool, deadline: Option<Instant>) -> Result<()> {
        self.uncork()?;
        let late = {
            let outgoing = self.outgoing();
            // What somebody else encrypts through here has no time of its own.
            let since = if outgoing.queue.is_empty() { Instant::now() } else { outgoing.since };
            self.has_more(&outgoing).then_some(since)
        };
        let stuck = late.and_then(|since| match self.patience {
            Duration::ZERO => None,
            patience => since.checked_add(patience),
        });
        let until = match (deadline, stuck) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, input);
        events.set(PollFlags::POLLOUT, late.is_some());
        let mut watched = [PollFd::new(self.socket.as_fd(), events), PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        let ready = match poll(&mut watched, timeout_until(until)) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Error::io("wait for a socket", errno.into())),
        };
        if ready == 0 {
            let now = Instant::now();
            return match until {
                Some(until) if now >= until => Err(Error::new(
                    Code::Timeout,
                    if Some(until) == stuck { "the peer does not receive" } else { "the peer went silent" },
                )),
                _ => Ok(()),
            };
        }
        if watched[1].any() == Some(true) {
            // Read to reset it; whoever waits looks at what changed.
            let _ = self.wake.read();
        }
        let seen = watched[0].revents().unwrap_or(PollFlags::empty());
        if seen.contains(PollFlags::POLLOUT) {
            self.push(&mut self.outgoing())?;
        } else if !input && seen.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
            return Err(Error::new(Code::Disconnected, "the peer is gone"));
        }
        Ok(())
    }

    /// Makes a thread in [`wait`](Channel::wait) look again.
    pub fn wake(&self) {
        // It can only fail when it is full of wake-ups already.
        let _ = self.wake.write(1);
    }

    /// Takes no more frames in; what is under way goes on.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether no more frames are taken in.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Ends the connection at once: nothing more is taken in, nothing more goes out.
    pub fn shutdown(&self) {
        self.stop();
        socket::shutdown(&self.socket, Shutdown::Both);
    }

    /// Brings queued frames out, says that no more come, and waits for the peer to end its side: closing a
    /// socket with bytes unread would take the last frames back from the peer.
    pub fn linger(&self, time: Duration) {
        let deadline = deadline_in(time);
        // If it fails there is nobody to tell.
        let _ = self.uncork();
        while self.is_backed_up() && self.wait(false, deadline).is_ok() {}
        if let Some(secure) = self.secure() {
            secure.say_goodbye(&self.socket);
        }
        socket::shutdown(&self.socket, Shutdown::Write);
        let mut unwanted = [0; 4096];
        loop {
            match nix::sys::socket::recv(self.socket.as_raw_fd(), &mut unwanted, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return,
                Ok(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if self.wait(true, deadline).is_ok() => {}
                Err(_) => return,
            }
        }
    }
}

/// Sends some of a range of a file, on a thread of the library: a peer that is gone raises SIGPIPE, which those block.
/// What the kernel cannot send so goes through memory.
fn send_file(socket: &OwnedFd, file: &File, range: Range<u64>) -> nix::Result<usize> {
    let length = (range.end - range.start) as usize;
    let mut at = range.start as i64;
    let sent = match sendfile64(socket, file, Some(&mut at), length) {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            let mut piece = Buffer::new(length.min(BEHIND));
            let count = file
                .read_at(&mut piece, range.start)
                .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            if count == 0 {
                Ok(0)
            } else {
                sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&piece[..count])], &[], flags, None)
            }
        }
        sent => sent,
    };
    // The file was cut short after its frame was promised.
    if sent == Ok(0) { Err(Errno::EIO) } else { sent }
}

/// The time until then as poll takes it, rounded up so that nobody spins through the last millisecond.
pub(super) fn timeout_until(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else { return PollTimeout::NONE };
    let left = until.saturating_duration_since(Instant::now());
    let milliseconds = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

/// The error of a peer that closed its end.
pub(super) fn ended() -> Error {
    Error::io("receive", io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed inside a frame"))
}

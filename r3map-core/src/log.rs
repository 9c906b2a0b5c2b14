//! The library's log: lines `LEVEL target: message key=value` to a descriptor. Off until one is given.
//!
//! A thread that serves a region logs too, so a line must neither wait nor allocate: it is put together on
//! the stack, and dropped where its reader is too slow to take it. How many were dropped is said before the
//! next line that gets through.

use std::fmt::{self, Write};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::str::FromStr;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use crate::error::{Code, Error, Result};
use crate::url::nearest;

/// What a log holds: lines of this level and of all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Nothing.
    Off = 0,
    /// What was lost, or will not work again by itself.
    Error = 1,
    /// What went wrong and was or may be repaired.
    Warn = 2,
    /// What was opened, attached, connected and closed.
    Info = 3,
    /// How that was decided.
    Debug = 4,
    /// Every step.
    Trace = 5,
}

impl Level {
    /// All levels in the order of their numbers.
    pub const ALL: [Level; 6] = [Level::Off, Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

    /// The level of that number, as it comes over the C ABI.
    pub fn from_number(number: u32) -> Option<Level> {
        Level::ALL.get(number as usize).copied()
    }

    /// The name an option takes.
    pub fn name(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Level::Off => LevelFilter::OFF,
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }
}

impl FromStr for Level {
    type Err = Error;
    fn from_str(value: &str) -> Result<Level> {
        Level::ALL.into_iter().find(|level| level.name() == value).ok_or_else(|| {
            let names = Level::ALL.map(Level::name);
            Error::new(Code::InvalidArgument, format!("unknown log level {value:?}{}", nearest(value, &names, "")))
        })
    }
}

/// The longest line, its end included. No more than what a pipe takes whole or not at all.
const LONGEST: usize = 4096;

static LEVEL: AtomicU8 = AtomicU8::new(Level::Off as u8);
static DROPPED: AtomicU64 = AtomicU64::new(0);
// Only `to` writes; a line that meets it is dropped rather than kept waiting, so that a child forked in that
// moment does not wait for ever.
static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// Writes the log to a descriptor from now on, instead of where it went before; the descriptor stays the
/// caller's, who may close it. `Level::Off` ends the log.
///
/// Fails with `busy` where the program has a `tracing` subscriber of its own: that one gets the lines.
pub fn to(descriptor: BorrowedFd<'_>, level: Level) -> Result<()> {
    if level == Level::Off {
        off();
        return Ok(());
    }
    let sink = Sink::new(descriptor)?;
    let mut installed = SINK.write().unwrap_or_else(|e| e.into_inner());
    if !tracing::dispatcher::has_been_set() {
        // Two that race here are told apart by the error, which the loser finds to be about our own.
        let _ = tracing::subscriber::set_global_default(Log);
    }
    if !tracing::dispatcher::get_default(|current| current.is::<Log>()) {
        let message = "the log goes to the tracing subscriber that this program has installed";
        return Err(Error::new(Code::Busy, message).with_retryable(false));
    }
    *installed = Some(sink);
    drop(installed);
    LEVEL.store(level as u8, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// Ends the log and lets go of its descriptor.
pub fn off() {
    LEVEL.store(Level::Off as u8, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
    *SINK.write().unwrap_or_else(|e| e.into_inner()) = None;
}

fn level() -> Level {
    Level::from_number(LEVEL.load(Ordering::Relaxed).into()).unwrap_or(Level::Off)
}

/// Takes the library's events and nobody else's.
struct Log;

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(level().filter())
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("r3map") && *metadata.level() <= level().filter()
    }

    fn event(&self, event: &Event<'_>) {
        let Ok(sink) = SINK.try_read() else {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let Some(sink) = &*sink else { return };
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let mut line = Line::new();
            let _ = write!(line, "WARN r3map::log: lines were dropped because nobody read them count={dropped}");
            if sink.write(line.end()).is_err() {
                DROPPED.fetch_add(dropped, Ordering::Relaxed);
            }
        }
        let mut line = Line::new();
        line.event(event);
        if sink.write(line.end()).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}
    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}
    fn enter(&self, _span: &span::Id) {}
    fn exit(&self, _span: &span::Id) {}
}

/// One line, put together in place. What is too long for it is cut.
struct Line {
    bytes: [u8; LONGEST],
    length: usize,
    /// Whether control characters are written as escapes, so that nobody's text can pass for a line of ours.
    escape: bool,
}

impl Line {
    fn new() -> Line {
        Line { bytes: [0; LONGEST], length: 0, escape: false }
    }

    fn event(&mut self, event: &Event<'_>) {
        let metadata = event.metadata();
        // The library's parts go by the library's name, not by that of the crate they happen to be in.
        let target = metadata.target();
        let part = target.strip_prefix("r3map_core").unwrap_or(target);
        let library = if part.len() == target.len() { "" } else { "r3map" };
        let _ = write!(self, "{} {library}{part}:", metadata.level());
        self.escape = true;
        event.record(&mut Message(self));
        event.record(&mut Fields(self));
    }

    fn end(&mut self) -> &[u8] {
        self.bytes[self.length] = b'\n';
        &self.bytes[..self.length + 1]
    }

    fn push(&mut self, text: &str) {
        let room = LONGEST - 1 - self.length;
        let mut taken = text.len().min(room);
        while !text.is_char_boundary(taken) {
            taken -= 1;
        }
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !self.escape || !text.contains(char::is_control) {
            self.push(text);
            return Ok(());
        }
        for character in text.chars() {
            if character.is_control() {
                for escaped in character.escape_default() {
                    self.push(escaped.encode_utf8(&mut [0; 4]));
                }
            } else {
                self.push(character.encode_utf8(&mut [0; 4]));
            }
        }
        Ok(())
    }
}

/// Writes an event's message.
struct Message<'a>(&'a mut Line);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, " {value:?}");
        }
    }
}

/// Writes all but the message, each as ` key=value`; a value that is not one word stands in quotes.
struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            return;
        }
        let _ = write!(self.0, " {}=", field.name());
        let mut word = OneWord { some: false, only: true };
        let _ = write!(word, "{value:?}");
        if word.some && word.only {
            let _ = write!(self.0, "{value:?}");
        } else {
            self.0.push("\"");
            let _ = write!(Quoted(self.0), "{value:?}");
            self.0.push("\"");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Finds out, without keeping it, whether a value is one word.
struct OneWord {
    some: bool,
    only: bool,
}

impl Write for OneWord {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.some |= !text.is_empty();
        self.only &= !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '=');
        Ok(())
    }
}

/// Escapes quotes and backslashes on the way to a line.
struct Quoted<'a>(&'a mut Line);

impl Write for Quoted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(['"', '\\']) {
            let (plain, last) = match piece.char_indices().next_back() {
                Some((at, last @ ('"' | '\\'))) => (&piece[..at], Some(last)),
                _ => (piece, None),
            };
            self.0.write_str(plain)?;
            if let Some(last) = last {
                self.0.push("\\");
                self.0.push(last.encode_utf8(&mut [0; 4]));
            }
        }
        Ok(())
    }
}

/// Where lines go.
struct Sink {
    descriptor: OwnedFd,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file: a write may take its time but has no reader to wait for.
    File,
    Socket,
    /// A pipe or terminal, opened anew without blocking: the flag is not seen by others who hold it.
    Apart,
    /// A pipe or terminal that could not be opened anew.
    Shared,
}

impl Sink {
    fn new(descriptor: BorrowedFd<'_>) -> Result<Sink> {
        let wrong = |error| Error::io("log to this descriptor", error);
        let own = descriptor.try_clone_to_owned().map_err(wrong)?;
        let file = std::fs::File::from(own);
        let kind = file.metadata().map_err(wrong)?.file_type();
        let descriptor = OwnedFd::from(file);
        if kind.is_socket() {
            return Ok(Sink { descriptor, kind: Kind::Socket });
        }
        if !kind.is_fifo() && !kind.is_char_device() {
            return Ok(Sink { descriptor, kind: Kind::File });
        }
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
            Ok(apart) => Ok(Sink { descriptor: apart.into(), kind: Kind::Apart }),
            Err(_) => Ok(Sink { descriptor, kind: Kind::Shared }),
        }
    }

    /// Writes a line without waiting for a reader.
    fn write(&self, line: &[u8]) -> io::Result<()> {
        use std::os::fd::AsFd;
        if self.kind == Kind::Socket {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            return send(self.descriptor.as_raw_fd(), line, flags).map(drop).map_err(io::Error::from);
        }
        if self.kind == Kind::Shared {
            let mut wanted = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut wanted, PollTimeout::ZERO)? == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let _quiet = (self.kind != Kind::File).then(WithoutSigpipe::new);
        nix::unistd::write(&self.descriptor, line).map(drop).map_err(io::Error::from)
    }
}

/// While it lives a write to a pipe without a reader is an error to this thread and no signal to the program.
struct WithoutSigpipe {
    before: libc::sigset_t,
    was_pending: bool,
}

fn sigpipe() -> libc::sigset_t {
    // SAFETY: plain calls on a set that lives here; sigset_t is a C structure of integers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGPIPE);
        set
    }
}

impl WithoutSigpipe {
    fn new() -> WithoutSigpipe {
        // SAFETY: as above.
        unsafe {
            let mut pending: libc::sigset_t = std::mem::zeroed();
            libc::sigpending(&mut pending);
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, &sigpipe(), &mut before);
            WithoutSigpipe { before, was_pending: libc::sigismember(&pending, libc::SIGPIPE) == 1 }
        }
    }
}

impl Drop for WithoutSigpipe {
    fn drop(&mut self) {
        // SAFETY: as above; a timeout of zero only takes a signal that is there.
        unsafe {
            if !self.was_pending {
                let now: libc::timespec = std::mem::zeroed();
                libc::sigtimedwait(&sigpipe(), std::ptr::null_mut(), &now);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::sync::Mutex;

    // One log a process: the tests that change it take turns.
    static TURN: Mutex<()> = Mutex::new(());

    /// Logs into a pipe while `body` runs, and reads what came out.
    fn logged(level: Level, body: impl FnOnce(&mut File)) -> String {
        let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut reader = File::from(reader);
        to(writer.as_fd(), level).unwrap();
        drop(writer);
        body(&mut reader);
        off();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        // Other tests of this process may log meanwhile.
        text.lines().filter(|line| line.contains("log::tests") || line.contains("r3map::log:")).fold(
            String::new(),
            |mut kept, line| {
                kept.push_str(line);
                kept.push('\n');
                kept
            },
        )
    }

    #[test]
    fn a_line_is_level_target_message_and_fields_and_holds_no_line_break() {
        let text = logged(Level::Info, |_| {
            tracing::info!(device = "nbd", count = 3, reason = "a \"b\"\nc", empty = "", "attached\nnow");
            tracing::debug!("below the level");
        });
        let expected = "INFO r3map::log::tests: attached\\nnow device=nbd count=3 \
                        reason=\"a \\\"b\\\"\\nc\" empty=\"\"\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_long_line_is_cut_and_still_ends() {
        let text = logged(Level::Info, |_| tracing::info!("{}", "ä".repeat(LONGEST)));
        assert!(text.len() <= LONGEST && text.ends_with("ä\n"), "{}", text.len());
    }

    #[test]
    fn lines_to_a_full_pipe_are_dropped_and_counted() {
        let text = logged(Level::Error, |reader| {
            let line = "x".repeat(4000);
            for _ in 0..100 {
                tracing::error!("{line}");
            }
            let mut some = vec![0; 32 << 10];
            reader.read_exact(&mut some).unwrap();
            tracing::error!("after");
        });
        assert!(text.contains("lines were dropped because nobody read them count="), "{text}");
        assert!(text.ends_with("ERROR r3map::log::tests: after\n"), "{text}");
    }

    #[test]
    fn a_pipe_without_a_reader_is_no_signal() {
        let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
        // Rust programs ignore SIGPIPE; a C program does not.
        // SAFETY: only the disposition of one signal changes, and is put back below.
        let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let (reader, writer) = nix::unistd::pipe().unwrap();
        to(writer.as_fd(), Level::Error).unwrap();
        drop(reader);
        tracing::error!("nobody listens");
        off();
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGPIPE, before) };
    }

    #[test]
    fn levels_are_known_by_number_and_name() {
        for level in Level::ALL {
            assert_eq!(Level::from_number(level as u32), Some(level));
            assert_eq!(level.name().parse::<Level>().unwrap(), level);
        }
        assert_eq!(Level::from_number(6), None);
        let error = "warning".parse::<Level>().unwrap_err();
        assert_eq!(error.message(), "unknown log level \"warning\"; did you mean \"warn\"?");
    }
}

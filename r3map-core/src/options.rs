//! Options of mounts and servers: the same names in every language, on the command line and here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::device::View;
use crate::error::{Code, Error, Result};
use crate::url::{nearest, parse_size};

/// Where accesses of a mount go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// By the scheme: `memory` and `file` direct, network backends managed, a backend of the user's own direct.
    #[default]
    Auto,
    /// Every access goes to the backend.
    Direct,
    /// Pages are kept here, pulled and pushed in the background.
    Managed,
}

/// How the kernel shows a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// For a slice userfaultfd, else nbd; for a path or file nbd, else fuse.
    #[default]
    Auto,
    /// A kernel NBD device: any free one, or that one.
    Nbd(Option<PathBuf>),
    /// Page faults served in this process.
    Userfaultfd,
    /// Page faults of user mode alone, which any user may serve; a `read(2)` into the slice fails.
    UserfaultfdUserMode,
    /// A regular file by FUSE.
    Fuse,
}

/// Whether the bytes of reads and writes travel packed between a client and a server of r3map's own protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Where the other side can too, the peer is on another host, and the network is slower than packing.
    #[default]
    Auto,
    /// Never.
    Off,
    /// By lz4, however fast the network is, wherever it makes them shorter.
    Lz4,
    /// The same by zstd.
    Zstd,
}

/// When pages of a managed mount are pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// All of them, in the background.
    #[default]
    Background,
    /// Only those that are asked for.
    Demand,
}

/// A range to pull first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Higher goes first.
    pub priority: i32,
}

/// Options of a mount. Open checks them against each other and the backend.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Direct or managed.
    pub mode: Mode,
    /// How the kernel shows it.
    pub device: DeviceChoice,
    /// Where a fuse path appears: mounted over this file, which is created if it is missing. A place of the
    /// device's own by default. Other devices have paths of their own and do not look at it.
    pub at: Option<PathBuf>,
    /// Refuse writes; a store to a slice is a SIGSEGV.
    pub read_only: bool,
    /// URL of a local store that keeps pulled pages: memory by default, or a file, which keeps what was written through
    /// a kill, and which the next mount of the same region goes on with.
    pub cache: Option<String>,
    /// Go on with a cache whose backend does not say whether it is the same region in the same version.
    pub cache_trust: bool,
    /// Of a leecher: the view that is attached before the region is here, so that attaching is no part of the pause.
    pub prepare: Option<View>,
    /// Of a leecher: take a local file though something else is in it, which is lost.
    pub overwrite: bool,
    /// Of a leecher: take the region also from a seeder of the Go library r3map, over gRPC, whose protocol knows neither
    /// sessions nor votes nor fencing: see docs/interop.md.
    pub allow_legacy: bool,
    /// Unit of transfer in bytes: a power of two, 4 KiB to 32 MiB; the backend's by default.
    pub chunk_size: Option<u32>,
    /// When pages are pulled.
    pub pull: Pull,
    /// What to pull first.
    pub pull_ranges: Vec<PullRange>,
    /// A file in which an earlier mount kept the order of its first accesses: pulled in that order, after what
    /// `pull_range` names and before all else; with `pull` as `demand` nothing else is pulled by itself.
    pub trace: Option<PathBuf>,
    /// Time between background pushes; zero pushes only at sync and close. One second by default.
    pub push_interval: Duration,
    /// Open from a cache in a file though the remote is away, if the backend is opened by URL.
    pub offline: bool,
    /// Read-ahead of the kernel on block devices and fuse, in bytes; by default the device's own choice,
    /// and 0 where `pull` is `demand`.
    pub read_ahead: Option<u64>,
    /// Bytes under way at once, instead of the adaptive window.
    pub max_in_flight: Option<u64>,
    /// Bound of each blocking operation; zero waits for ever. 30 seconds by default.
    pub deadline: Duration,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            mode: Mode::default(),
            device: DeviceChoice::default(),
            at: None,
            read_only: false,
            cache: None,
            cache_trust: false,
            prepare: None,
            overwrite: false,
            allow_legacy: false,
            chunk_size: None,
            pull: Pull::default(),
            pull_ranges: Vec::new(),
            trace: None,
            push_interval: Duration::from_secs(1),
            offline: false,
            read_ahead: None,
            max_in_flight: None,
            deadline: Duration::from_secs(30),
        }
    }
}

impl MountOptions {
    /// Direct or managed.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How the kernel shows it.
    pub fn device(mut self, device: DeviceChoice) -> Self {
        self.device = device;
        self
    }

    /// Where a fuse path appears.
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.at = Some(path.into());
        self
    }

    /// Refuse writes.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// URL of a local store that keeps pulled pages; a file is kept for the next mount.
    pub fn cache(mut self, url: impl Into<String>) -> Self {
        self.cache = Some(url.into());
        self
    }

    /// A file with the order in which to pull.
    pub fn trace(mut self, path: impl Into<PathBuf>) -> Self {
        self.trace = Some(path.into());
        self
    }

    /// Bound of each blocking operation; zero waits for ever.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// A secret, which stands in no message, log or debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"(secret)\"")
    }
}

/// How a server proves who it is by TLS, and by what it knows its clients: by certificates or by tokens. Where none of
/// it is given, one that listens beyond this host makes a certificate and a token for itself and keeps them.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Certificate of the server, a PEM file.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, a PEM file.
    pub tls_key: Option<PathBuf>,
    /// Authorities that may vouch for clients, a PEM file.
    pub tls_ca: Option<PathBuf>,
    /// A token by which a client is known, by the name of "client".
    pub token: Option<Secret>,
    /// More tokens: a file of lines `name:token`.
    pub token_file: Option<PathBuf>,
    /// Directory of what was made; `r3map` in the user's state directory by default.
    pub state: Option<PathBuf>,
}

impl Credentials {
    /// Every option's name, as [`set`](Credentials::set) takes it.
    pub const NAMES: &'static [&'static str] = &["tls_cert", "tls_key", "tls_ca", "token", "token_file", "state"];

    /// Sets an option by its name from text.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "tls_cert" => self.tls_cert = Some(value.into()),
            "tls_key" => self.tls_key = Some(value.into()),
            "tls_ca" => self.tls_ca = Some(value.into()),
            "token" => self.token = Some(value.into()),
            "token_file" => self.token_file = Some(value.into()),
            "state" => self.state = Some(value.into()),
            _ => return Err(invalid(format!("{name}: unknown option{}", nearest(name, Credentials::NAMES, "")))),
        }
        Ok(())
    }

    /// Whether any is given by which connections are to be secured.
    pub(crate) fn are_given(&self) -> bool {
        let Credentials { tls_cert, tls_key, tls_ca, token, token_file, state: _ } = self;
        [tls_cert, tls_key, tls_ca, token_file].iter().any(|path| path.is_some()) || token.is_some()
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidArgument, message)
}

/// Picks a value by its word; the error names the nearest known one.
fn word<T: Clone>(value: &str, known: &[(&str, T)]) -> Result<T> {
    let found = known.iter().find(|(name, _)| *name == value).map(|(_, value)| value.clone());
    found.ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        invalid(format!("unknown value {value:?}{}", nearest(value, &names, "")))
    })
}

impl FromStr for Mode {
    type Err = Error;
    fn from_str(value: &str) -> Result<Mode> {
        word(value, &[("auto", Mode::Auto), ("direct", Mode::Direct), ("managed", Mode::Managed)])
    }
}

impl FromStr for Compression {
    type Err = Error;
    fn from_str(value: &str) -> Result<Compression> {
        let known = [
            ("auto", Compression::Auto),
            ("off", Compression::Off),
            ("lz4", Compression::Lz4),
            ("zstd", Compression::Zstd),
        ];
        word(value, &known)
    }
}

impl FromStr for Pull {
    type Err = Error;
    fn from_str(value: &str) -> Result<Pull> {
        word(value, &[("background", Pull::Background), ("demand", Pull::Demand)])
    }
}

impl FromStr for View {
    type Err = Error;
    fn from_str(value: &str) -> Result<View> {
        word(value, &[("path", View::Path), ("file", View::File), ("slice", View::Slice)])
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;
    fn from_str(value: &str) -> Result<DeviceChoice> {
        match value.strip_prefix("nbd:") {
            Some("") => Err(invalid("nbd: names no device; write nbd or nbd:/dev/nbd3".to_owned())),
            Some(path) => Ok(DeviceChoice::Nbd(Some(PathBuf::from(path)))),
            None => word(
                value,
                &[
                    ("auto", DeviceChoice::Auto),
                    ("nbd", DeviceChoice::Nbd(None)),
                    ("userfaultfd", DeviceChoice::Userfaultfd),
                    ("userfaultfd:user-mode", DeviceChoice::UserfaultfdUserMode),
                    ("fuse", DeviceChoice::Fuse),
                ],
            ),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Nbd(None) => f.write_str("nbd"),
            DeviceChoice::Nbd(Some(path)) => write!(f, "nbd:{}", path.display()),
            DeviceChoice::Userfaultfd => f.write_str("userfaultfd"),
            DeviceChoice::UserfaultfdUserMode => f.write_str("userfaultfd:user-mode"),
            DeviceChoice::Fuse => f.write_str("fuse"),
        }
    }
}

impl FromStr for PullRange {
    type Err = Error;
    /// `offset,length[,priority]`, sizes as everywhere.
    fn from_str(value: &str) -> Result<PullRange> {
        let wrong = || invalid(format!("{value:?} is not a range: OFFSET,LENGTH[,PRIORITY]"));
        let mut parts = value.split(',');
        let offset = parse_size(parts.next().ok_or_else(wrong)?)?;
        let length = parse_size(parts.next().ok_or_else(wrong)?)?;
        let priority = parts.next().map_or(Ok(0), |part| part.parse().map_err(|_| wrong()))?;
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(PullRange { offset, length, priority })
    }
}

/// Parses a time: seconds as a plain or decimal number, or with `ms`, `s`, `m` or `h` behind it.
pub fn parse_time(text: &str) -> Result<Duration> {
    let wrong = || invalid(format!("{text:?} is not a time: seconds, or a number with ms s m h"));
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds * scale).map_err(|_| wrong())
}

/// Parses a yes or no.
pub fn parse_bool(text: &str) -> Result<bool> {
    word(text, &[("true", true), ("false", false), ("1", true), ("0", false), ("yes", true), ("no", false)])
}

impl MountOptions {
    /// Every option's name, as [`set`](MountOptions::set) takes it.
    pub const NAMES: &'static [&'static str] = &[
        "mode",
        "device",
        "read_only",
        "cache",
        "cache_trust",
        "chunk_size",
        "pull",
        "pull_range",
        "trace",
        "push_interval",
        "offline",
        "read_ahead",
        "max_in_flight",
        "deadline",
    ];

    /// The names of those besides that only a leecher takes.
    pub const OF_A_LEECHER: &'static [&'static str] = &["prepare", "overwrite", "allow_legacy"];

    /// Sets an option by its name from text: how the command and the bindings do it.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let chunk = |size: u64| {
            u32::try_from(size).map_err(|_| invalid(format!("{size} is more than the largest chunk, 32 MiB")))
        };
        let set = match name {
            "mode" => value.parse().map(|value| self.mode = value),
            "device" => value.parse().map(|value| self.device = value),
            "read_only" => parse_bool(value).map(|value| self.read_only = value),
            "cache" => {
                self.cache = Some(value.to_owned());
                Ok(())
            }
            "cache_trust" => parse_bool(value).map(|value| self.cache_trust = value),
            "prepare" => value.parse().map(|value| self.prepare = Some(value)),
            "overwrite" => parse_bool(value).map(|value| self.overwrite = value),
            "allow_legacy" => parse_bool(value).map(|value| self.allow_legacy = value),
            "chunk_size" => parse_size(value).and_then(chunk).map(|value| self.chunk_size = Some(value)),
            "pull" => value.parse().map(|value| self.pull = value),
            "pull_range" => value.parse().map(|value| self.pull_ranges.push(value)),
            "trace" => {
                self.trace = Some(value.into());
                Ok(())
            }
            "push_interval" => parse_time(value).map(|value| self.push_interval = value),
            "offline" => parse_bool(value).map(|value| self.offline = value),
            "read_ahead" if value == "auto" => {
                self.read_ahead = None;
                Ok(())
            }
            "read_ahead" => parse_size(value).map(|value| self.read_ahead = Some(value)),
            "max_in_flight" => parse_size(value).map(|value| self.max_in_flight = Some(value)),
            "deadline" => parse_time(value).map(|value| self.deadline = value),
            _ => Err(invalid(format!("unknown option{}", nearest(name, MountOptions::NAMES, "")))),
        };
        set.map_err(|error| error.context(name))
    }

    /// Checks each value by itself.
    pub fn check(&self) -> Result<()> {
        if let Some(size) = self.chunk_size {
            if !size.is_power_of_two() || !(4096..=32 << 20).contains(&size) {
                let message = format!("chunk_size: {size} is not a power of two from 4 KiB to 32 MiB");
                return Err(invalid(message));
            }
        }
        if self.max_in_flight == Some(0) {
            return Err(invalid("max_in_flight: 0 bytes would never move anything".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_set_by_its_name_and_a_wrong_one_names_the_nearest() {
        let mut options = MountOptions::default();
        for (name, value) in [
            ("mode", "direct"),
            ("device", "nbd:/dev/nbd3"),
            ("read_only", "true"),
            ("cache", "file:///x"),
            ("cache_trust", "yes"),
            ("prepare", "slice"),
            ("overwrite", "true"),
            ("allow_legacy", "true"),
            ("chunk_size", "64KiB"),
            ("pull", "demand"),
            ("pull_range", "1MiB,4KiB,3"),
            ("trace", "/x/y.trace"),
            ("push_interval", "250ms"),
            ("offline", "false"),
            ("read_ahead", "0"),
            ("max_in_flight", "1MiB"),
            ("deadline", "1.5"),
        ] {
            options.set(name, value).unwrap();
        }
        assert_eq!(options.device, DeviceChoice::Nbd(Some("/dev/nbd3".into())));
        assert_eq!(options.pull_ranges, [PullRange { offset: 1 << 20, length: 4096, priority: 3 }]);
        assert_eq!(options.deadline, Duration::from_millis(1500));
        assert_eq!(
            options.set("chunksize", "1").unwrap_err().message(),
            "chunksize: unknown option; did you mean \"chunk_size\"?"
        );
        assert!(options.set("device", "fuze").unwrap_err().message().contains("did you mean \"fuse\"?"));
        options.chunk_size = Some(5000);
        assert_eq!(options.check().unwrap_err().code(), Code::InvalidArgument);
    }
}

//! What the kernel has of NBD: which devices there are, whose they are, and the calls that make one ours.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};

/// The unit of the device in bytes. Not the system's page size: what is stored must not depend on the host.
pub const BLOCK: u64 = 4096;
const MAJOR: u32 = 43;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const MODULE: &str = "this kernel has no NBD devices: `modprobe nbd` loads them";

const SET_SOCK: libc::Ioctl = libc::_IO(0xab, 0);
const SET_BLKSIZE: libc::Ioctl = libc::_IO(0xab, 1);
const DO_IT: libc::Ioctl = libc::_IO(0xab, 3);
const CLEAR_SOCK: libc::Ioctl = libc::_IO(0xab, 4);
const SET_SIZE_BLOCKS: libc::Ioctl = libc::_IO(0xab, 7);
const DISCONNECT: libc::Ioctl = libc::_IO(0xab, 8);
const SET_TIMEOUT: libc::Ioctl = libc::_IO(0xab, 9);
const SET_FLAGS: libc::Ioctl = libc::_IO(0xab, 10);
const BLKFLSBUF: libc::Ioctl = libc::_IO(0x12, 97);
const BLKRASET: libc::Ioctl = libc::_IO(0x12, 98);
const BLKGETSIZE64: libc::Ioctl = libc::_IOR::<usize>(0x12, 114);

fn control(file: &File, request: libc::Ioctl, argument: u64) -> io::Result<()> {
    // SAFETY: every request used here takes a number, not a pointer.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, argument as libc::c_ulong) } {
        result if result < 0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// One `/dev/nbdN`.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name under `/sys/block`.
    pub name: String,
    /// Its node.
    pub path: PathBuf,
}

/// Whether this process could attach a device; the error says what it lacks.
pub fn probe() -> Result<()> {
    let all = candidates()?;
    check_privilege()?;
    if all.iter().all(Candidate::is_attached) {
        return Err(all_busy(all.len()));
    }
    Ok(())
}

/// The error when every device is somebody's.
pub fn all_busy(count: usize) -> Error {
    let message = format!("all {count} NBD devices are in use: detach one, or load more of them (`nbds_max=` of nbd)");
    Error::new(Code::Busy, message)
}

/// All devices of this kernel, by number.
pub fn candidates() -> Result<Vec<Candidate>> {
    let entries = std::fs::read_dir("/sys/block").map_err(|error| Error::io("list /sys/block", error))?;
    let mut found: Vec<(u32, Candidate)> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| {
            let number = name.strip_prefix("nbd")?.parse().ok()?;
            Some((number, Candidate { path: Path::new("/dev").join(&name), name }))
        })
        .collect();
    found.sort_by_key(|(number, _)| *number);
    match found.first() {
        None => Err(Error::new(Code::NoDevice, MODULE)),
        Some((_, first)) if !first.path.exists() => Err(Error::new(
            Code::NoDevice,
            format!("the kernel has {} but there is no {}: mount a devtmpfs on /dev", first.name, first.path.display()),
        )),
        Some(_) => Ok(found.into_iter().map(|(_, candidate)| candidate).collect()),
    }
}

/// The device at a path that the user named.
pub fn named(path: &Path) -> Result<Candidate> {
    let refuse = |why: &str| Error::new(Code::InvalidArgument, format!("{} {why}", path.display()));
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The module's own error first: without it no path of this kind exists.
            candidates()?;
            return Err(Error::new(Code::NoDevice, format!("there is no {}", path.display())));
        }
        other => other.map_err(|error| Error::io(format!("look at {}", path.display()), error))?,
    };
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    if !metadata.file_type().is_block_device() || major != MAJOR {
        return Err(refuse("is not an NBD device: name one such as /dev/nbd0"));
    }
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"))
        .map_err(|_| Error::new(Code::NoDevice, format!("{}: {MODULE}", path.display())))?;
    let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if !Path::new("/sys/block").join(&name).exists() {
        return Err(refuse("is a partition: name the whole device"));
    }
    Ok(Candidate { name, path: path.to_owned() })
}

fn check_privilege() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| Error::io("read /proc/self/status for this process's capabilities", error))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    if effective & CAP_SYS_ADMIN == 0 {
        return Err(needs_privilege());
    }
    Ok(())
}

fn needs_privilege() -> Error {
    Error::new(Code::PermissionDenied, "attaching an NBD device needs root, or the capability CAP_SYS_ADMIN")
}

impl Candidate {
    /// Whether it is attached, or was and is still held open by somebody. A glance only, which keeps us from
    /// asking a device in use: the ask would wait for the requests it has under way.
    pub fn is_attached(&self) -> bool {
        self.sysfs("pid").exists()
    }

    /// A new descriptor.
    pub fn open(&self, read_only: bool) -> Result<File> {
        let opened = OpenOptions::new().read(true).write(!read_only).open(&self.path);
        opened.map_err(|error| Error::io(format!("open {}", self.path.display()), error))
    }

    /// Sets how much the kernel reads ahead and how much it asks for at once. Both stay from user to user of
    /// a device, so both are always set; a sandbox that forbids it costs speed only.
    pub fn tune(&self, file: &File, read_ahead: u64, largest_request: u64) {
        let limit = std::fs::read_to_string(self.sysfs("queue/max_hw_sectors_kb"));
        let limit = limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
        let largest = (largest_request >> 10).clamp(BLOCK >> 10, limit);
        let sized = std::fs::write(self.sysfs("queue/max_sectors_kb"), largest.to_string());
        if let Err(error) = sized.and_then(|()| control(file, BLKRASET, read_ahead >> 9)) {
            tracing::debug!(%error, device = self.name, "kept its request size or read-ahead");
        }
    }

    fn sysfs(&self, entry: &str) -> PathBuf {
        Path::new("/sys/block").join(&self.name).join(entry)
    }
}

/// What a device is told before it starts.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Its size in blocks.
    pub blocks: u64,
    /// What it can do.
    pub flags: u16,
    /// Seconds after which the kernel gives a request up; 0 is never.
    pub timeout: u64,
}

/// Claims a device for this thread, which must be the one that then calls [`hold`]: the kernel lets the first
/// to hand it a socket set the device up and answers EBUSY to all others, so two can never share one.
pub fn claim(candidate: &Candidate, file: &File, sockets: Vec<OwnedFd>, settings: Settings) -> Result<()> {
    let what = || format!("set up {}", candidate.path.display());
    for (index, socket) in sockets.iter().enumerate() {
        if let Err(error) = control(file, SET_SOCK, socket.as_fd().as_raw_fd() as u64) {
            let taken = index == 0 && matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINVAL));
            if index > 0 {
                release(file);
            }
            return Err(match error.raw_os_error() {
                _ if taken => in_use(candidate),
                Some(libc::EPERM) => needs_privilege(),
                _ => Error::io(what(), error),
            });
        }
    }
    // Only now is it ours; these calls the kernel takes from anybody.
    let set = control(file, SET_BLKSIZE, BLOCK)
        .and_then(|()| control(file, SET_SIZE_BLOCKS, settings.blocks))
        .and_then(|()| control(file, SET_FLAGS, settings.flags.into()))
        .and_then(|()| control(file, SET_TIMEOUT, settings.timeout));
    set.map_err(|error| {
        release(file);
        Error::io(what(), error)
    })
}

/// The error for a device that somebody else holds.
pub fn in_use(candidate: &Candidate) -> Error {
    let message = format!("{} is in use: name another, or none to take a free one", candidate.path.display());
    Error::new(Code::Busy, message)
}

/// Runs a claimed device until it is disconnected or this process dies, on the thread that claimed it.
pub fn hold(candidate: &Candidate, file: &File) -> Result<()> {
    let ended = control(file, DO_IT, 0);
    match ended {
        // The device was disconnected long ago, but somebody holds it open with what is left of it.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(in_use(candidate)),
        ended => {
            release(file);
            ended.map_err(|error| Error::io(format!("run {}", candidate.path.display()), error))
        }
    }
}

/// Lets go of the sockets and fails what is still under way.
fn release(file: &File) {
    let _ = control(file, CLEAR_SOCK, 0);
}

/// Asks the kernel to end the device. The sockets must be open at our end.
pub fn disconnect(file: &File) {
    let _ = control(file, DISCONNECT, 0);
}

/// Writes back and drops what the kernel caches of the device.
pub fn drop_cache(file: &File) -> io::Result<()> {
    control(file, BLKFLSBUF, 0)
}

/// The size of the device in bytes; 0 until it runs.
pub fn size(file: &File) -> u64 {
    let mut size = 0u64;
    // SAFETY: the request writes one u64, which is what it is given.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &mut size) };
    if result < 0 { 0 } else { size }
}

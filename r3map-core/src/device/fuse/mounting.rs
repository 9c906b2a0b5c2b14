//! Mounting over the file, by the kernel's own call or through `fusermount3`, and unmounting so that nobody
//! is left waiting.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::error::{Code, Error, Result};

const DEVICE: &str = "/dev/fuse";
const CAP_SYS_ADMIN: u32 = 21;

/// Whether this process may mount, or has somebody to ask.
pub fn probe() -> Result<()> {
    match File::options().read(true).write(true).open(DEVICE) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) => {
            Err(Error::new(
                Code::NoDevice,
                "fuse: this kernel offers no /dev/fuse: load the module (modprobe fuse), or pass the device to the container",
            ))
        }
        // fusermount3 opens it with the rights of its caller, so there is no way around this.
        Err(error) => Err(Error::io("fuse: open /dev/fuse, which every user may where chmod 666 /dev/fuse", error)),
        Ok(_) if may_mount() || fusermount().is_some() => Ok(()),
        Ok(_) => Err(Error::new(
            Code::PermissionDenied,
            "fuse: mounting takes CAP_SYS_ADMIN or the program fusermount3 (apt-get install fuse3)",
        )),
    }
}

fn may_mount() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & 1 << CAP_SYS_ADMIN != 0)
}

/// The set-user-ID program that mounts for users without privilege.
pub fn fusermount() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("fusermount3")).find(|program| program.is_file())
}

pub fn c_path(path: &Path) -> Result<CString> {
    let wrong = |_| Error::new(Code::InvalidArgument, format!("fuse: {} holds a NUL", path.display()));
    CString::new(path.as_os_str().as_bytes()).map_err(wrong)
}

/// A mount over a file. Dropping it unmounts.
pub struct Mounted {
    path: PathBuf,
    over: bool,
}

impl Mounted {
    /// Mounts over the file at `path` and gives the connection's descriptor. `name` is what `findmnt` shows.
    pub fn over(path: &Path, mode: u32, name: &str, read_only: bool) -> Result<(Mounted, File)> {
        probe()?;
        let device = if may_mount() {
            let device = File::options().read(true).write(true).open(DEVICE);
            let device = device.map_err(|error| Error::io("fuse: open /dev/fuse", error))?;
            mount_directly(&device, path, mode, name, read_only)?;
            device
        } else {
            let device = mount_by_helper(path, name, read_only)?;
            if std::fs::read_dir("/sys/fs/fuse/connections").map_or(true, |mut all| all.next().is_none()) {
                tracing::warn!(
                    "fuse: a process killed while pages of its own file are dirty may stay: no fusectl filesystem is \
                     mounted at /sys/fs/fuse/connections, by which alone a user without privilege can end a connection"
                );
            }
            device
        };
        Ok((Mounted { path: path.to_owned(), over: false }, device))
    }

    /// Ends the connection, so that every access under way or to come fails, and unmounts. Does nothing if
    /// that was done.
    pub fn unmount(&mut self) -> Result<()> {
        if self.over {
            return Ok(());
        }
        let path = c_path(&self.path)?;
        if !detach(&path) {
            let what = || format!("fuse: unmount {}", self.path.display());
            let helper = fusermount().ok_or_else(|| Error::last_os(what()))?;
            abort(&path);
            let ended = Command::new(helper).args(["-u", "-z", "--"]).arg(&self.path).stdin(Stdio::null()).output();
            let ended = ended.map_err(|error| Error::io(what(), error))?;
            if !ended.status.success() {
                let said = String::from_utf8_lossy(&ended.stderr);
                return Err(Error::new(Code::Io, format!("{}: {}", what(), said.trim())));
            }
        }
        self.over = true;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            tracing::warn!(%error, "fuse: a mount stays");
        }
    }
}

/// Unmounts by the kernel's own call. Calls only what a forked child may.
pub fn detach(path: &CStr) -> bool {
    let flags = libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
    // SAFETY: the path ends in NUL. MNT_FORCE ends the connection, whoever else holds the device; outside the
    // first user namespace it is not allowed.
    unsafe {
        if libc::umount2(path.as_ptr(), flags | libc::MNT_FORCE) == 0 {
            return true;
        }
        let gone = *libc::__errno_location() == libc::EINVAL;
        // EINVAL: nothing is mounted there any more.
        gone || (abort(path) && libc::umount2(path.as_ptr(), flags) == 0)
    }
}

/// Ends the connection of the mount at `path` through the control filesystem, where that is mounted. Calls
/// only what a forked child may.
pub fn abort(path: &CStr) -> bool {
    // SAFETY: plain calls on memory that lives here; the structure is one of integers.
    unsafe {
        let mut known: libc::statx = std::mem::zeroed();
        // Without asking the server, which may be the one that died.
        let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
        if libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_TYPE, &mut known) != 0 {
            return false;
        }
        let mut file = *b"/sys/fs/fuse/connections/0000000000/abort\0";
        let mut number = known.stx_dev_minor;
        // The number stands without leading zeros in front of "/abort".
        let (start, end) = (25, 35);
        let mut at = end;
        while at > start && (number > 0 || at == end) {
            at -= 1;
            file[at] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        file.copy_within(at.., start);
        let control = libc::open(file.as_ptr().cast(), libc::O_WRONLY | libc::O_CLOEXEC);
        if control < 0 {
            return false;
        }
        let written = libc::write(control, c"1".as_ptr().cast(), 1);
        libc::close(control);
        written == 1
    }
}

fn mount_directly(device: &File, path: &Path, mode: u32, name: &str, read_only: bool) -> Result<()> {
    // SAFETY: these two cannot fail and have no preconditions.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let others = if user == 0 { ",allow_other" } else { "" };
    let options = format!(
        "fd={},rootmode={mode:o},user_id={user},group_id={group},default_permissions{others}",
        device.as_raw_fd()
    );
    let options = CString::new(options).expect("no NUL among digits and names");
    let source = CString::new(name.replace('\0', "")).expect("NULs were removed");
    let target = c_path(path)?;
    let read_only = if read_only { libc::MS_RDONLY } else { 0 };
    // SAFETY: all strings end in NUL and live through the call.
    let mounted = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            c"fuse.r3map".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | read_only,
            options.as_ptr().cast(),
        )
    };
    if mounted != 0 {
        return Err(Error::last_os(format!("fuse: mount over {}", path.display())));
    }
    Ok(())
}

/// Asks `fusermount3`, which gives the descriptor over a socket.
fn mount_by_helper(path: &Path, name: &str, read_only: bool) -> Result<File> {
    let Some(helper) = fusermount() else {
        return Err(Error::new(Code::NoDevice, "fuse: fusermount3 is gone"));
    };
    let what = || format!("fuse: mount over {} by {}", path.display(), helper.display());
    let (ours, theirs) = UnixStream::pair().map_err(|error| Error::io(what(), error))?;
    let name = name.replace('\\', "\\\\").replace(',', "\\,");
    let access = if read_only { "ro" } else { "rw" };
    let options = format!("{access},nosuid,nodev,default_permissions,subtype=r3map,fsname={name}");
    let asked = Command::new(&helper)
        .args(["-o", &options, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .output()
        .map_err(|error| Error::io(what(), error))?;
    if !asked.status.success() {
        let said = String::from_utf8_lossy(&asked.stderr);
        return Err(Error::new(Code::PermissionDenied, format!("{}: {}", what(), said.trim())));
    }
    receive_descriptor(&ours).map_err(|error| Error::io(what(), error))
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<File> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            if let Some(descriptor) = descriptors.first() {
                // SAFETY: the kernel has just installed it in this process for us.
                return Ok(unsafe { File::from_raw_fd(*descriptor) });
            }
        }
    }
    Err(io::Error::other("it sent no descriptor"))
}

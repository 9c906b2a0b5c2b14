//! A mount's path: where it appears, the command that runs on it, and how it goes away again.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use r3map_core::device::Kind;
use r3map_core::{Cancel, Code, DeviceChoice, Error, Mount, MountOptions, Result};
use serde_json::json;

use crate::interrupts::Interrupts;
use crate::progress::Progress;
use crate::watch;

/// The path that users are told, and the link to take away again.
pub struct Placed {
    /// Where the region is seen.
    pub path: PathBuf,
    link_to: Option<PathBuf>,
}

impl Placed {
    /// Refuses a device that gives no path.
    pub fn check(options: &MountOptions) -> Result<()> {
        match options.device {
            DeviceChoice::Userfaultfd | DeviceChoice::UserfaultfdUserMode => Err(Error::new(
                Code::Unsupported,
                "a userfaultfd device gives memory of one process and no path for others: mount with --device fuse \
                 or nbd, or call the library for a slice",
            )),
            _ => Ok(()),
        }
    }

    /// Attaches the mount's device and has it appear where it was asked for.
    pub fn new(mount: &Mount, at: Option<&Path>) -> Result<Placed> {
        let path = mount.path()?;
        match at {
            Some(at) if mount.device() == Some(Kind::Nbd) => {
                let what = format!("put a link to {} at {}", path.display(), at.display());
                std::os::unix::fs::symlink(&path, at).map_err(|error| Error::io(what, error))?;
                Ok(Placed { path: at.to_owned(), link_to: Some(path) })
            }
            _ => Ok(Placed { path, link_to: None }),
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // Only our own link: somebody may have put something else there.
        if self.link_to.is_some() && std::fs::read_link(&self.path).ok() == self.link_to {
            if let Err(error) = std::fs::remove_file(&self.path) {
                tracing::warn!(%error, path = %self.path.display(), "the link was not removed");
            }
        }
    }
}

/// Syncs and detaches. A signal meanwhile gives up waiting, as a failure does: what was not synced is lost.
pub fn unmount(mount: &Mount, interrupts: &Interrupts, progress: &Progress) -> Result<()> {
    progress.note("closing", json!({}), "syncing and detaching");
    let cancel = Cancel::new();
    let closing = mount.with_cancel(cancel.clone());
    let close = || {
        let synced = if closing.is_read_only() { Ok(()) } else { closing.sync() };
        synced.and_then(|()| closing.close()).or_else(|error| {
            mount.discard()?;
            Err(error.context("unmounted without a complete sync, the last writes may be lost"))
        })
    };
    // A mount that keeps pages knows how much has to go; what the kernel holds of another is its own.
    let dirty = || watch::kept(mount, "dirty_bytes").unwrap_or(0);
    match dirty() {
        0 => interrupts.during(|_| cancel.trigger(), close),
        all => {
            let left = || all.saturating_sub(dirty());
            interrupts.during(|_| cancel.trigger(), || progress.during("push", all, &left, close))
        }
    }
}

/// Runs the command on the path; its status is ours.
pub fn run(command: &[OsString], path: &Path, interrupts: &Interrupts) -> Result<ExitCode> {
    let words: Vec<_> = command.iter().map(|word| fill_in(word, path.as_os_str())).collect();
    let what = || format!("run {}", Path::new(&words[0]).display());
    let mut child = Command::new(&words[0]).args(&words[1..]).spawn().map_err(|error| Error::io(what(), error))?;
    let pid = Pid::from_raw(child.id() as i32);
    let forward = |signal| {
        // A terminal sends Ctrl-C to the command itself.
        if signal != Signal::SIGINT || !std::io::stdin().is_terminal() {
            // It may have ended just now.
            let _ = kill(pid, signal);
        }
    };
    let status = interrupts.during(forward, || child.wait()).map_err(|error| Error::io(what(), error))?;
    Ok(ExitCode::from(exit_code(status)))
}

/// A word of the command with every `{}` replaced by the path.
fn fill_in(word: &OsStr, path: &OsStr) -> OsString {
    let mut filled = Vec::new();
    let mut rest = word.as_bytes();
    while let Some(at) = rest.windows(2).position(|pair| pair == b"{}") {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(path.as_bytes());
        rest = &rest[at + 2..];
    }
    filled.extend_from_slice(rest);
    OsString::from_vec(filled)
}

/// A command's status as a shell tells it: 128 and the number of the signal that ended it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_braces_becomes_the_path() {
        let fill = |word| fill_in(OsStr::new(word), OsStr::new("/p"));
        assert_eq!(fill("{}"), "/p");
        assert_eq!(fill("--db={}:{}x{"), "--db=/p:/px{");
        assert_eq!(fill("plain"), "plain");
    }

    #[test]
    fn a_command_ended_by_a_signal_has_the_status_a_shell_gives() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
    }
}

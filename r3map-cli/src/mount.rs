//! `r3map mount`: a backend as a path of this host.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use r3map_core::device::Kind;
use r3map_core::{Cancel, Code, DeviceChoice, Error, Pull, Result};
use serde_json::json;

use crate::flags::{BackendFlags, MountFlags};
use crate::interrupts::Interrupts;
use crate::print;
use crate::progress::Progress;
use crate::watch;

/// Show a backend as a path until Ctrl-C, or while a command runs
///
/// Prints the path on standard output as soon as it can be used. On Ctrl-C or SIGTERM it syncs, detaches and
/// leaves with 0. With a command after -- it runs that with {} replaced by the path (which is not printed
/// then: standard output is the command's), syncs, detaches, and leaves with the command's status.
#[derive(Args)]
pub struct Mount {
    /// URL of the backend
    url: String,
    /// Where the path appears: the fuse file itself, or a link to the block device
    #[arg(long, value_name = "PATH")]
    at: Option<PathBuf>,
    #[command(flatten)]
    backend: BackendFlags,
    #[command(flatten)]
    mount: MountFlags,
    /// Command to run, and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Mount {
    /// Mounts, waits for the command or a signal, and unmounts.
    pub fn run(self, progress: &Progress) -> Result<ExitCode> {
        let mut options = self.mount.options()?;
        if matches!(options.device, DeviceChoice::Userfaultfd | DeviceChoice::UserfaultfdUserMode) {
            return Err(Error::new(
                Code::Unsupported,
                "a userfaultfd device gives memory of one process and no path for others: mount with --device fuse \
                 or nbd, or call the library for a slice",
            ));
        }
        options.at = self.at.clone();
        let pulls = options.pull == Pull::Background;
        let mount = options.open_url(&self.url, &self.backend.options())?;
        // From here on a signal must find the device detached and the bytes synced.
        let interrupts = Interrupts::catch()?;
        let placed = match Placed::new(&mount, self.at.as_deref()) {
            Ok(placed) => placed,
            Err(error) => {
                mount.discard()?;
                return Err(error);
            }
        };
        let used = watch::during(&mount, pulls, progress, || self.used(&mount, &placed, &interrupts, progress));
        drop(placed);
        unmount(&mount, &interrupts, progress)?;
        used
    }

    /// From the moment that the path can be used until nobody needs it any more.
    fn used(
        &self,
        mount: &r3map_core::Mount,
        placed: &Placed,
        interrupts: &Interrupts,
        progress: &Progress,
    ) -> Result<ExitCode> {
        let (path, device) = (placed.path.display().to_string(), mount.device().map_or("", Kind::name));
        let hint = if self.command.is_empty() { "; Ctrl-C syncs and detaches" } else { "" };
        let text = format!("{} is at {path} by {device}, {} bytes{hint}", self.url, mount.size());
        progress.note("mounted", json!({"path": path, "device": device, "size": mount.size()}), &text);
        if self.command.is_empty() {
            print(&path)?;
            interrupts.wait();
            return Ok(ExitCode::SUCCESS);
        }
        run(&self.command, &placed.path, interrupts)
    }
}

/// The path that users are told, and the link to take away again.
struct Placed {
    path: PathBuf,
    link_to: Option<PathBuf>,
}

impl Placed {
    /// Attaches the mount's device and has it appear where it was asked for.
    fn new(mount: &r3map_core::Mount, at: Option<&Path>) -> Result<Placed> {
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
fn unmount(mount: &r3map_core::Mount, interrupts: &Interrupts, progress: &Progress) -> Result<()> {
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
fn run(command: &[OsString], path: &Path, interrupts: &Interrupts) -> Result<ExitCode> {
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

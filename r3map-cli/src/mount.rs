//! `r3map mount`: a backend as a path of this host.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use r3map_core::device::Kind;
use r3map_core::{Pull, Result};
use serde_json::json;

use crate::flags::{BackendFlags, MountFlags};
use crate::interrupts::Interrupts;
use crate::place::{Placed, run, unmount};
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
        Placed::check(&options)?;
        options.at = self.at.clone();
        let pulls = options.pull == Pull::Background;
        let mount = options.open_url(&self.url, &self.backend.options(&[&self.url])?)?;
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

//! `r3map seed`: a region that another host may take while it is in use here.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;
use r3map_core::options::parse_time;
use r3map_core::{Code, Error, Mount, Result, SeedEvent, SeedOptions, SeedState, Seeder};
use serde_json::json;

use crate::flags::{MountFlags, ServerFlags};
use crate::interrupts::Interrupts;
use crate::place::{Placed, unmount};
use crate::print;
use crate::progress::{Glance, Progress};

/// Let `r3map leech` take a region while it is in use
///
/// Prints the URL for the leecher on standard output. With --at the region is a path here meanwhile, as by `r3map
/// mount`. When the leecher asks for the region, --on-suspend has the app stop writing; once it returned the region
/// moves. The command leaves with 0 when the leecher has every byte. On Ctrl-C or SIGTERM it ends, but not between the
/// moment the region moved and the last byte: then it says so and waits.
#[derive(Args)]
pub struct Seed {
    /// URL of the backend
    url: String,
    /// HOST:PORT (port 0: one is chosen) or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: String,
    /// Name in the URL for the leecher
    #[arg(long, default_value = "region")]
    name: String,
    /// Where the region is a path meanwhile: the fuse file itself, or a link to the block device
    #[arg(long, value_name = "PATH")]
    at: Option<PathBuf>,
    /// Shell command that has the app stop writing; one that fails refuses, and the leecher goes on pulling
    #[arg(long, value_name = "CMD")]
    on_suspend: Option<String>,
    /// Shell command that has the app go on, where the region did not move after --on-suspend
    #[arg(long, value_name = "CMD")]
    on_resume: Option<String>,
    /// File whose bytes go with the region, read after --on-suspend; at most 16 MiB
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// How long --on-suspend may take before the leecher is refused; 0 is for ever [default: 30s]
    #[arg(long, value_name = "TIME")]
    suspend_deadline: Option<String>,
    /// Give the region also to leechers of the Go library r3map, over gRPC at the same address: see docs/interop.md
    #[arg(long)]
    allow_legacy: bool,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    mount: MountFlags,
}

impl Seed {
    /// Seeds until the leecher has every byte or a signal comes.
    pub fn run(self, progress: &Progress) -> Result<()> {
        let mut options = self.mount.options()?;
        Placed::check(&options)?;
        options.at = self.at.clone();
        let mut seed = SeedOptions {
            name: self.name.clone(),
            cache_trust: options.cache_trust,
            allow_legacy: self.allow_legacy,
            credentials: self.server.credentials(),
            allow: self.server.allow.clone(),
            insecure: self.server.insecure,
            deadline: options.deadline,
            ..SeedOptions::default()
        };
        if let Some(time) = &self.suspend_deadline {
            seed.suspend_deadline = parse_time(time).map_err(|error| error.context("suspend_deadline"))?;
        }
        let mount = options.open_url(&self.url, &self.server.backend())?;
        // From here on a signal must find the device detached and the bytes synced.
        let interrupts = Interrupts::catch()?;
        let moved = self.seeded(&mount, &seed, &interrupts, progress);
        match moved {
            // What another host has now is nothing to sync.
            Ok(true) => mount.close(),
            Ok(false) => unmount(&mount, &interrupts, progress),
            Err(error) => {
                mount.discard()?;
                Err(error)
            }
        }
    }

    /// Shows the path and seeds; true if the region moved.
    fn seeded(&self, mount: &Mount, seed: &SeedOptions, interrupts: &Interrupts, progress: &Progress) -> Result<bool> {
        let placed = self.at.as_deref().map(|at| Placed::new(mount, Some(at))).transpose()?;
        if let Some(placed) = &placed {
            let path = placed.path.display().to_string();
            let text = format!("{} is at {path}, {} bytes", self.url, mount.size());
            progress.note("mounted", json!({"path": path, "size": mount.size()}), &text);
        }
        let seeder = mount.seed(&self.listen, seed)?;
        let url = seeder.url().unwrap_or_default();
        print(url)?;
        if let Some(line) = seeder.client_line() {
            progress.note("client", json!({"line": line}), &format!("a leecher connects by: {line}"));
        }
        progress.note("seeding", json!({"url": url}), &format!("seeding at {url}; Ctrl-C ends it"));
        let on_signal = |_| {
            if let Err(error) = seeder.close() {
                let left = "the leecher has the region and still lacks bytes of it: waiting until they are there";
                if error.code() == Code::Busy {
                    progress.note("busy", json!({"cause": error.message()}), left);
                }
            }
        };
        let glance = || glance(&seeder);
        let moved = progress
            .watch("seed", mount.size(), &glance, || interrupts.during(on_signal, || self.follow(&seeder, progress)))?;
        match seeder.close() {
            Err(error) if error.code() != Code::Closed => Err(error),
            _ => Ok(moved),
        }
    }

    /// Takes the seeder's events to the last; true if the region moved.
    fn follow(&self, seeder: &Seeder, progress: &Progress) -> Result<bool> {
        let (mut after, mut is_stopped) = (0, false);
        loop {
            let event = match seeder.next(after, Duration::ZERO) {
                // A signal had it closed.
                Err(error) if error.code() == Code::Closed => {
                    self.go_on(&mut is_stopped, progress);
                    return Ok(false);
                }
                event => event?,
            };
            after = event.sequence;
            report(&event, progress);
            match event.state {
                SeedState::Suspending => {
                    is_stopped = true;
                    match self.stop(seeder, event.sequence, progress) {
                        // It was too late: an event says what became of it.
                        Err(error) if matches!(error.code(), Code::StaleEpoch | Code::Closed) => {}
                        stopped => stopped?,
                    }
                }
                SeedState::Resumed => self.go_on(&mut is_stopped, progress),
                SeedState::Drained => return Ok(true),
                _ => {}
            }
        }
    }

    /// Has the app stop and says so, or refuses.
    fn stop(&self, seeder: &Seeder, sequence: u64, progress: &Progress) -> Result<()> {
        let stopped = self.on_suspend.as_deref().map_or(Ok(()), |command| shell("on_suspend", command));
        let suspended = stopped.and_then(|()| self.payload()).and_then(|payload| seeder.suspended(sequence, &payload));
        match suspended {
            Err(error) if matches!(error.code(), Code::StaleEpoch | Code::Closed) => Err(error),
            Ok(()) => Ok(()),
            Err(error) => {
                progress.note("refused", json!({"cause": error.message()}), &format!("refused: {error}"));
                seeder.refuse(sequence, error.message())
            }
        }
    }

    fn payload(&self) -> Result<Vec<u8>> {
        let Some(path) = &self.payload_file else { return Ok(Vec::new()) };
        std::fs::read(path).map_err(|error| Error::io(format!("payload_file: read {}", path.display()), error))
    }

    /// Has the app go on, if it was stopped.
    fn go_on(&self, is_stopped: &mut bool, progress: &Progress) {
        if !std::mem::take(is_stopped) {
            return;
        }
        if let Err(error) = self.on_resume.as_deref().map_or(Ok(()), |command| shell("on_resume", command)) {
            progress.note("trouble", json!({"cause": error.message()}), error.message());
        }
    }
}

/// Runs a hook of the user's to its end.
fn shell(what: &str, command: &str) -> Result<()> {
    let status = Command::new("sh").args(["-c", command]).status();
    let status = status.map_err(|error| Error::io(format!("{what}: run sh"), error))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Code::Busy, format!("{what}: {command:?} ended with {status}"))),
    }
}

fn report(event: &SeedEvent, progress: &Progress) {
    let cause = event.cause.as_ref().map(|cause| cause.message());
    let what = match event.state {
        SeedState::Waiting => "waiting for a leecher",
        SeedState::Tracking => "a leecher pulls",
        SeedState::Suspending => "the leecher asks for the region",
        SeedState::Resumed => "the region stays here",
        SeedState::Committed => "the region is the leecher's; it still pulls the rest",
        SeedState::Drained => "the leecher has every byte",
        SeedState::Trouble => "trouble",
    };
    let text = cause.map_or(what.to_owned(), |cause| format!("{what}: {cause}"));
    progress.note(event.state.name(), json!({"sequence": event.sequence, "cause": cause}), &text);
}

/// How much was served, and how fast the app writes.
fn glance(seeder: &Seeder) -> Option<Glance> {
    let stats = seeder.stats().ok()?;
    let (served, rate) = (stats.get("served_bytes").filter(|served| *served > 0)?, stats.get("dirty_rate")?);
    let text = format!(", {} served, {}/s written by the app", HumanBytes(served), HumanBytes(rate));
    // What is written again is served again.
    let done = served.min(stats.get("size")?);
    Some(Glance { done, fields: json!({"served_bytes": served, "dirty_rate": rate}), text })
}

//! `r3map leech`: takes a region that is in use at another host.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use clap::Args;
use indicatif::{HumanBytes, HumanDuration};
use r3map_core::device::{Kind, View};
use r3map_core::options::parse_time;
use r3map_core::{Cancel, Code, Error, LeechState, Leecher, Mount, Result};
use serde_json::json;

use crate::flags::{BackendFlags, MountFlags};
use crate::interrupts::Interrupts;
use crate::place::{Placed, run, unmount};
use crate::print;
use crate::progress::{Glance, Progress};
use crate::watch;

/// Take a region that `r3map seed` offers while it is in use there
///
/// Pulls it into LOCAL, asks for it when --finalize-when says, and has it once the app there stopped: the pause. What is
/// missing then is pulled behind it. With --at the region is a path from then on, which is printed on standard output,
/// until Ctrl-C; with a command after -- that runs on the path ({}). The command ends, also then, once every byte is
/// here, and syncs. Before the region moved, Ctrl-C ends it with an error and leaves what was pulled for the next time.
#[derive(Args)]
pub struct Leech {
    /// URL that the seeder printed
    url: String,
    /// Where it goes: file:///PATH, created at the region's size, or memory:
    local: String,
    /// When to ask for the region: once a share of it is here (95%), or the expected pause is short (pause<20ms)
    #[arg(long, value_name = "WHEN", default_value = "95%")]
    finalize_when: String,
    /// Bound of the wait for that; 0 waits for ever [default: 0]
    #[arg(long, value_name = "TIME")]
    finalize_timeout: Option<String>,
    /// Where the path appears: the fuse file itself, or a link to the block device
    #[arg(long, value_name = "PATH")]
    at: Option<PathBuf>,
    /// Take LOCAL though something else is in it, which is lost
    #[arg(long)]
    overwrite: bool,
    /// Take the region also from a seeder of the Go library r3map, by grpc://HOST:PORT?size=SIZE&chunk=SIZE: see
    /// docs/interop.md
    #[arg(long)]
    allow_legacy: bool,
    /// File that gets the bytes that came with the region
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    #[command(flatten)]
    backend: BackendFlags,
    #[command(flatten)]
    mount: MountFlags,
    /// Command to run, and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Leech {
    /// Pulls, takes over, and stays until the region is used up and whole.
    pub fn run(self, progress: &Progress) -> Result<ExitCode> {
        let shows = self.at.is_some() || !self.command.is_empty();
        let mut options = self.mount.options()?;
        options.at = self.at.clone();
        options.overwrite = self.overwrite;
        options.allow_legacy = self.allow_legacy;
        if shows {
            Placed::check(&options)?;
            options.prepare = Some(View::Path);
        }
        let patience = self.finalize_timeout.as_deref().map_or(Ok(Duration::ZERO), parse_time);
        let patience = patience.map_err(|error| error.context("finalize_timeout"))?;

        let interrupts = Interrupts::catch()?;
        let cancel = Cancel::new();
        let leecher = Leecher::open(&self.url, &self.local, options, &self.backend.options(&[&self.url])?)?;
        let mount = {
            let told = Mutex::new(None);
            let (size, glance) = (figure(&leecher, "size"), || glance(&leecher, &told, progress));
            let waiting = leecher.with_cancel(cancel.clone());
            let finalize = || waiting.finalize_when(&self.finalize_when, patience);
            progress.watch("leech", size, &glance, || interrupts.during(|_| cancel.trigger(), finalize))
        };
        let mount = match mount {
            Ok(mount) => mount,
            Err(error) => {
                let error = asked(&leecher, error);
                // It says no more than the error does, but for one that is to be known.
                return Err(match leecher.close() {
                    Err(unsure) if unsure.code() == Code::Busy => error.context(unsure.message()),
                    _ => error,
                });
            }
        };
        self.owned(&leecher, &mount, shows, &interrupts, progress)
    }

    /// From the moment that the region is this side's.
    fn owned(
        &self,
        leecher: &Leecher,
        mount: &Mount,
        shows: bool,
        interrupts: &Interrupts,
        progress: &Progress,
    ) -> Result<ExitCode> {
        let missing = figure(leecher, "missing_bytes");
        let text = format!("the region is here; {} of it are still to come", HumanBytes(missing));
        progress.note("finalized", json!({"missing_bytes": missing}), &text);
        if let Some(path) = &self.payload_file {
            let what = format!("payload_file: write {}", path.display());
            std::fs::write(path, mount.payload()).map_err(|error| Error::io(what, error))?;
        }
        let used = match shows {
            true => watch::during(mount, true, progress, || self.used(mount, interrupts, progress)),
            false => Ok(ExitCode::SUCCESS),
        };
        self.complete(mount, interrupts, progress)?;
        unmount(mount, interrupts, progress)?;
        used
    }

    /// From the moment that the path can be used until nobody needs it any more.
    fn used(&self, mount: &Mount, interrupts: &Interrupts, progress: &Progress) -> Result<ExitCode> {
        let placed = Placed::new(mount, self.at.as_deref())?;
        let (path, device) = (placed.path.display().to_string(), mount.device().map_or("", Kind::name));
        let text = format!("{} is at {path} by {device}, {} bytes", self.local, mount.size());
        progress.note("mounted", json!({"path": path, "device": device, "size": mount.size()}), &text);
        if self.command.is_empty() {
            print(&path)?;
            interrupts.wait();
            return Ok(ExitCode::SUCCESS);
        }
        run(&self.command, &placed.path, interrupts)
    }

    /// Waits for what is still at the other side. A signal meanwhile gives it up: the other side keeps it for the next
    /// time.
    fn complete(&self, mount: &Mount, interrupts: &Interrupts, progress: &Progress) -> Result<()> {
        let cancel = Cancel::new();
        let waiting = mount.with_cancel(cancel.clone());
        let here = || watch::kept(mount, "local_bytes").unwrap_or(0);
        // One that pulls on demand only is asked for all of it now.
        mount.prefetch(0, mount.size())?;
        let whole = interrupts.during(
            |_| cancel.trigger(),
            || progress.during("pull", mount.size(), &here, || waiting.wait_local(1.0, Duration::ZERO)),
        );
        whole.inspect(|()| progress.note("complete", json!({}), "every byte is here")).or_else(|error| {
            mount.close()?;
            let hint = format!("the rest stays at the other side: leech {} into {} again", self.url, self.local);
            Err(error.context(hint))
        })
    }
}

/// What came of asking for the region, where it could be that it moved all the same.
fn asked(leecher: &Leecher, error: Error) -> Error {
    match leecher.state() {
        Ok(LeechState::Finalizing) => {
            error.context("the region was asked for, and whether it moved the seeder knows: leech it again")
        }
        _ => error,
    }
}

fn figure(leecher: &Leecher, name: &str) -> u64 {
    leecher.stats().ok().and_then(|stats| stats.get(name)).unwrap_or(0)
}

/// How much is here and how long the pause would be; a new state is told at once.
fn glance(leecher: &Leecher, told: &Mutex<Option<LeechState>>, progress: &Progress) -> Option<Glance> {
    let (state, stats) = (leecher.state().ok()?, leecher.stats().ok()?);
    let figure = |name| stats.get(name).unwrap_or(0);
    let (dirty, pull) = (figure("dirty_rate"), figure("pull_rate"));
    let before = told.lock().unwrap_or_else(|e| e.into_inner()).replace(state);
    if before != Some(state) {
        let outpaced = format!(
            "the app there writes {}/s and {}/s come here: wait, say --finalize-when pause<…, or end this",
            HumanBytes(dirty),
            HumanBytes(pull)
        );
        let text = if state == LeechState::Outpaced { outpaced } else { state.name().to_owned() };
        progress.note(state.name(), json!({"dirty_rate": dirty, "pull_rate": pull}), &text);
    }
    let pause = Duration::from_micros(figure("expected_pause_us"));
    let fields = json!({
        "state": state.name(),
        "dirty_rate": dirty,
        "pull_rate": pull,
        "expected_pause_us": figure("expected_pause_us"),
        "matched_bytes": figure("matched_bytes"),
    });
    let text = format!(", {}/s written there, pause of {} expected", HumanBytes(dirty), short(pause));
    Some(Glance { done: figure("local_bytes"), fields, text })
}

/// A time as people read it.
fn short(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        _ => HumanDuration(time).to_string(),
    }
}

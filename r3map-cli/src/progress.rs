//! How far a verb is, on standard error: a bar on a terminal, else a line every few seconds, or JSON.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use r3map_core::Error;
use serde_json::{Value, json};

/// How a verb reports.
#[derive(Args)]
pub struct Output {
    /// Report as lines of JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Report nothing but errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

impl Output {
    /// The way of reporting that was asked for.
    pub fn progress(&self) -> Progress {
        Progress {
            json: self.json,
            quiet: self.quiet,
            terminal: std::io::stderr().is_terminal(),
            bars: MultiProgress::new(),
        }
    }
}

/// Reports to the user.
pub struct Progress {
    /// Results and reports are JSON.
    pub json: bool,
    quiet: bool,
    terminal: bool,
    /// The bars that are drawn now: what is written meanwhile goes above them.
    bars: MultiProgress,
}

impl Progress {
    /// Reports something that happened: `text` for people, the event and its fields for programs.
    pub fn note(&self, event: &str, mut fields: Value, text: &str) {
        if self.quiet {
            return;
        }
        if self.json {
            fields["event"] = event.into();
            say(fields);
        } else {
            self.bars.suspend(|| say(format_args!("r3map: {text}")));
        }
    }

    /// Reports a line of the library's log; when quiet only errors.
    pub fn log(&self, line: &str) {
        let level = line.split(' ').next().unwrap_or_default().to_lowercase();
        if self.quiet && level != "error" {
            return;
        }
        if self.json {
            say(json!({"event": "log", "level": level, "message": line}));
        } else {
            self.bars.suspend(|| say(format_args!("r3map: {line}")));
        }
    }

    /// Reports why the command failed, in one line; also when quiet.
    pub fn fail(&self, error: &Error) {
        if self.json {
            let code = error.code().name();
            say(json!({"event": "error", "code": code, "message": error.message()}));
        } else {
            say(format_args!("r3map: {}", error.message().replace('\n', " ")));
        }
    }

    /// Runs `work` and meanwhile reports how many of `total` bytes are `done`.
    pub fn during<T>(&self, what: &str, total: u64, done: &(dyn Fn() -> u64 + Sync), work: impl FnOnce() -> T) -> T {
        if self.quiet {
            return work();
        }
        thread::scope(|scope| {
            let (working, ended) = mpsc::channel::<()>();
            scope.spawn(move || self.draw(what, total, done, &|pause| ended.recv_timeout(pause)));
            let value = work();
            drop(working);
            value
        })
    }

    fn draw(
        &self,
        what: &str,
        total: u64,
        done: &(dyn Fn() -> u64 + Sync),
        wait: &dyn Fn(Duration) -> Result<(), RecvTimeoutError>,
    ) {
        let started = Instant::now();
        let under_way = |pause| matches!(wait(pause), Err(RecvTimeoutError::Timeout));
        if self.json {
            while under_way(Duration::from_secs(1)) {
                let seconds = started.elapsed().as_secs_f64();
                let fields = json!({"what": what, "done": done(), "total": total, "seconds": seconds});
                self.note("progress", fields, "");
            }
        } else if self.terminal {
            let bar = self.bars.add(ProgressBar::new(total).with_prefix(what.to_owned()));
            let template = "{prefix} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            while under_way(Duration::from_millis(100)) {
                bar.set_position(done());
            }
            bar.finish_and_clear();
        } else {
            while under_way(Duration::from_secs(3)) {
                let (bytes, rate) = (done(), done() as f64 / started.elapsed().as_secs_f64());
                let percent = bytes * 100 / total.max(1);
                let (bytes, total) = (HumanBytes(bytes), HumanBytes(total));
                let rate = HumanBytes(rate as u64);
                say(format_args!("r3map: {what}: {bytes} of {total} ({percent} %), {rate}/s"));
            }
        }
    }
}

/// Writes a line on standard error. That nobody reads it any more is no reason to leave a mount unsynced.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

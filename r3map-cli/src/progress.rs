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
        let glance = || Some(Glance { done: done(), fields: json!({}), text: String::new() });
        self.watch(what, total, &glance, work)
    }

    /// The same with more to say than one figure; nothing is said while there is no glance.
    pub fn watch<T>(
        &self,
        what: &str,
        total: u64,
        glance: &(dyn Fn() -> Option<Glance> + Sync),
        work: impl FnOnce() -> T,
    ) -> T {
        if self.quiet {
            return work();
        }
        thread::scope(|scope| {
            let (working, ended) = mpsc::channel::<()>();
            scope.spawn(move || self.draw(what, total, glance, &|pause| ended.recv_timeout(pause)));
            let value = work();
            drop(working);
            value
        })
    }

    fn draw(
        &self,
        what: &str,
        total: u64,
        glance: &(dyn Fn() -> Option<Glance> + Sync),
        wait: &dyn Fn(Duration) -> Result<(), RecvTimeoutError>,
    ) {
        // What it tells by itself is told at once.
        glance();
        let started = Instant::now();
        let under_way = |pause| matches!(wait(pause), Err(RecvTimeoutError::Timeout));
        if self.json {
            while under_way(Duration::from_secs(1)) {
                let Some(Glance { done, mut fields, .. }) = glance() else { continue };
                for (name, value) in [("what", json!(what)), ("done", json!(done)), ("total", json!(total))] {
                    fields[name] = value;
                }
                fields["seconds"] = json!(started.elapsed().as_secs_f64());
                self.note("progress", fields, "");
            }
        } else if self.terminal {
            let bar = self.bars.add(ProgressBar::new(total).with_prefix(what.to_owned()));
            let template = "{prefix} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left{msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            while under_way(Duration::from_millis(100)) {
                let Some(Glance { done, text, .. }) = glance() else { continue };
                bar.set_message(text);
                bar.set_position(done);
            }
            bar.finish_and_clear();
        } else {
            while under_way(Duration::from_secs(3)) {
                let Some(Glance { done, text, .. }) = glance() else { continue };
                let rate = (done as f64 / started.elapsed().as_secs_f64()) as u64;
                let left =
                    total.saturating_sub(done).checked_div(rate).map_or(String::new(), |s| format!(", {s} s left"));
                let rate = HumanBytes(rate);
                let percent = done * 100 / total.max(1);
                let (done, total) = (HumanBytes(done), HumanBytes(total));
                say(format_args!("r3map: {what}: {done} of {total} ({percent} %), {rate}/s{left}{text}"));
            }
        }
    }
}

/// What is said of work under way.
pub struct Glance {
    /// How many bytes are done.
    pub done: u64,
    /// Further figures, for programs.
    pub fields: Value,
    /// The same for people, each after a comma: ", 3 MiB/s dirtied".
    pub text: String,
}

/// Writes a line on standard error. That nobody reads it any more is no reason to leave a mount unsynced.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

//! What happens to a mount in the background while it is used, reported as it happens.

use std::thread;
use std::time::Duration;

use r3map_core::{Cancel, Mount, Stats, event};
use serde_json::json;

use crate::progress::{Glance, Progress};

/// Runs `work` and meanwhile reports the mount's events and, where it pulls by itself, how much is here.
pub fn during<T>(mount: &Mount, pulls: bool, progress: &Progress, work: impl FnOnce() -> T) -> T {
    let cancel = Cancel::new();
    let watched = mount.with_cancel(cancel.clone());
    thread::scope(|scope| {
        scope.spawn(|| report_events(&watched, progress));
        if pulls && kept(&watched, "local_bytes").is_some() {
            scope.spawn(|| {
                let glance = || Some(glance(&watched.stats().ok()?));
                // It ends by being cancelled, or with an event that says more.
                progress.watch("pull", watched.size(), &glance, || watched.wait_local(1.0, Duration::ZERO).ok())
            });
        }
        let value = work();
        cancel.trigger();
        value
    })
}

/// How much is here, how fast more comes and how long the rest takes.
fn glance(stats: &Stats) -> Glance {
    let figure = |name| stats.get(name).unwrap_or(0);
    let (rate, left) = (figure("pull_rate"), figure("pull_left_ms"));
    Glance { done: figure("local_bytes"), fields: json!({"rate": rate, "left_ms": left}), text: String::new() }
}

/// A figure of a mount that keeps pages here; `None` of a direct one.
pub fn kept(mount: &Mount, figure: &str) -> Option<u64> {
    mount.stats().ok()?.get(figure)
}

fn report_events(mount: &Mount, progress: &Progress) {
    let mut after = 0;
    // The only end is the cancel.
    while let Ok(event) = mount.next(after, Duration::ZERO) {
        after = event.sequence;
        let cause = event.cause.as_ref().map(|cause| cause.message());
        let what = match event.kind {
            event::Kind::Local => "every byte is here",
            event::Kind::Disconnected => "the remote is away",
            event::Kind::Recovered => "the remote is back",
            event::Kind::PushFailed => "a push failed and will be tried again",
            event::Kind::CacheFull => "the local cache has no room",
            event::Kind::Drained => "the other side knows that every byte is here",
            event::Kind::Fenced => "the other side took the region back by force",
            event::Kind::Abandoned => "the other side gave up what is not here yet",
        };
        let text = cause.map_or(what.to_owned(), |cause| format!("{what}: {cause}"));
        progress.note(event.kind.name(), json!({"cause": cause}), &text);
    }
}

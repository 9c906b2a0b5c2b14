//! `r3map copy`: all the bytes of one backend into another.

use std::time::Instant;

use clap::Args;
use indicatif::HumanBytes;
use r3map_core::{Cancel, MountOptions, Result};
use serde_json::json;

use crate::flags::BackendFlags;
use crate::interrupts::Interrupts;
use crate::progress::Progress;

/// Copy all bytes of a backend into another
///
/// A target that is missing is created at the source's size (file:, dir: and memory:); an existing one must have
/// that size. The target is synced before the command ends.
#[derive(Args)]
pub struct Copy {
    /// URL of the source
    from: String,
    /// URL of the target
    to: String,
    /// Bytes under way at once [default: 32MiB]
    #[arg(long, value_name = "SIZE")]
    max_in_flight: Option<String>,
    /// Bound of each operation; 0 waits for ever [default: 30s]
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    #[command(flatten)]
    backend: BackendFlags,
}

impl Copy {
    /// Copies, showing how far it is. A signal ends it with an error.
    pub fn run(self, progress: &Progress) -> Result<()> {
        let mut options = MountOptions::default();
        for (name, value) in [("max_in_flight", &self.max_in_flight), ("deadline", &self.deadline)] {
            value.as_ref().map_or(Ok(()), |value| options.set(name, value))?;
        }
        options.check()?;
        let mut copy = r3map_core::Copy::open(&self.from, &self.to, &self.backend.options(&[&self.from, &self.to])?)?
            .deadline(options.deadline);
        if let Some(bytes) = options.max_in_flight {
            copy = copy.max_in_flight(bytes);
        }
        let (interrupts, cancel, started) = (Interrupts::catch()?, Cancel::new(), Instant::now());
        let work = || progress.during("copy", copy.size(), &|| copy.done(), || copy.run(Some(&cancel)));
        interrupts.during(|_| cancel.trigger(), work)?;

        let (bytes, seconds) = (copy.size(), started.elapsed().as_secs_f64());
        let (human, rate) = (HumanBytes(bytes), HumanBytes((bytes as f64 / seconds) as u64));
        let text = format!("copied {human} in {seconds:.2} s ({rate}/s)");
        progress.note("copied", json!({"bytes": bytes, "seconds": seconds}), &text);
        Ok(())
    }
}

//! Which device a view of a mount is given by, and what that device stands on.

use std::sync::Arc;
use std::time::Duration;

use super::{Inner, cache};
use crate::backend::Backend;
use crate::device::{self, Attach, Device, Kind, View, cannot_give};
use crate::error::{Code, Error, Result};
use crate::mount::managed::Managed;
use crate::mount::settled::Settled;
use crate::options::{DeviceChoice, MountOptions, Pull};
use crate::region::Paged;

impl Inner {
    /// Attaches the device that was chosen, or the first that can give this view; the error says what each
    /// would need.
    pub(super) fn attach(&self, view: View) -> Result<Arc<dyn Device>> {
        let kind = match self.options.device {
            DeviceChoice::Nbd(_) => Some(Kind::Nbd),
            DeviceChoice::Userfaultfd | DeviceChoice::UserfaultfdUserMode => Some(Kind::Userfaultfd),
            DeviceChoice::Fuse => Some(Kind::Fuse),
            DeviceChoice::Auto => None,
        };
        if view == View::Slice && self.info.managed_runtime {
            return Err(Error::new(
                Code::Unsupported,
                "a slice over a backend written in Go or Python could wait for itself: use read_at and write_at, \
                 or serve the backend from another process and mount that",
            ));
        }
        if let Some(kind) = kind {
            if !kind.gives(view) {
                return Err(cannot_give(kind, view));
            }
            return self.attach_kind(kind);
        }
        let mut refused = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.gives(view)) {
            if kind == Kind::Nbd && view != View::Slice && self.info.size % 4096 != 0 {
                refused.push("nbd: the size is no multiple of 4096, which a block device would round up".to_owned());
                continue;
            }
            // A slice that is read-only needs less than the probe asks for, and attaching says what is missing.
            let probed = if kind == Kind::Userfaultfd { Ok(()) } else { kind.probe() };
            match probed.and_then(|()| self.attach_kind(kind)) {
                Ok(device) => {
                    tracing::info!(device = %kind, refused = refused.join("; "), "attached");
                    return Ok(device);
                }
                Err(error) => refused.push(format!("{kind}: {error}")),
            }
        }
        Err(Error::new(Code::NoDevice, format!("no device can give a {view} here: {}", refused.join("; "))))
    }

    fn attach_kind(&self, kind: Kind) -> Result<Arc<dyn Device>> {
        let path = match (kind, &self.options.device) {
            (Kind::Nbd, DeviceChoice::Nbd(path)) => path.clone(),
            (Kind::Fuse, _) => self.options.at.clone(),
            _ => None,
        };
        let how = Attach {
            name: self.info.name.clone(),
            read_only: self.info.read_only,
            path,
            read_ahead: self.options.read_ahead.or((self.options.pull == Pull::Demand).then_some(0)),
            deadline: self.options.deadline,
        };
        match kind {
            Kind::Nbd => device::nbd::attach(self.flushed_region(), &how),
            Kind::Fuse => device::fuse::attach(self.flushed_region(), &how),
            Kind::Userfaultfd => {
                let user_mode = self.options.device == DeviceChoice::UserfaultfdUserMode;
                device::userfaultfd::attach(self.pages_of_slice()?.clone(), user_mode, &how)
            }
        }
    }

    /// What a kernel device reads, writes and flushes.
    fn flushed_region(&self) -> Arc<dyn Backend> {
        match (&self.managed, self.cache()) {
            (Some(managed), Some(cache)) => Arc::new(Settled::new(managed.clone(), cache.clone())),
            _ => self.region.clone(),
        }
    }

    /// The pages behind a slice of userfaultfd: the mount's own where they are kept in memory, else pages of
    /// its own over what the mount has.
    fn pages_of_slice(&self) -> Result<&Arc<Managed>> {
        if let Some(managed) = self.managed.as_ref().filter(|managed| managed.can_be_mapped()) {
            return Ok(managed);
        }
        let make = || {
            let quiet = MountOptions {
                pull: Pull::Demand,
                trace: None,
                push_interval: Duration::ZERO,
                read_only: self.info.read_only,
                ..self.options.clone()
            };
            let store = cache::in_memory(self.info.size)?;
            Ok(Arc::new(Managed::new(self.below.clone(), store, self.events.clone(), &quiet)?))
        };
        // Whoever tracks this mount's writes is told of the slice's from the first on.
        self.seeding.tracked(|tracker| {
            self.sliced.get_or_try_init(make).inspect(|sliced| {
                if let Some(tracker) = tracker {
                    sliced.pages().marks().join(tracker);
                }
            })
        })
    }
}

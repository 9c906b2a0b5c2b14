//! What a leecher does with the mount it hands out: prepares it, lets the app in, takes it away.

use std::sync::{Arc, Weak};

use crate::backend::Backend;
use crate::cancel::Limit;
use crate::device::View;
use crate::error::{Code, Result};
use crate::event::Events;
use crate::gate::Gate;
use crate::migration::leecher::core::Tie;
use crate::mount::managed::Managed;
use crate::mount::seeding::Seeding;
use crate::mount::{Inner, Mount};
use crate::options::MountOptions;
use crate::region::Paged;
use crate::stats::Counters;
use crate::thread::Process;
use once_cell::sync::OnceCell;

/// A mount that is there for as long as somebody else has it.
#[derive(Default)]
pub(crate) struct WeakMount(Weak<Inner>);

impl WeakMount {
    /// The mount, if it is still there.
    pub fn upgrade(&self) -> Option<Mount> {
        self.0.upgrade().map(|inner| Mount { inner, cancel: None })
    }
}

impl Mount {
    /// The mount of a region that moves here, with the view attached that was to be prepared. It lets nobody in yet.
    pub(crate) fn leeched(
        feed: Arc<dyn Backend>,
        managed: Arc<Managed>,
        events: Arc<Events>,
        options: MountOptions,
        tie: Tie,
    ) -> Result<Mount> {
        let prepare = options.prepare;
        let mount = Mount {
            inner: Arc::new(Inner {
                process: Process::current(),
                info: managed.info().clone(),
                options,
                gate: Gate::default(),
                counters: Counters::default(),
                events,
                backend: feed,
                owns_backend: false,
                region: managed.clone(),
                direct: None,
                below: managed.clone(),
                managed: Some(managed.clone()),
                sliced: OnceCell::new(),
                device: OnceCell::new(),
                fenced: OnceCell::new(),
                seeding: Seeding::default(),
                leeched: Some(Leeched { tie, payload: OnceCell::new() }),
            }),
            cancel: None,
        };
        if let Some(view) = prepare {
            mount.prepare(view)?;
            managed.pages().close_window();
        }
        mount.inner.gate.refuse(Code::Suspended);
        Ok(mount)
    }

    fn prepare(&self, view: View) -> Result<()> {
        self.attached(view).map(drop).map_err(|error| error.context(format!("prepare a {view}")))
    }

    /// The region is here: the app may read and write.
    pub(crate) fn let_in(&self) {
        let inner = &self.inner;
        if let Some(managed) = &inner.managed {
            managed.pages().open_window();
            if let Some(door) = managed.door() {
                door.set(None);
            }
        }
        inner.gate.reopen(Code::Suspended);
    }

    /// Closes a mount that never let anybody in.
    pub(crate) fn retire(&self) -> Result<()> {
        self.inner.gate.turn(Code::Suspended, Code::Closed);
        self.inner.detach()?;
        self.inner.end()
    }

    /// The region is not here any more: nothing of this process reads or writes it, by any view.
    pub(crate) fn take_away(&self) -> Result<()> {
        let inner = &self.inner;
        for kept in inner.managed.iter().chain(inner.sliced.get()) {
            kept.seal().set(Some(Code::Fenced));
            if let Some(door) = kept.door() {
                door.set(Some(Code::Fenced));
            }
        }
        inner.gate.refuse(Code::Fenced);
        inner.gate.turn(Code::Suspended, Code::Fenced);
        if inner.device.get().is_none() || inner.fenced.get().is_some() {
            return Ok(());
        }
        let _ = inner.fenced.set(inner.region.clone());
        inner.detach()
    }

    /// What the app at the source handed over with the region; nothing where the mount was not leeched.
    pub fn payload(&self) -> &[u8] {
        match &self.inner.leeched {
            Some(leeched) => leeched.payload.get_or_init(|| leeched.tie.payload()),
            None => &[],
        }
    }

    /// The same mount, which this does not keep open.
    pub(crate) fn downgrade(&self) -> WeakMount {
        WeakMount(Arc::downgrade(&self.inner))
    }

    /// Whether it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.gate.refuses(Code::Closed)
    }
}

/// What a mount keeps of the leecher it came from.
pub(super) struct Leeched {
    pub tie: Tie,
    payload: OnceCell<Arc<Vec<u8>>>,
}

impl Inner {
    /// An error where closing a mount would lose bytes of a region that moves here.
    pub(super) fn check_leave(&self, limit: &Limit) -> Result<()> {
        self.leeched.as_ref().map_or(Ok(()), |leeched| leeched.tie.check_leave(limit))
    }
}

//! How a mount comes about: over a backend that the app has, or one that a URL names, which may be away.

use std::sync::Arc;

use once_cell::sync::OnceCell;

use super::cache::{self, Cache};
use super::{Inner, Mount};
use crate::backend::{self, Backend, BackendOptions, Info, remote};
use crate::cancel::Limit;
use crate::error::{Code, Error, Result};
use crate::event::Events;
use crate::gate::Gate;
use crate::mount::direct::Direct;
use crate::mount::managed::Managed;
use crate::mount::seeding::Seeding;
use crate::options::{Mode, MountOptions};
use crate::stats::Counters;
use crate::thread::Process;

/// What is known of a backend that a mount is over.
#[derive(Default)]
pub(super) struct Opened {
    /// Whether it was opened for this mount alone.
    owns_backend: bool,
    /// Whether its greeting asks for the writer's lease, where it is to be written to.
    asks_to_write: bool,
    /// What happened to it so far.
    events: Arc<Events>,
}

/// The cache that the options name, for this backend; `None` for one in memory.
fn open_cache(backend: &Arc<dyn Backend>, options: &MountOptions, events: Arc<Events>) -> Result<Option<Arc<Cache>>> {
    let url = options.cache.as_deref();
    if !cache::is_in_a_file(url)? {
        return Ok(None);
    }
    let lineage = backend.lineage(&Limit::within(options.deadline))?;
    let wanted = cache::Wanted { info: backend.info(), lineage, trust: options.cache_trust, events };
    let cache = Cache::open(url, &wanted)?;
    let may_write = !backend.info().read_only && !options.read_only;
    if let Some(lineage) = lineage.filter(|_| may_write || options.offline) {
        backend.hold(lineage.version);
    }
    Ok(cache)
}

impl MountOptions {
    /// Mounts a backend with these options.
    pub fn open(self, backend: Arc<dyn Backend>) -> Result<Mount> {
        Mount::open(backend, self)
    }

    /// Opens the backend that a URL names and mounts it; closing the mount closes it.
    pub fn open_url(self, url: &str, options: &BackendOptions) -> Result<Mount> {
        let opened = Opened { owns_backend: true, ..Opened::default() };
        // One that may begin without its server has to tell that it is away from that another writes.
        let greeted = if self.read_only || self.offline { Ok(None) } else { remote::open_to_write(url, options) };
        let has_greeted = matches!(greeted, Ok(Some(_)));
        let error = match greeted.and_then(|backend| backend.map_or_else(|| backend::open(url, options), Ok)) {
            Ok(backend) => return Mount::over(backend, self, Opened { asks_to_write: has_greeted, ..opened }),
            Err(error) => error,
        };
        let answered = matches!(
            error.code(),
            Code::InvalidArgument | Code::Unsupported | Code::PermissionDenied | Code::NotAuthenticated | Code::Corrupt
        );
        if !self.offline || answered {
            return Err(error);
        }
        let known = cache::known(self.cache.as_deref())?;
        let ear = {
            let events = opened.events.clone();
            move |away: Option<Error>| match away {
                Some(cause) => events.away(cause),
                None => events.back(),
            }
        };
        let backend = remote::open_away(url, options, &known.facts(self.read_only), Box::new(ear))?;
        tracing::info!(%error, "the remote is away: the mount begins with its cache");
        opened.events.away(error);
        Mount::over(backend, self, Opened { asks_to_write: true, ..opened })
    }
}

impl Mount {
    pub(super) fn over(backend: Arc<dyn Backend>, options: MountOptions, opened: Opened) -> Result<Mount> {
        options.check()?;
        if options.prepare.is_some() || options.overwrite || options.allow_legacy {
            return Err(Error::new(Code::InvalidArgument, "prepare, overwrite and allow_legacy are for a leecher"));
        }
        let info = backend.info().clone();
        let is_managed = match options.mode {
            Mode::Auto => info.managed_by_default || options.cache.is_some(),
            Mode::Managed => true,
            Mode::Direct => false,
        };
        if options.cache.is_some() && !is_managed {
            return Err(Error::new(Code::InvalidArgument, "cache: a direct mount keeps nothing: use mode=managed"));
        }
        if options.offline && !cache::is_in_a_file(options.cache.as_deref())? {
            return Err(Error::new(Code::InvalidArgument, "offline: needs a cache in a file: say cache=file:///…"));
        }
        if options.trace.is_some() && !is_managed {
            return Err(Error::new(
                Code::InvalidArgument,
                "trace: a direct mount pulls nothing by itself: use mode=managed",
            ));
        }
        if !info.read_only && !options.read_only && !opened.asks_to_write {
            backend.claim(&Limit::within(options.deadline))?;
        }
        // What was given away opens all the same, to be seeded again: somebody may still need bytes of it.
        let is_given = backend.home().map_or(Ok(false), |home| home.is_given())?;
        if !is_given {
            backend::check_home(&*backend)?;
        }
        let mounted = Mount::assemble(backend.clone(), options, is_managed, opened);
        let mounted = mounted.inspect_err(|_| backend.release())?;
        if is_given {
            tracing::warn!(name = mounted.inner.info.name, "the region was given to another host: the mount is fenced");
            mounted.inner.gate.refuse(Code::Fenced);
        }
        Ok(mounted)
    }

    fn assemble(backend: Arc<dyn Backend>, options: MountOptions, is_managed: bool, opened: Opened) -> Result<Mount> {
        let info = backend.info().clone();
        let Opened { events, owns_backend, .. } = opened;
        let info = Info { read_only: info.read_only || options.read_only, ..info };
        let info = Info { chunk_size: options.chunk_size.unwrap_or(info.chunk_size), ..info };
        let info = Info { local: info.local && !is_managed, ..info };
        let managed = match is_managed {
            false => None,
            true => {
                let cache = open_cache(&backend, &options, events.clone())?;
                let managed = match cache.clone() {
                    Some(cache) => Managed::caching(backend.clone(), cache, events.clone(), &options),
                    None => Managed::new(backend.clone(), cache::in_memory(info.size)?, events.clone(), &options),
                };
                let started = managed.map(Arc::new).and_then(|managed| managed.start().map(|()| managed));
                Some(started.inspect_err(|_| cache.iter().for_each(|cache| cache.undo()))?)
            }
        };
        let direct = managed.is_none().then(|| Arc::new(Direct::new(backend.clone(), options.read_only)));
        let (region, below): (Arc<dyn Backend>, Arc<dyn Backend>) = match (&managed, &direct) {
            (Some(managed), _) => (managed.clone(), managed.clone()),
            (None, Some(direct)) => (direct.clone(), backend.clone()),
            (None, None) => unreachable!("a mount is managed or direct"),
        };
        Ok(Mount {
            inner: Arc::new(Inner {
                process: Process::current(),
                info,
                options,
                gate: Gate::default(),
                counters: Counters::default(),
                events,
                backend,
                owns_backend,
                region,
                direct,
                managed,
                below,
                sliced: OnceCell::new(),
                device: OnceCell::new(),
                fenced: OnceCell::new(),
                seeding: Seeding::default(),
                leeched: None,
            }),
            cancel: None,
        })
    }
}

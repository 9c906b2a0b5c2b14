//! The side a region moves to: it is pulled while the app at its source goes on writing, and then handed over.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::BackendOptions;
use crate::backend::remote::leech::{Known, Leech, Seed};
use crate::cancel::{Cancel, Limit};
use crate::error::{Code, Error, Result};
use crate::event::Events;
use crate::migration::destination::{Action, Destination};
use crate::migration::home::Homes;
use crate::migration::record::{Record, State};
use crate::migration::{Moved, Runs, part_identity};
use crate::mount::Mount;
use crate::mount::managed::Managed;
use crate::options::{Mode, MountOptions, parse_time};
use crate::page::PAGE;
use crate::region::Region;
use crate::stats::Stats;
use crate::thread::{self, Process};
use crate::wire::Identity;
use crate::wire::greeting::Moving;

pub(crate) mod core;
mod drive;
mod feed;
mod pages;
pub(crate) mod place;
mod plan;
mod pull;

use self::core::{Core, Inbox, Input, Part};
use self::drive::Driver;
use self::feed::Feed;
use self::place::{Local, Place};

/// How long opening waits for a source that takes its time to say whether the region may be pulled.
const ANSWER: Duration = Duration::from_secs(10);

/// Where a leecher stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LeechState {
    /// The source was asked whether the region may be pulled, or cannot be reached.
    Connecting = 1,
    /// The region is being pulled while it is in use at its source.
    Pulling = 2,
    /// The same, but it is written there as fast as it comes here: waiting longer brings the end no nearer.
    Outpaced = 3,
    /// The region was asked for. Whether it is here or there, its source knows.
    Finalizing = 4,
    /// The region is here, and bytes of it still at its source.
    Owner = 5,
    /// The region is here, all of it.
    Complete = 6,
    /// Nothing came of it, and nothing will.
    Ended = 7,
    /// The region was here, and was taken back by force.
    Fenced = 8,
}

impl LeechState {
    /// The name users read, such as `outpaced`.
    pub fn name(self) -> &'static str {
        match self {
            LeechState::Connecting => "connecting",
            LeechState::Pulling => "pulling",
            LeechState::Outpaced => "outpaced",
            LeechState::Finalizing => "finalizing",
            LeechState::Owner => "owner",
            LeechState::Complete => "complete",
            LeechState::Ended => "ended",
            LeechState::Fenced => "fenced",
        }
    }
}

/// A region, or several that move as one, on the way here. Clones are the same leecher; every method may be called
/// from any thread. Dropping the last one ends the attempt, unless its mounts were handed out: those go on by themselves.
#[derive(Clone)]
pub struct Leecher {
    grip: Arc<Grip>,
    process: Process,
    cancel: Option<Cancel>,
}

struct Grip(Arc<Core>);

impl Drop for Grip {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// How to the source.
enum Way<'a> {
    Url(&'a str),
    Descriptor(OwnedFd, &'a str),
}

impl Leecher {
    /// Begins to move the region that the seeder at `url` has to `local`: `memory:`, or a `file:` that is created at
    /// its size, or goes on where an earlier attempt or stay left it. The region is pulled from here on, and stays its
    /// source's until [`finalize`](Leecher::finalize). `busy` while another leecher pulls it, or where `local` has
    /// something else in it.
    ///
    /// A region that is here already but not as a whole, since its last mount was closed or its process killed, is open
    /// at once, also while its source is away.
    pub fn open(url: &str, local: &str, options: MountOptions, backend: &BackendOptions) -> Result<Leecher> {
        Leecher::begin(Way::Url(url), &[local.to_owned()], options, backend)
    }

    /// The same from the seeder of that name behind a connected stream socket, which is the leecher's from here on. There
    /// is this one connection and no other: once it is lost, what has not come never does, until it is leeched anew.
    pub fn connect(
        descriptor: OwnedFd,
        name: &str,
        local: &str,
        options: MountOptions,
        backend: &BackendOptions,
    ) -> Result<Leecher> {
        Leecher::begin(Way::Descriptor(descriptor, name), &[local.to_owned()], options, backend)
    }

    /// The same of regions that move as one, to a place for each in the order in which they were added there.
    pub fn open_group(
        url: &str,
        locals: &[String],
        options: MountOptions,
        backend: &BackendOptions,
    ) -> Result<Leecher> {
        Leecher::begin(Way::Url(url), locals, options, backend)
    }

    fn begin(way: Way<'_>, locals: &[String], options: MountOptions, backend: &BackendOptions) -> Result<Leecher> {
        check(&options)?;
        let first = locals.first().ok_or_else(|| Error::new(Code::InvalidArgument, "leech: no place was named"))?;
        let (session, known) = remembered(first, locals)?;
        let inbox = Arc::new(Inbox::new());
        let ear = {
            let inbox = inbox.clone();
            Box::new(move |heard| inbox.put(Input::Heard(heard)))
        };
        let leech = Leech::new(session, known.clone(), ear);
        let seed = Arc::new(match way {
            Way::Url(url) => Seed::open(url, backend, options.allow_legacy, leech)?,
            Way::Descriptor(descriptor, name) => Seed::connect(descriptor, name, backend, leech)?,
        });
        let moving = seed.moving().or(known.map(|known| Moving { epoch: 0, parts: known.parts }));
        let moving = moving.ok_or_else(|| Error::new(Code::Internal, "leech: a source that did not greet"))?;
        if moving.parts.len() != locals.len() {
            let message =
                format!("leech: {} regions move as one, and {} places were named", moving.parts.len(), locals.len());
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let identity = seed.info().identity.unwrap_or_default();
        let region = Moved { identity, size: seed.info().size, epoch: moving.epoch };
        let (places, homes) = take_places(locals, &moving.parts, region, options.overwrite)?;
        let undo = |error: Error| {
            places.iter().for_each(|place| place.undo());
            error
        };
        let (destination, actions) = resume(&homes, region, options.overwrite).map_err(undo)?;
        let owned = owned_pages(&places, &moving.parts, &destination)?;
        let parts = make_parts(&seed, &places, &moving.parts, owned, &options, &inbox).map_err(undo)?;
        let region = destination.record().region;
        let core = Arc::new(Core::new(seed, region, parts, options, inbox));
        let leecher = Leecher { grip: Arc::new(Grip(core.clone())), process: Process::current(), cancel: None };
        core.make_mounts().map_err(undo)?;
        let driver = Driver::new(core.clone(), homes, destination, actions).map_err(undo)?;
        let thread = thread::spawn("r3map-leech", move || driver.run());
        core.set_thread(thread.map_err(|error| undo(Error::io("start a thread for a leecher", error)))?);
        leecher.wait_answered().map_err(|error| {
            core.stop();
            undo(error)
        })?;
        Ok(leecher)
    }

    /// Waits until the source has said whether the region may be pulled. One that takes longer than the deadline is
    /// asked on.
    fn wait_answered(&self) -> Result<()> {
        let deadline = self.core().options().deadline;
        let limit = Limit::within(if deadline.is_zero() { ANSWER } else { deadline.min(ANSWER) });
        let answered =
            self.core().wait(&limit, "leech", |status| (status.state != LeechState::Connecting).then_some(Ok(())));
        match answered {
            Err(error) if error.code() == Code::Timeout && self.core().status().over.is_none() => Ok(()),
            answered => answered,
        }
    }

    /// The same leecher, each of whose calls through this handle ends with `cancelled` once `cancel` is triggered.
    pub fn with_cancel(&self, cancel: Cancel) -> Leecher {
        Leecher { cancel: Some(cancel), ..self.clone() }
    }

    fn core(&self) -> &Arc<Core> {
        &self.grip.0
    }

    fn enter(&self) -> Result<&Arc<Core>> {
        if !self.process.is_current() {
            let message = "this leecher belongs to the process that was forked: open one in the child";
            return Err(Error::new(Code::Closed, message));
        }
        Ok(self.core())
    }

    fn limit(&self, time: Duration) -> Limit {
        Limit::within(time).with_cancel(self.cancel.clone())
    }

    /// Waits until that share of all bytes, 0 to 1, is here as it is at the source, for at most `timeout` (zero: for
    /// ever). Pages that are written there meanwhile are pulled again for as long as somebody waits: where it is
    /// [outpaced](LeechState::Outpaced) that may take for ever.
    pub fn wait_local(&self, share: f64, timeout: Duration) -> Result<()> {
        self.enter()?.wait_local(share, &self.limit(timeout))
    }

    /// Has the app at the source stop, takes the region over and hands it out: this is the pause. What is missing then
    /// comes afterwards, what the app misses first. Bounded by the option `deadline`, after which it may be called again;
    /// [`state`](Leecher::state) says who has the region. `busy` where the app at the source would not stop. Of several
    /// regions that move as one it is the first; the others come with [`finalize_group`](Leecher::finalize_group).
    pub fn finalize(&self) -> Result<Mount> {
        let core = self.enter()?;
        if core.parts().len() > 1 {
            let message = "finalize: several regions move as one: call finalize_group";
            return Err(Error::new(Code::InvalidArgument, message));
        }
        let mut mounts = self.finalize_group()?;
        mounts.pop().ok_or_else(|| Error::new(Code::Internal, "finalize: a leecher of no region"))
    }

    /// The same of regions that move as one, in their order.
    pub fn finalize_group(&self) -> Result<Vec<Mount>> {
        let core = self.enter()?;
        core.finalize(&self.limit(core.options().deadline))
    }

    /// Waits for at most `timeout` (zero: for ever) until a share is here (`95%`) or until what is missing would come
    /// within a time (`pause<20ms`), then finalizes.
    pub fn finalize_when(&self, when: &str, timeout: Duration) -> Result<Mount> {
        let core = self.enter()?;
        let limit = self.limit(timeout);
        match When::parse(when)? {
            When::Share(share) => core.wait_local(share, &limit)?,
            When::Pause(pause) => core.want(&limit, "wait for a short pause", |status| {
                core.expected_pause(status).is_some_and(|expected| expected < pause)
            })?,
        }
        self.finalize()
    }

    /// Where it stands.
    pub fn state(&self) -> Result<LeechState> {
        Ok(self.enter()?.status().state)
    }

    /// Figures: `size`, `local_bytes`, `missing_bytes`; `dirty_bytes`, written at the source and to be pulled again;
    /// `dirty_rate` and `pull_rate` in bytes a second; `expected_pause_us`, within which all that is missing would come
    /// if the app at the source stopped now; `rounds`; `pulled_bytes`, which came over the network; `matched_bytes`, which
    /// were here already; `epoch`.
    pub fn stats(&self) -> Result<Stats> {
        Ok(self.enter()?.stats())
    }

    /// Ends the attempt; what is here of the region stays in a `file:`, for the next one. What was handed out goes on.
    /// `busy` while the region may be here and nobody knows yet. A source that cannot be reached is not waited for: it takes
    /// this leecher for gone a second after the connection broke if another asks, else at its deadline.
    pub fn close(&self) -> Result<()> {
        let core = self.enter()?;
        core.close(&self.limit(core.options().deadline))
    }
}

/// For what to wait before a region is finalized.
enum When {
    Share(f64),
    Pause(Duration),
}

impl When {
    fn parse(text: &str) -> Result<When> {
        let wrong = || {
            let message =
                format!("finalize_when: {text:?} is neither a share, such as 95%, nor a pause, such as pause<20ms");
            Error::new(Code::InvalidArgument, message)
        };
        if let Some(pause) = text.strip_prefix("pause<") {
            return parse_time(pause).map(When::Pause).map_err(|_| wrong());
        }
        let share: f64 = text.strip_suffix('%').and_then(|share| share.trim().parse().ok()).ok_or_else(wrong)?;
        if (0.0..=100.0).contains(&share) { Ok(When::Share(share / 100.0)) } else { Err(wrong()) }
    }
}

fn check(options: &MountOptions) -> Result<()> {
    options.check()?;
    let refused = [
        ("cache", options.cache.is_some()),
        ("mode=direct", options.mode == Mode::Direct),
        ("offline", options.offline),
        ("trace", options.trace.is_some()),
        ("read_only", options.read_only),
    ];
    match refused.iter().find(|(_, given)| *given) {
        Some((option, _)) => {
            let message = format!("{option}: a region that is moved is kept in its own place, read and written there");
            Err(Error::new(Code::InvalidArgument, message))
        }
        None => Ok(()),
    }
}

/// Whether the region is in the place of this record.
fn is_here(record: &Record) -> bool {
    matches!(record.state, State::Taken | State::Complete | State::Owner)
}

/// The session to go on in and the region, where the place says that it is here, or may be.
fn remembered(first: &str, locals: &[String]) -> Result<(Identity, Option<Known>)> {
    let record = match Local::parse(first)?.remembered()? {
        Some((record, _)) if record.state == State::Willing || is_here(&record) => record,
        _ => return Ok((Identity::default(), None)),
    };
    let mut parts = Vec::new();
    for local in locals {
        parts.extend(Local::parse(local)?.remembered()?.map(|(_, length)| length));
    }
    let Moved { identity, size, .. } = record.region;
    let whole = Moving { epoch: 0, parts: parts.clone() }.size() == Some(size);
    let independent = record.state == State::Owner;
    let known = whole.then_some(Known { identity, size, parts, independent });
    Ok((record.vote.session, known))
}

fn take_places(locals: &[String], sizes: &[u64], region: Moved, overwrite: bool) -> Result<(Vec<Arc<Place>>, Homes)> {
    let mut places: Vec<Arc<Place>> = Vec::new();
    let mut held = Vec::new();
    for (index, (local, size)) in locals.iter().zip(sizes).enumerate() {
        let of_part = Moved { identity: part_identity(region.identity, index), size: *size, epoch: region.epoch };
        let taken = Place::take(local, *size, if index == 0 { region } else { of_part }, overwrite);
        let (place, right) = taken.inspect_err(|_| places.iter().for_each(|place| place.undo()))?;
        places.push(Arc::new(place));
        held.push((right, *size));
    }
    Ok((places, Homes::new(held)))
}

/// The machine that goes on from the record there is.
fn resume(homes: &Homes, region: Moved, overwrite: bool) -> Result<(Destination, Vec<Action>)> {
    let record = homes.load()?;
    if let Some(record) = &record {
        if (record.state == State::Willing || is_here(record)) && !homes.belong_to(record)? {
            let message = "leech: the first place has a region that others moved with, and those named are not they";
            return Err(Error::new(Code::Busy, message).with_retryable(false));
        }
    }
    if let Some(record) = record.as_ref().filter(|record| place::is_owner_since(record, region)) {
        return Ok(Destination::resume(record.clone()));
    }
    match Destination::new(region, record) {
        Err(error) if overwrite && error.code() == Code::Busy => {
            let fresh = Record::new(State::Copy, region);
            homes.save(&fresh)?;
            Destination::new(region, Some(fresh))
        }
        made => made,
    }
}

/// The pages of each place that are the region's and no older copies.
fn owned_pages(places: &[Arc<Place>], sizes: &[u64], destination: &Destination) -> Result<Vec<Runs>> {
    let Record { state, region, .. } = destination.record();
    let of = |(place, size): (&Arc<Place>, &u64)| match state {
        State::Complete | State::Owner => Ok(Runs::all(size.div_ceil(PAGE))),
        state => place.map_pages(*region, *state == State::Taken),
    };
    places.iter().zip(sizes).map(of).collect()
}

fn make_parts(
    seed: &Arc<Seed>,
    places: &[Arc<Place>],
    sizes: &[u64],
    owned: Vec<Runs>,
    options: &MountOptions,
    inbox: &Arc<Inbox>,
) -> Result<Vec<Part>> {
    let mut start = 0;
    let mut parts = Vec::new();
    for ((place, size), owned) in places.iter().zip(sizes).zip(owned) {
        let feed = Arc::new(Feed::new(seed.clone(), place.clone(), start, *size)?);
        for bytes in place.extents() {
            feed.propose(bytes);
        }
        let file = place.file().try_clone().map_err(|error| Error::io("copy a descriptor", error))?;
        let landed = inbox.signal.clone();
        let region = Region::owning(feed.clone(), file, options.chunk_size, place.clone(), landed)?;
        owned.iter().for_each(|run| region.found(run.clone()));
        let events = Arc::new(Events::default());
        let managed = Arc::new(Managed::owning(region, place.clone(), events.clone(), options)?);
        parts.push(Part::new(start / PAGE, managed, feed, place.clone(), events));
        start = Moving::after(start, *size).unwrap_or(u64::MAX);
    }
    Ok(parts)
}

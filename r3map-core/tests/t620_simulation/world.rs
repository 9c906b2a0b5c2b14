//! Hosts, their disks, the network between them and an app that writes, all by one seed and one clock.

use std::collections::BTreeMap;

use r3map_core::migration::destination::{self, Destination, Told};
use r3map_core::migration::record::{Record, State};
use r3map_core::migration::source::{self, Source, What};
use r3map_core::migration::tracker::{Again, Tracker};
use r3map_core::migration::{Dirty, Message, Moved};

mod check;
mod users;

pub const HOSTS: usize = 3;
pub const PAGES: usize = 6;
/// Faults end here; then everything has to come to its end.
const CHAOS: u64 = 3_000;
const END: u64 = CHAOS + 3_000;
/// How long a source waits for a destination that says nothing.
const PATIENCE: u64 = 150;

/// A rule that the driver breaks, to see that the simulation notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// What a record says is acted on before it is on disk.
    ActsBeforeTheDisk,
    /// A destination takes a long silence for an abort.
    TakesSilenceForAnAbort,
    /// Pages that were written meanwhile stay valid at the destination.
    KeepsWhatIsDirty,
    /// A pull that was under way when its page was written is stored.
    KeepsLatePulls,
    /// A write is acknowledged before it is marked.
    MarksTooLate,
    /// A source that suspends does not wait for writes under way.
    WaitsForNoWriter,
    /// A destination that voted and was restarted trusts what it had pulled.
    TrustsAfterARestart,
    /// A destination's own writes give way to what it pulls.
    PullsOverWrites,
    /// A source that was restarted forgets that it gave the region away.
    ForgetsThatItGave,
}

/// What travels.
#[derive(Clone, Debug)]
enum Packet {
    Said(Message),
    Read { id: u64, session: [u8; 16], page: usize },
    Bytes { id: u64, value: u64 },
}

/// What happens at some moment.
enum Happening {
    Arrive {
        from: usize,
        to: usize,
        packet: Packet,
    },
    /// Something that a host began is done, unless it died since.
    Done {
        host: usize,
        life: u64,
        work: Work,
    },
    Tick {
        host: usize,
    },
    Write,
    Crash {
        host: usize,
    },
    Restart {
        host: usize,
    },
}

enum Work {
    Armed {
        step: u64,
    },
    Stopped {
        sequence: u64,
        refuses: bool,
    },
    Quiesced {
        step: u64,
        acknowledged: u64,
    },
    /// The bytes of a record reach the disk, or fail to.
    Saved {
        side: Side,
        step: u64,
        record: Record,
        fails: bool,
    },
    Answered {
        side: Side,
        step: u64,
        failed: bool,
    },
    Settled {
        step: u64,
    },
    Acknowledged {
        page: usize,
        value: u64,
    },
    Marked {
        page: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

struct Pull {
    id: u64,
    page: usize,
    since: u64,
    lost: bool,
}

struct Host {
    // What survives its death.
    record: Option<Record>,
    bytes: [u64; PAGES],
    present: [bool; PAGES],
    // What does not.
    life: u64,
    up: bool,
    source: Option<Source>,
    /// The other side, and which host that is.
    destination: Option<(Destination, usize)>,
    tracker: Tracker,
    again: Again,
    pulls: Vec<Pull>,
    pulls_from: Option<[u8; 16]>,
    /// The app was asked to stop, and did.
    stopped: bool,
    shut: bool,
    writing: Option<usize>,
    heard: u64,
    silent: u64,
}

pub struct World {
    random: u64,
    now: u64,
    order: u64,
    events: BTreeMap<(u64, u64), Happening>,
    hosts: Vec<Host>,
    /// What each page may read as: the last write that was acknowledged, and those that never were or are not yet.
    allowed: Vec<Vec<u64>>,
    broken: Broken,
    next: u64,
    pub moves: u64,
    pub crashes: u64,
    pub refusals: u64,
    /// What happened, where somebody wants to read it.
    pub trace: Option<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, broken: Broken) -> World {
        let region = Moved { identity: [1; 16], size: PAGES as u64 * 4096 - 100, epoch: 1 };
        let host = |index: usize| Host {
            record: (index == 0).then(|| Record::new(State::Owner, region)),
            bytes: [0; PAGES],
            present: [index == 0; PAGES],
            life: 0,
            up: false,
            source: None,
            destination: None,
            tracker: Tracker::new(PAGES as u64).unwrap(),
            again: Again::default(),
            pulls: Vec::new(),
            pulls_from: None,
            stopped: false,
            shut: false,
            writing: None,
            heard: 0,
            silent: 0,
        };
        let mut world = World {
            random: seed,
            now: 0,
            order: 0,
            events: BTreeMap::new(),
            hosts: (0..HOSTS).map(host).collect(),
            allowed: vec![vec![0]; PAGES],
            broken,
            next: 0,
            moves: 0,
            crashes: 0,
            refusals: 0,
            trace: None,
        };
        for host in 0..HOSTS {
            world.restart(host);
            world.at(1 + host as u64, Happening::Tick { host });
        }
        world.at(1, Happening::Write);
        for _ in 0..world.below(5) {
            let (when, host) = (world.below(CHAOS - 200), world.below(HOSTS as u64) as usize);
            world.at(when, Happening::Crash { host });
        }
        world
    }

    /// Runs to the end, or to the first rule that does not hold.
    pub fn run(&mut self) -> Result<(), String> {
        while let Some(((now, _), event)) = self.events.pop_first() {
            self.now = now;
            if now > END {
                break;
            }
            self.happen(event);
            self.check().map_err(|what| format!("at {now}: {what}"))?;
        }
        self.check_end()
    }

    // splitmix64
    fn number(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// True in so many of a hundred cases, while there is chaos.
    fn fault(&mut self, percent: u64) -> bool {
        self.below(100) < percent && self.now < CHAOS
    }

    fn name(&mut self) -> [u8; 16] {
        self.next += 1;
        let mut name = [0; 16];
        name[..8].copy_from_slice(&self.next.to_le_bytes());
        name
    }

    fn at(&mut self, delay: u64, event: Happening) {
        self.order += 1;
        self.events.insert((self.now + delay, self.order), event);
    }

    fn work(&mut self, host: usize, longest: u64, work: Work) {
        let (delay, life) = (self.below(longest), self.hosts[host].life);
        self.at(delay, Happening::Done { host, life, work });
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:5} {}", self.now, what()));
        }
    }

    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        self.note(|| format!("{from} → {to}: {packet:?}"));
        let copies = if self.fault(12) { 0 } else { 1 + u64::from(self.fault(12)) };
        for _ in 0..copies {
            let slow = if self.fault(10) { 400 } else { 12 };
            let delay = 1 + self.below(slow);
            // Somebody has the address of another host.
            let to = if self.fault(3) { self.below(HOSTS as u64) as usize } else { to };
            self.at(delay, Happening::Arrive { from, to, packet: packet.clone() });
        }
    }

    fn happen(&mut self, event: Happening) {
        match event {
            Happening::Arrive { from, to, packet } if self.hosts[to].up => self.arrive(from, to, packet),
            Happening::Arrive { .. } => {}
            Happening::Done { host, life, work } => {
                if self.hosts[host].up && self.hosts[host].life == life {
                    self.done(host, work);
                }
            }
            Happening::Tick { host } => {
                self.tick(host);
                self.at(20, Happening::Tick { host });
            }
            Happening::Write => {
                self.write();
                let pause = 1 + self.below(12);
                self.at(pause, Happening::Write);
            }
            Happening::Crash { host } => self.crash(host),
            Happening::Restart { host } => self.restart(host),
        }
    }

    fn crash(&mut self, index: usize) {
        if !self.hosts[index].up {
            return;
        }
        self.note(|| format!("{index} dies"));
        self.crashes += 1;
        let host = &mut self.hosts[index];
        host.up = false;
        host.life += 1;
        (host.source, host.destination, host.writing) = (None, None, None);
        let longest = if self.fault(30) { 900 } else { 100 };
        let pause = 1 + self.below(longest);
        self.at(pause, Happening::Restart { host: index });
    }

    fn restart(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        host.up = true;
        host.tracker = Tracker::new(PAGES as u64).unwrap();
        (host.again, host.pulls, host.pulls_from) = Default::default();
        (host.stopped, host.shut, host.heard) = (false, false, now);
        let mut record = host.record.clone();
        self.note(|| format!("{index} starts with {:?}", record.as_ref().map(|record| record.state)));
        if let Some(record) = record.as_mut().filter(|record| record.state == State::Given) {
            if self.broken == Broken::ForgetsThatItGave {
                record.state = State::Owner;
            }
        }
        match record.as_ref().map(|record| record.state) {
            None | Some(State::Copy) => self.hosts[index].present = [false; PAGES],
            Some(State::Owner | State::Given | State::Drained) => {
                let (source, actions) = Source::new(record.unwrap()).unwrap();
                self.hosts[index].source = Some(source);
                self.source_does(index, actions);
            }
            Some(state) => {
                if state == State::Willing && self.broken != Broken::TrustsAfterARestart {
                    self.hosts[index].present = [false; PAGES];
                }
                let (destination, actions) = Destination::resume(record.unwrap());
                // The user says again from where; here, from whoever gave or could give it.
                let peer = (0..HOSTS).find(|peer| self.gave_to(*peer, index)).unwrap_or((index + 1) % HOSTS);
                self.hosts[index].destination = Some((destination, peer));
                self.destination_does(index, actions);
            }
        }
    }

    fn gave_to(&self, peer: usize, index: usize) -> bool {
        let (Some(theirs), Some(mine)) = (&self.hosts[peer].record, &self.hosts[index].record) else { return false };
        let gave = matches!(theirs.state, State::Given | State::Drained) && theirs.vote == mine.vote;
        let may = theirs.state == State::Owner && mine.state == State::Willing;
        peer != index && (gave || may && theirs.region.epoch + 1 == mine.vote.epoch)
    }

    fn source_on(&mut self, index: usize, event: source::Event) {
        let Some(source) = &mut self.hosts[index].source else { return };
        match source.on(event) {
            Ok(actions) => self.source_does(index, actions),
            Err(error) => self.note(|| format!("{index}: {error}")),
        }
    }

    fn destination_on(&mut self, index: usize, event: destination::Event) {
        let Some((destination, _)) = &mut self.hosts[index].destination else { return };
        match destination.on(event) {
            Ok(actions) => self.destination_does(index, actions),
            Err(error) => self.note(|| format!("{index}: {error}")),
        }
    }

    fn save(&mut self, index: usize, side: Side, step: u64, record: Record) {
        let fails = self.fault(4);
        if self.broken == Broken::ActsBeforeTheDisk && !fails {
            self.work(index, 1, Work::Answered { side, step, failed: false });
        }
        self.work(index, 15, Work::Saved { side, step, record, fails });
    }

    fn source_does(&mut self, index: usize, actions: Vec<source::Action>) {
        use source::Action;
        for action in actions {
            self.note(|| format!("{index} source: {action:?}"));
            match action {
                Action::Send(message) => {
                    // To whoever may have asked, by mistake too: who is not meant passes it over.
                    for to in (0..HOSTS).filter(|to| *to != index) {
                        if self.hosts[to].destination.is_some() {
                            self.send(index, to, Packet::Said(message.clone()));
                        }
                    }
                }
                Action::Arm { step } => self.work(index, 5, Work::Armed { step }),
                Action::Disarm => self.hosts[index].tracker.disarm(),
                Action::Collect { session, acknowledged } => {
                    if let Some((round, pages)) = self.hosts[index].tracker.round(acknowledged) {
                        self.source_on(index, source::Event::Collected { session, round, pages });
                    }
                }
                Action::Quiesce { step, acknowledged } => {
                    self.hosts[index].shut = true;
                    self.work(index, 10, Work::Quiesced { step, acknowledged });
                }
                Action::Reopen => (self.hosts[index].shut, self.hosts[index].stopped) = (false, false),
                Action::Persist { step, record } => self.save(index, Side::Source, step, record),
                Action::Fence => self.hosts[index].shut = true,
                Action::Tell(told) => match told.what {
                    What::Suspending => {
                        let refuses = self.fault(15);
                        self.work(index, 30, Work::Stopped { sequence: told.sequence, refuses });
                    }
                    What::Resumed { .. } => {
                        self.hosts[index].stopped = false;
                        self.refusals += 1;
                    }
                    _ => {}
                },
            }
        }
    }

    fn destination_does(&mut self, index: usize, actions: Vec<destination::Action>) {
        use destination::Action;
        for action in actions {
            self.note(|| format!("{index} destination: {action:?}"));
            let keeps = self.broken == Broken::KeepsWhatIsDirty;
            match action {
                Action::Send(message) => {
                    let to = self.hosts[index].destination.as_ref().map_or(index, |(_, peer)| *peer);
                    self.send(index, to, Packet::Said(message));
                }
                Action::Persist { step, record } => self.save(index, Side::Destination, step, record),
                Action::Pull { session } => {
                    let host = &mut self.hosts[index];
                    host.present = [false; PAGES];
                    host.pulls.clear();
                    host.pulls_from = Some(session);
                }
                Action::Stop => {
                    let host = &mut self.hosts[index];
                    host.present = [false; PAGES];
                    host.pulls.clear();
                    host.pulls_from = None;
                }
                Action::Forget { round, pages } => {
                    if !keeps {
                        self.forget(index, |page| pages.contains(page as u64));
                        self.hosts[index].again.dirtied(round, &pages);
                    }
                }
                Action::Settle { step, dirty } => {
                    if !keeps {
                        match &dirty {
                            Dirty::All if self.broken == Broken::TrustsAfterARestart => {}
                            Dirty::All => self.forget(index, |_| true),
                            Dirty::Pages(pages) => self.forget(index, |page| pages.contains(page as u64)),
                        }
                    }
                    self.work(index, 5, Work::Settled { step });
                }
                Action::Open { session, .. } => {
                    let host = &mut self.hosts[index];
                    host.pulls_from = Some(session);
                    (host.shut, host.stopped) = (false, false);
                    self.moves += 1;
                }
                Action::Fence => self.hosts[index].shut = true,
                Action::Tell(Told::Drained) => self.settle_down(index),
                Action::Tell(Told::Refused { .. } | Told::Ended { .. } | Told::Aborted { tracking: false, .. }) => {
                    self.refusals += 1;
                }
                Action::Tell(_) => {}
            }
        }
    }

    fn forget(&mut self, index: usize, old: impl Fn(usize) -> bool) {
        let lose = self.broken != Broken::KeepsLatePulls;
        let host = &mut self.hosts[index];
        (0..PAGES).filter(|page| old(*page)).for_each(|page| host.present[page] = false);
        host.pulls.iter_mut().filter(|pull| old(pull.page)).for_each(|pull| pull.lost |= lose);
    }

    /// A destination that nothing ties to its source is a mount like any other: it can be seeded.
    fn settle_down(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let (destination, _) = host.destination.take().unwrap();
        let (source, actions) = Source::new(destination.record().clone()).unwrap();
        host.source = Some(source);
        self.source_does(index, actions);
    }

    fn arrive(&mut self, from: usize, to: usize, packet: Packet) {
        let now = self.now;
        match packet {
            Packet::Said(message) => {
                let from_source = matches!(
                    message,
                    Message::Tracking { .. }
                        | Message::Dirty { .. }
                        | Message::Pending { .. }
                        | Message::Given { .. }
                        | Message::Aborted { .. }
                        | Message::Drained { .. }
                        | Message::Refused { .. }
                );
                if from_source {
                    self.hosts[to].silent = now;
                    self.destination_on(to, destination::Event::Received(message));
                } else {
                    self.hosts[to].heard = now;
                    self.source_on(to, source::Event::Received(message));
                }
            }
            Packet::Read { id, session, page } => {
                let host = &self.hosts[to];
                if host.source.as_ref().is_some_and(|source| source.serves(session)) {
                    let value = host.bytes[page];
                    self.send(to, from, Packet::Bytes { id, value });
                }
            }
            Packet::Bytes { id, value } => {
                let over = self.broken == Broken::PullsOverWrites;
                let host = &mut self.hosts[to];
                let Some(at) = host.pulls.iter().position(|pull| pull.id == id) else { return };
                let pull = host.pulls.swap_remove(at);
                if !pull.lost && (over || !host.present[pull.page]) {
                    host.bytes[pull.page] = value;
                    host.present[pull.page] = true;
                }
            }
        }
    }

    fn done(&mut self, index: usize, work: Work) {
        match work {
            Work::Armed { step } => {
                self.hosts[index].tracker.arm();
                let session = self.name();
                self.source_on(index, source::Event::Armed { step, session });
            }
            Work::Stopped { sequence, refuses } => {
                if refuses {
                    let reason = "not now".to_owned();
                    return self.source_on(index, source::Event::Refused { sequence, reason });
                }
                self.hosts[index].stopped = true;
                self.source_on(index, source::Event::Suspended { sequence, payload: vec![7; 3] });
                // Stopped for nothing: the suspending was called off.
                if !self.hosts[index].shut {
                    self.hosts[index].stopped = false;
                }
            }
            Work::Quiesced { step, acknowledged } => {
                let waits = self.broken != Broken::WaitsForNoWriter;
                if self.hosts[index].writing.is_some() && waits {
                    return self.work(index, 5, Work::Quiesced { step, acknowledged });
                }
                let rest = self.hosts[index].tracker.rest(acknowledged).filter(|_| !self.fault(5));
                let event = match rest {
                    Some(pages) => source::Event::Quiesced { step, dirty: Dirty::Pages(pages) },
                    None => source::Event::Disturbed { step, reason: "a stray write".to_owned() },
                };
                self.source_on(index, event);
            }
            Work::Saved { side, step, record, fails } => {
                if self.fault(3) {
                    return self.crash(index);
                }
                // One that fails may have reached the disk all the same.
                if !fails || self.below(2) == 0 {
                    self.note(|| format!("{index} has on disk {:?} of {}", record.state, record.region.epoch));
                    // Through the form it has on disk.
                    self.hosts[index].record = Some(Record::decode(&record.encode()).unwrap());
                }
                if self.fault(3) {
                    return self.crash(index);
                }
                self.work(index, 5, Work::Answered { side, step, failed: fails });
            }
            Work::Answered { side, step, failed } => {
                let reason = "the disk is full".to_owned();
                match (side, failed) {
                    (Side::Source, false) => self.source_on(index, source::Event::Persisted { step }),
                    (Side::Source, true) => self.source_on(index, source::Event::NotPersisted { step, reason }),
                    (Side::Destination, false) => self.destination_on(index, destination::Event::Persisted { step }),
                    (Side::Destination, true) => {
                        self.destination_on(index, destination::Event::NotPersisted { step, reason });
                    }
                }
            }
            Work::Settled { step } => self.destination_on(index, destination::Event::Settled { step }),
            Work::Acknowledged { page, value } => {
                self.hosts[index].writing = None;
                if self.broken == Broken::MarksTooLate {
                    self.work(index, 60, Work::Marked { page });
                } else {
                    self.hosts[index].tracker.mark(page as u64..page as u64 + 1);
                }
                self.allowed[page] = vec![value];
            }
            Work::Marked { page } => self.hosts[index].tracker.mark(page as u64..page as u64 + 1),
        }
    }

    /// Whether an app at this host may write.
    fn is_open(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        host.up && !host.shut && self.owns(index)
    }

    fn owns(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        let destination = host.destination.as_ref().is_some_and(|(destination, _)| destination.owns());
        host.up && (destination || host.source.as_ref().is_some_and(Source::owns))
    }

    /// The app writes wherever it runs: the bytes now, the acknowledgement a little later.
    fn write(&mut self) {
        for index in 0..HOSTS {
            if !self.is_open(index) || self.hosts[index].stopped || self.hosts[index].writing.is_some() {
                continue;
            }
            self.next += 1;
            let (page, value) = (self.below(PAGES as u64) as usize, self.next);
            let lose = self.broken != Broken::PullsOverWrites;
            let host = &mut self.hosts[index];
            host.writing = Some(page);
            host.bytes[page] = value;
            host.present[page] = true;
            host.pulls.iter_mut().filter(|pull| pull.page == page).for_each(|pull| pull.lost |= lose);
            self.allowed[page].push(value);
            self.work(index, 6, Work::Acknowledged { page, value });
        }
    }
}

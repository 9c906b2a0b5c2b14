//! What hosts and their users do as time passes.

use r3map_core::migration::Message;
use r3map_core::migration::destination::{self, Destination};
use r3map_core::migration::source::{self, Source};

use super::{Broken, CHAOS, HOSTS, PAGES, PATIENCE, Packet, Pull, World};

impl World {
    /// Time passes at a host: what was lost is said again, what is missing asked for, and users have ideas.
    pub(super) fn tick(&mut self, index: usize) {
        if !self.hosts[index].up {
            return;
        }
        let now = self.now;
        self.source_on(index, source::Event::Again);
        if now > self.hosts[index].heard + PATIENCE {
            // The driver knows the session of the connection that fell silent; here it is looked up in the actions.
            let session = self.session_of(index);
            self.source_on(index, source::Event::Lost { session });
            self.hosts[index].heard = now;
        }
        if self.hosts[index].destination.is_none() {
            return self.begin(index);
        }
        // Where nobody answers any more, the user asks whoever has the region now.
        let owner = (0..HOSTS).find(|owner| *owner != index && self.owns(*owner));
        let unheard = now > self.hosts[index].silent + 4 * PATIENCE;
        if let Some((destination, peer)) = &mut self.hosts[index].destination {
            if destination.is_bound() && unheard {
                *peer = owner.unwrap_or(*peer);
            }
        }
        self.destination_on(index, destination::Event::Again);
        self.destination_on(index, destination::Event::Round);
        self.pull(index);
        let Some((destination, peer)) = &self.hosts[index].destination else { return };
        let (peer, vote) = (*peer, destination.record().vote);
        let (tracking, bound, owns) = (destination.is_tracking(), destination.is_bound(), destination.owns());
        if destination.is_idle() {
            // The attempt came to nothing.
            self.hosts[index].destination = None;
            return;
        }
        if tracking && self.below(100) < 20 {
            self.destination_on(index, destination::Event::Finalize);
        } else if bound && self.broken == Broken::TakesSilenceForAnAbort {
            if now > self.hosts[index].silent + PATIENCE {
                let reason = "silence".to_owned();
                let abort = Message::Aborted { vote, epoch: 0, tracking: false, reason };
                self.destination_on(index, destination::Event::Received(abort));
            }
        } else if !owns && !bound && self.fault(2) {
            // The user gives the attempt up; or finds that the source went elsewhere.
            self.note(|| format!("{index} gives up on {peer}"));
            self.crash(index);
        }
    }

    fn session_of(&self, index: usize) -> [u8; 16] {
        let candidates = self.hosts.iter().filter_map(|host| host.pulls_from).chain((1..=self.next).map(|number| {
            let mut name = [0; 16];
            name[..8].copy_from_slice(&number.to_le_bytes());
            name
        }));
        let source = self.hosts[index].source.as_ref();
        candidates.into_iter().find(|name| source.is_some_and(|source| source.serves(*name))).unwrap_or([0; 16])
    }

    /// Now and then somebody wants the region here.
    fn begin(&mut self, index: usize) {
        let owner = (0..HOSTS).find(|owner| self.hosts[*owner].source.as_ref().is_some_and(Source::owns));
        let Some(owner) = owner.filter(|owner| *owner != index && self.hosts[*owner].up) else { return };
        if self.now > CHAOS || self.below(100) >= 15 {
            return;
        }
        let region = self.hosts[owner].source.as_ref().unwrap().region();
        if let Ok((destination, actions)) = Destination::new(region, self.hosts[index].record.clone()) {
            let host = &mut self.hosts[index];
            host.source = None;
            host.destination = Some((destination, owner));
            host.silent = self.now;
            self.destination_does(index, actions);
            let attempt = self.name();
            self.destination_on(index, destination::Event::Begin { attempt });
        }
    }

    /// Asks for pages that are not here, and says so once all are.
    fn pull(&mut self, index: usize) {
        let (now, host) = (self.now, &mut self.hosts[index]);
        let Some((destination, peer)) = &host.destination else { return };
        let (owns, peer) = (destination.owns(), *peer);
        let Some(session) = host.pulls_from else { return };
        host.pulls.retain(|pull| now < pull.since + 120);
        if owns && host.present.iter().all(|present| *present) {
            return self.destination_on(index, destination::Event::Local);
        }
        for _ in 0..2 {
            let oldest = self.hosts[index].again.next(1).map(|run| run.start as usize);
            let page = oldest.unwrap_or(self.below(PAGES as u64) as usize);
            if !self.hosts[index].present[page] {
                self.next += 1;
                let id = self.next;
                self.hosts[index].pulls.push(Pull { id, page, since: now, lost: false });
                self.send(index, peer, Packet::Read { id, session, page });
            }
        }
    }
}

//! The rules that have to hold.

use r3map_core::migration::Vote;
use r3map_core::migration::record::State;

use super::{HOSTS, Host, World};

impl World {
    /// What holds at every moment.
    pub(super) fn check(&self) -> Result<(), String> {
        let owners: Vec<_> = (0..HOSTS).filter(|index| self.owns(*index)).collect();
        if owners.len() > 1 {
            return Err(format!("{owners:?} all own the region"));
        }
        let states: Vec<_> = self.hosts.iter().map(|host| host.record.as_ref().map(|record| record.state)).collect();
        let on_disk = |wanted: &[State]| {
            let has = |index: &usize| states[*index].is_some_and(|state| wanted.contains(&state));
            (0..HOSTS).filter(has).collect::<Vec<_>>()
        };
        let owning = on_disk(&[State::Owner, State::Taken, State::Complete]);
        let given = on_disk(&[State::Given]);
        let bound = |vote: Vote| {
            let is = |host: &Host| host.record.as_ref().is_some_and(|r| r.state == State::Willing && r.vote == vote);
            self.hosts.iter().any(is)
        };
        let on_its_way = given.iter().any(|index| bound(self.hosts[*index].record.as_ref().unwrap().vote));
        if owning.len() > 1 || (owning.is_empty() && !on_its_way) {
            return Err(format!("by the disks {owning:?} own the region: {states:?}"));
        }
        for index in owners {
            let host = &self.hosts[index];
            let source = host.destination.as_ref().map(|(_, peer)| *peer);
            for (page, allowed) in self.allowed.iter().enumerate() {
                let from = if host.present[page] { index } else { source.unwrap_or(index) };
                let value = self.hosts[from].bytes[page];
                if !allowed.contains(&value) {
                    return Err(format!("page {page} at {index} is {value}, from {from}, and not one of {allowed:?}"));
                }
            }
        }
        Ok(())
    }

    /// What holds once the faults have been over for a while.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let open: Vec<_> = (0..HOSTS).filter(|index| self.is_open(*index)).collect();
        if open.len() != 1 || self.hosts[open[0]].stopped {
            return Err(format!("in the end the region is open at {open:?}"));
        }
        for (index, host) in self.hosts.iter().enumerate() {
            if host.destination.as_ref().is_some_and(|(destination, _)| !destination.is_idle()) {
                return Err(format!("{index} has not come to its end: {:?}", host.destination));
            }
        }
        Ok(())
    }
}

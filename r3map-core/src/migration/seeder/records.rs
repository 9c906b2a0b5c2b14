//! With which record a seeder begins.

use crate::backend::Backend;
use crate::error::{Code, Error, Result};
use crate::migration::Moved;
use crate::migration::home::{Home, Homes};
use crate::migration::record::{Record, State};
use crate::migration::seeder::truth::Truth;
use crate::wire::socket;

/// Takes the places of the records and makes sure that they can be written: with `trust` in this process, where they
/// cannot be beside the bytes.
pub fn open(truth: &Truth, trust: bool) -> Result<(Homes, Record)> {
    let homes: Vec<_> = truth.seeded().map(|seeded| seeded.home(trust)).collect::<Result<_>>()?;
    let kept = begin(truth, &homes);
    match kept {
        Err((error, true)) if trust => {
            tracing::warn!(%error, "who has the region is kept in this process alone");
            let homes: Vec<_> = truth.seeded().map(|seeded| seeded.home_in_memory()).collect();
            begin(truth, &homes).map_err(|(error, _)| error)
        }
        Err((error, true)) => {
            let todo =
                "who has the region must be written down beside it: make that place writable, or say cache_trust";
            Err(error.context(todo))
        }
        kept => kept.map_err(|(error, _)| error),
    }
}

/// The region of a truth that is still arriving, as its record says: without taking its place from whoever brings it.
pub fn arriving(truth: &Truth) -> Result<Moved> {
    let home = truth.seeded().next().and_then(|first| first.home(true).ok());
    let record = home.map_or(Ok(None), |home| home.load())?;
    match record.filter(|record| record.region.size == truth.info().size && !record.is_part) {
        Some(record) => Ok(record.region),
        None => {
            let message = "seed: bytes of it are still to arrive from where it came: wait until all are local";
            Err(Error::new(Code::Busy, message))
        }
    }
}

/// The error also says whether all that failed was writing.
fn begin(truth: &Truth, homes: &[std::sync::Arc<Home>]) -> Result<(Homes, Record), (Error, bool)> {
    let mut held = Vec::new();
    for (home, size) in homes.iter().zip(truth.sizes()) {
        held.push((home.hold().map_err(|error| (error, false))?, size));
    }
    let homes = Homes::new(held);
    let record = first(&homes, truth.info().size).map_err(|error| (error, false))?;
    homes.save(&record).map_err(|error| (error, true))?;
    Ok((homes, record))
}

/// The record there is, or that of a region which nobody ever moved, or not with these parts.
fn first(homes: &Homes, size: u64) -> Result<Record> {
    if let Some(record) = homes.load()?.filter(|record| record.region.size == size && !record.is_part) {
        if homes.belong_to(&record)? {
            return Ok(record);
        }
    }
    let mut epoch = 0;
    for record in homes.each()?.into_iter().flatten() {
        if !matches!(record.state, State::Owner | State::Complete) {
            let message = "seed: this was moved together with other regions, or had another size: seed it as it was";
            return Err(Error::new(Code::Fenced, message));
        }
        epoch = epoch.max(record.region.epoch);
    }
    let region = Moved { identity: socket::random()?, size, epoch: epoch + 1 };
    Ok(Record::new(State::Owner, region))
}

//! Where on a tape the newest copy of each chunk lies.
//!
//! It takes memory by runs: chunks that were written in order lie in order, and are one. What it says follows from the
//! records alone; the file it is kept in ([`Snapshot`]) spares reading them all again and no more.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::{Code, Error, Result};
use crate::migration::fields::Fields;
use crate::wire::Identity;

const MAGIC: [u8; 8] = *b"r3mIndx\x01";
/// Bytes before the runs, and of each run.
const FIXED: usize = 8 + 16 + 6 * 8 + 4;
const RUN: usize = 32;
/// In the place of a run's kind.
const ZEROS: u64 = 1;

/// What is known of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It was never written: zeros.
    Unwritten,
    /// It was made zeros.
    Zeros,
    /// The address of its newest copy; of a run's further chunks, the addresses behind it.
    At(u64),
    /// A record that was written later than what is known of it cannot be read, and may be about this chunk.
    Doubtful,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// The chunk behind the last.
    end: u64,
    /// Of the record of the first chunk, or of all of them where they are zeros.
    address: u64,
    zeros: bool,
}

/// The newest copy of each chunk, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// By the first chunk; none overlap.
    runs: BTreeMap<u64, Run>,
    /// From one record's address to the next.
    step: u64,
    /// What lies before this address may be older than a record that cannot be read.
    doubt: u64,
}

impl Index {
    /// The index of a tape without records, whose addresses are `step` apart.
    pub fn new(step: u64) -> Index {
        Index { runs: BTreeMap::new(), step, doubt: 0 }
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Says that the newest copy of a chunk lies at that address.
    pub fn set(&mut self, chunk: u64, address: u64) {
        self.clear(chunk..chunk + 1);
        if let Some((first, before)) = self.runs.range_mut(..chunk).next_back() {
            if before.end == chunk && !before.zeros && before.address + (chunk - first) * self.step == address {
                before.end = chunk + 1;
                return;
            }
        }
        self.runs.insert(chunk, Run { end: chunk + 1, address, zeros: false });
    }

    /// Says that these chunks are zeros since the record at that address.
    pub fn set_zeros(&mut self, chunks: Range<u64>, address: u64) {
        self.clear(chunks.clone());
        self.runs.insert(chunks.start, Run { end: chunks.end, address, zeros: true });
    }

    /// Says that the record at that address cannot be read: nothing says what it was about.
    pub fn set_unreadable(&mut self, address: u64) {
        self.doubt = self.doubt.max(address + 1);
    }

    fn clear(&mut self, chunks: Range<u64>) {
        let cut = |run: &Run, first: u64, at: u64| {
            let address = if run.zeros { run.address } else { run.address + (at - first) * self.step };
            (at, Run { address, ..*run })
        };
        let mut rests = Vec::new();
        if let Some((first, run)) =
            self.runs.range_mut(..chunks.start).next_back().filter(|(_, r)| r.end > chunks.start)
        {
            if run.end > chunks.end {
                rests.push(cut(run, *first, chunks.end));
            }
            run.end = chunks.start;
        }
        while let Some((&first, &run)) = self.runs.range(chunks.clone()).next() {
            self.runs.remove(&first);
            if run.end > chunks.end {
                rests.push(cut(&run, first, chunks.end));
            }
        }
        self.runs.extend(rests);
    }

    /// What is known of a chunk, and of how many from it on it is known alike.
    pub fn find(&self, chunk: u64) -> (Place, u64) {
        let unwritten = if self.doubt > 0 { Place::Doubtful } else { Place::Unwritten };
        match self.runs.range(..=chunk).next_back().filter(|(_, run)| run.end > chunk) {
            Some((_, run)) if run.zeros && run.address >= self.doubt => (Place::Zeros, run.end - chunk),
            Some((_, run)) if run.zeros => (Place::Doubtful, run.end - chunk),
            Some((first, run)) => match run.address + (chunk - first) * self.step {
                address if address >= self.doubt => (Place::At(address), run.end - chunk),
                _ => (Place::Doubtful, 1),
            },
            None => (unwritten, self.runs.range(chunk..).next().map_or(u64::MAX, |(next, _)| *next) - chunk),
        }
    }
}

/// Where the next record goes, and what it has to say of the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The address of the next record.
    pub address: u64,
    /// Its number.
    pub number: u64,
    /// The checksum of the head before it.
    pub prior: u32,
    /// The address of the record before it, if there is one.
    pub last: u64,
}

/// An index as it is kept in a file: of the records up to its end, all of which were durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The tape's.
    pub id: Identity,
    /// What the records say.
    pub index: Index,
    /// Up to where.
    pub end: End,
}

impl Snapshot {
    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        let Snapshot { id, index, end } = self;
        let mut bytes = Vec::with_capacity(FIXED + index.len() * RUN + 4);
        bytes.extend(MAGIC);
        bytes.extend(id);
        for number in [end.address, end.number, end.last, index.step, index.doubt, index.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(end.prior.to_le_bytes());
        for (first, run) in &index.runs {
            for number in [*first, run.end, run.address, if run.zeros { ZEROS } else { 0 }] {
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Reads an index of a region of so many chunks, whose records are `step` addresses apart. Whatever could not have
    /// been written for that is `corrupt`; its runs are in order, in the region, and lie before its end.
    pub fn decode(bytes: &[u8], chunks: u64, step: u64) -> Result<Snapshot> {
        let refused = |why: &str| Error::new(Code::Corrupt, format!("an index was refused: {why}"));
        let Some((fields, crc)) = bytes.split_last_chunk::<4>().filter(|(fields, _)| fields.len() >= FIXED) else {
            return Err(refused("it ends early"));
        };
        if crc32c::crc32c(fields).to_le_bytes() != *crc {
            return Err(refused("it fails its checksum"));
        }
        let mut fields = Fields::new(fields, "an index");
        if fields.bytes(8)? != MAGIC {
            return Err(refused("it is none"));
        }
        let id = fields.identity()?;
        let (address, number, last) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (its_step, doubt, count) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let end = End { address, number, prior: fields.u32()?, last };
        if its_step != step || doubt > address || (number > 0 && last >= address) {
            return Err(refused("it is of another kind of tape"));
        }
        if fields.left() % RUN != 0 || (fields.left() / RUN) as u64 != count {
            return Err(refused("it has another number of runs than it says"));
        }
        let mut index = Index { runs: BTreeMap::new(), step, doubt };
        let mut behind = 0;
        for _ in 0..count {
            let (first, until, address, kind) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
            let zeros = kind == ZEROS;
            let span = if zeros { Some(0) } else { until.wrapping_sub(first).wrapping_sub(1).checked_mul(step) };
            let newest = span.and_then(|span| address.checked_add(span));
            let fits = behind <= first && first < until && until <= chunks && kind <= ZEROS;
            if !fits || newest.is_none_or(|newest| newest >= end.address) {
                return Err(refused("a run is outside the region or the tape"));
            }
            index.runs.insert(first, Run { end: until, address, zeros });
            behind = until;
        }
        Ok(Snapshot { id, index, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKS: u64 = 40;

    /// An index that many writes and zeroes made, and what a plain array says of it.
    fn written(seed: u64, step: u64) -> (Index, Vec<Place>, u64) {
        let (mut index, mut expected) = (Index::new(step), vec![Place::Unwritten; CHUNKS as usize]);
        let (mut random, mut address) = (seed, 0);
        let mut below = |most: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % most
        };
        for _ in 0..below(400) {
            let first = below(CHUNKS);
            let count = 1 + below((CHUNKS - first).min(9));
            if below(4) == 0 {
                index.set_zeros(first..first + count, address);
                expected[first as usize..][..count as usize].fill(Place::Zeros);
                address += step;
            } else {
                for chunk in first..first + count {
                    index.set(chunk, address);
                    expected[chunk as usize] = Place::At(address);
                    address += step;
                }
            }
            address += below(2);
        }
        (index, expected, address)
    }

    #[test]
    fn it_says_of_every_chunk_what_a_plain_array_says_and_joins_what_lies_in_order() {
        for seed in 0..300 {
            let step = 1 + seed % 3;
            let (index, expected, _) = written(seed, step);
            for chunk in 0..CHUNKS {
                let (place, alike) = index.find(chunk);
                assert_eq!(place, expected[chunk as usize], "seed {seed}, chunk {chunk}");
                assert!(alike >= 1);
                for further in 1..alike.min(CHUNKS - chunk) {
                    let wanted = match place {
                        Place::At(address) => Place::At(address + further * step),
                        place => place,
                    };
                    assert_eq!(expected[(chunk + further) as usize], wanted, "seed {seed}, chunk {chunk}+{further}");
                }
            }
        }
        let mut index = Index::new(3);
        (0..1000).for_each(|chunk| index.set(chunk, 5 + chunk * 3));
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn what_may_be_older_than_an_unreadable_record_is_doubtful_until_it_is_written_again() {
        let mut index = Index::new(1);
        index.set(0, 0);
        index.set_zeros(1..3, 1);
        index.set_unreadable(2);
        index.set(5, 3);
        for chunk in [0, 1, 2, 4, 7] {
            assert_eq!(index.find(chunk).0, Place::Doubtful, "{chunk}");
        }
        assert_eq!(index.find(5).0, Place::At(3));
        index.set(0, 4);
        index.set_zeros(2..8, 5);
        assert_eq!((index.find(0).0, index.find(1).0, index.find(7).0), (Place::At(4), Place::Doubtful, Place::Zeros));
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_written_and_damage_or_another_tapes_is_refused() {
        for seed in 0..50 {
            let (index, _, address) = written(seed, 2);
            let end = End { address: address + 2, number: address, prior: 9, last: address };
            let snapshot = Snapshot { id: [3; 16], index, end };
            let bytes = snapshot.encode();
            assert_eq!(Snapshot::decode(&bytes, CHUNKS, 2).unwrap(), snapshot);
            assert!(Snapshot::decode(&bytes, CHUNKS, 3).is_err());
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                assert_eq!(Snapshot::decode(&flipped, CHUNKS, 2).unwrap_err().code(), Code::Corrupt, "{seed}: {at}");
                assert!(Snapshot::decode(&bytes[..at], CHUNKS, 2).is_err());
            }
        }
    }

    #[test]
    fn runs_that_cannot_be_are_refused_with_the_right_checksum_too() {
        let run = |first, end, address, zeros| (first, Run { end, address, zeros });
        for runs in [
            vec![run(0, 0, 0, false)],
            vec![run(5, 3, 0, true)],
            vec![run(0, CHUNKS + 1, 0, true)],
            vec![run(0, 4, 0, false), run(3, 5, 9, false)],
            vec![run(0, 4, 98, false)],
            vec![run(0, 4, u64::MAX, false)],
            vec![run(0, u64::MAX, u64::MAX, false)],
        ] {
            let index = Index { runs: runs.iter().copied().collect(), step: 1, doubt: 0 };
            let end = End { address: 100, number: 100, prior: 0, last: 99 };
            let bytes = Snapshot { id: [0; 16], index, end }.encode();
            assert_eq!(Snapshot::decode(&bytes, CHUNKS, 1).unwrap_err().code(), Code::Corrupt, "{runs:?}");
        }
        // A count that would take all memory is no more than a wrong number.
        let mut bytes = Snapshot { id: [0; 16], index: Index::new(1), end: End::default() }.encode();
        bytes.truncate(FIXED);
        bytes[64..72].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        assert_eq!(Snapshot::decode(&bytes, CHUNKS, 1).unwrap_err().code(), Code::Corrupt);
    }
}

//! How an index is made from the records of a medium.

use super::index::{End, Index};
use super::medium::{Found, Medium};
use super::record::{HEAD, Head, Kind, Label};
use crate::error::{Code, Error, Result};

/// What a medium holds.
pub(super) struct Scanned {
    pub index: Index,
    pub end: End,
    /// Up to which address all is known to be durable.
    pub durable: u64,
    /// Why what lies behind the end has to be cut off, if anything does.
    pub torn: Option<String>,
}

/// A record behind one that may be the torn end of the tape.
enum Held {
    Head(u64, Head),
    Unreadable(u64),
}

impl Held {
    fn note(self, index: &mut Index) {
        match self {
            Held::Head(address, head) => note(index, address, &head),
            Held::Unreadable(address) => index.set_unreadable(address),
        }
    }
}

fn note(index: &mut Index, address: u64, head: &Head) {
    match head.kind {
        Kind::Data { chunk, .. } => index.set(chunk, address),
        Kind::Zeros { first, count } => index.set_zeros(first..first + count, address),
    }
}

/// Reads on from where an index ends, to the end of the medium.
///
/// What cannot be read and is known to have been durable is damage: of a record whose head is right that shows when it is
/// read, one whose head is wrong leaves in doubt all that was written before it. What is not known to be durable is
/// whole up to its first bad record: there the medium ends.
pub(super) fn scan(medium: &dyn Medium, label: &Label, mut index: Index, mut end: End) -> Result<Scanned> {
    let mut record = vec![0; label.stride()];
    let mut durable = medium.durable().max(end.address);
    let mut held: Vec<Held> = Vec::new();
    let (mut sound, mut why) = (end, None);
    // None behind a head that cannot be read.
    let mut prior = Some(end.prior);
    loop {
        let at = end.address;
        if at <= durable && !held.is_empty() {
            held.drain(..).for_each(|held| held.note(&mut index));
        }
        // Where all is durable its bytes are not needed to know that it is no torn end.
        let glance = if at < durable { HEAD } else { record.len() };
        let record = &mut record[..glance];
        let found = match medium.look(at, record)? {
            Found::End => break,
            Found::Mark => {
                end.address += 1;
                durable = end.address;
                continue;
            }
            Found::Unreadable(error) => Err(error),
            Found::Record => Head::decode(record, label).and_then(|head| match prior {
                _ if head.number != end.number => Err(out_of_order()),
                Some(prior) if head.prior != prior => Err(out_of_order()),
                _ => Ok(head),
            }),
        };
        let trouble = match &found {
            Ok(head) if glance > HEAD => head.payload(record, label).err(),
            Ok(_) => None,
            Err(error) => Some(error.clone()),
        };
        let is_first = held.is_empty() && trouble.is_some();
        if is_first {
            (sound, why) = (end, trouble);
        }
        prior = found.as_ref().ok().map(|head| head.crc(label));
        match found {
            Ok(head) if held.is_empty() && !is_first => note(&mut index, at, &head),
            Ok(head) => held.push(Held::Head(at, head)),
            Err(_) => held.push(Held::Unreadable(at)),
        }
        end = End { address: at + medium.step(), number: end.number + 1, prior: prior.unwrap_or(0), last: at };
    }
    let torn = why.filter(|_| !held.is_empty()).map(|why| why.message().to_owned());
    let end = if torn.is_some() { sound } else { end };
    Ok(Scanned { index, end, durable, torn })
}

fn out_of_order() -> Error {
    Error::new(Code::Corrupt, "a record does not follow the one before it")
}

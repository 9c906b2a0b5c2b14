//! The record of a lease: who writes to a region, as it lies in the store.

use std::time::Duration;

use super::{Identity, MOST_TIME};
use crate::error::{Code, Error, Result};
use crate::wire::hexadecimal;

/// Far more than any record has, for who reads one.
pub const MOST_BYTES: usize = 4096;
/// What every record begins with after the holder's identity.
const FORMAT: &str = "r3map-lease";

/// Who writes to a region. Each record that takes the place of another has the next epoch, also where its holder stays
/// the same: an epoch is never written twice, and no two records are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counts the records of the region from 1.
    pub epoch: u64,
    /// The holder, or who was the last, by a number of its own.
    pub holder: Identity,
    /// Its name for people: program, process and host.
    pub name: String,
    /// How long it may be silent.
    pub time_to_live: Duration,
    /// Whether it has let go.
    pub released: bool,
}

impl Record {
    /// The bytes in which a store keeps it: one line of text, the first 32 letters of which are the holder.
    pub fn encode(&self) -> String {
        let state = if self.released { "released" } else { "held" };
        let time = self.time_to_live.as_millis();
        format!("{} {FORMAT} {} {state} {time} {}", hexadecimal(&self.holder), self.epoch, self.name)
    }

    /// Reads what [`encode`](Record::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Record> {
        parse(bytes).ok_or_else(|| {
            let message = "the record of the writer's lease is none of r3map's: remove what else has its name";
            Error::new(Code::Corrupt, message)
        })
    }
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MOST_BYTES)?;
    let mut words = text.splitn(6, ' ');
    let holder = words.next()?;
    words.next()?;
    let (epoch, state, time) = (words.next()?.parse().ok()?, words.next()?, words.next()?.parse().ok()?);
    let released = match state {
        "held" => false,
        "released" => true,
        _ => return None,
    };
    let time_to_live = Duration::from_millis(time);
    let name = words.next()?.to_owned();
    let record = Record { epoch, holder: identity(holder)?, name, time_to_live, released };
    // Stores compare the bytes, so there is one way to write it.
    (time_to_live <= MOST_TIME
        && record.name.bytes().all(|letter| letter.is_ascii_graphic())
        && record.encode() == text)
        .then_some(record)
}

fn identity(text: &str) -> Option<Identity> {
    let mut identity = Identity::default();
    if text.len() != 2 * identity.len() || !text.bytes().all(|letter| letter.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in identity.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is_taken_for_one() {
        let record = Record {
            epoch: u64::MAX,
            holder: [0xA5; 16],
            name: "writer[17]@host".to_owned(),
            time_to_live: Duration::from_millis(15_500),
            released: false,
        };
        let text = record.encode();
        assert!(text.starts_with(&hexadecimal(&record.holder)), "{text}");
        assert_eq!(Record::decode(text.as_bytes()).unwrap(), record);
        let released = Record { released: true, ..record };
        assert_eq!(Record::decode(released.encode().as_bytes()).unwrap(), released);
        let long = format!("{text}{}", "x".repeat(MOST_BYTES));
        for wrong in [
            "",
            "x",
            &text[1..],
            &text.replace("held", "gone"),
            &text.replace("15500", "-1"),
            &text.replace("15500", "99999999999"),
            &text.replace("18446744073709551615", "18446744073709551616"),
            &text.replace("a5", "+5"),
            &text.replace("r3map-lease", "other"),
            &long,
        ] {
            assert_eq!(Record::decode(wrong.as_bytes()).unwrap_err().code(), Code::Corrupt, "{wrong}");
        }
        assert_eq!(Record::decode(&[0xFF; 80]).unwrap_err().code(), Code::Corrupt);
    }
}

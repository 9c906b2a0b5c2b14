//! What lies on a tape: a label, and behind it records, each with a head that says what it is.
//!
//! Everything is in little-endian numbers. A head has 64 bytes and a checksum of its own, and says the checksum of the
//! bytes behind it. Records are numbered without a gap, and each says the checksum of the head before it, so that
//! what an earlier end of the same tape left behind is never taken for what follows.

use crate::backend::parts::CHUNKS;
use crate::error::{Code, Error, Result};
use crate::migration::fields::Fields;
use crate::wire::Identity;

/// Bytes of a label or of a record's head.
pub const HEAD: usize = 64;
/// The longest chunk: drives take no longer block.
pub const LONGEST_CHUNK: u64 = 16 << 20;

const LABEL: [u8; 8] = *b"r3mTape\x01";
const RECORD: [u8; 4] = *b"r3mt";
const DATA: u16 = 1;
const ZEROS: u16 = 2;

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(Code::Corrupt, why)
}

/// The fields with zeros behind them and the checksum at the end.
fn sealed(mut fields: Vec<u8>) -> [u8; HEAD] {
    fields.resize(HEAD - 4, 0);
    fields.extend(crc32c::crc32c(&fields).to_le_bytes());
    let mut head = [0; HEAD];
    head.copy_from_slice(&fields);
    head
}

/// The fields before the checksum, if it is theirs.
fn unsealed<'a>(bytes: &'a [u8], what: &'static str) -> Result<Fields<'a>> {
    let head = bytes.get(..HEAD).ok_or_else(|| corrupt(format!("{what} ends early")))?;
    let (fields, crc) = head.split_at(HEAD - 4);
    if crc32c::crc32c(fields).to_le_bytes() != crc {
        return Err(corrupt(format!("{what} fails its checksum")));
    }
    Ok(Fields::new(fields, what))
}

/// What a tape says of itself at its beginning; written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// This tape and no other.
    pub id: Identity,
    /// Bytes of the region.
    pub size: u64,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// Records are a multiple of this long: the drive's block, or 0 where blocks are as long as what is written.
    pub block: u32,
}

impl Label {
    /// As it is kept.
    pub fn encode(&self) -> [u8; HEAD] {
        let mut bytes = LABEL.to_vec();
        bytes.extend(self.id);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.chunk.to_le_bytes());
        bytes.extend(self.block.to_le_bytes());
        sealed(bytes)
    }

    /// Reads a label; one that describes no tape that could be used is `corrupt`.
    pub fn decode(bytes: &[u8]) -> Result<Label> {
        let mut fields = unsealed(bytes, "the label")?;
        if fields.bytes(8)? != LABEL {
            return Err(corrupt("there is no label"));
        }
        let (id, size, chunk) = (fields.identity()?, fields.u64()?, fields.u64()?);
        let label = Label { id, size, chunk, block: fields.u32()? };
        if size > i64::MAX as u64 || !label.chunk_fits() || u64::from(label.block) > LONGEST_CHUNK {
            return Err(corrupt("the label says a size, chunk or block that cannot be"));
        }
        Ok(label)
    }

    /// Whether chunks have a length that a tape takes.
    pub fn chunk_fits(&self) -> bool {
        CHUNKS.contains(&self.chunk) && self.chunk <= LONGEST_CHUNK
    }

    /// How many chunks the region has.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(self.chunk)
    }

    /// How many bytes of the region lie in that chunk, by its number.
    pub fn length(&self, chunk: u64) -> u64 {
        self.chunk.min(self.size - chunk * self.chunk)
    }

    /// Bytes of each record on the medium.
    pub fn stride(&self) -> usize {
        (HEAD + self.chunk as usize).next_multiple_of(self.block.max(1) as usize)
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bytes of one chunk, which follow the head.
    Data {
        /// The chunk's number.
        chunk: u64,
        /// Their checksum.
        crc: u32,
    },
    /// Chunks are zeros.
    Zeros {
        /// The number of the first.
        first: u64,
        /// How many; never none.
        count: u64,
    },
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number: how many records lie before it.
    pub number: u64,
    /// The [checksum](Head::crc) of the head before it; the first one's is 0.
    pub prior: u32,
    /// What it says.
    pub kind: Kind,
}

impl Head {
    /// As it is kept on the tape of that label.
    pub fn encode(&self, label: &Label) -> [u8; HEAD] {
        let (kind, first, count, crc) = match self.kind {
            Kind::Data { chunk, crc } => (DATA, chunk, 1, crc),
            Kind::Zeros { first, count } => (ZEROS, first, count, 0),
        };
        let mut bytes = RECORD.to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(label.id);
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(first.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(crc.to_le_bytes());
        bytes.extend(self.prior.to_le_bytes());
        sealed(bytes)
    }

    /// Reads the head of a record of the tape of that label; anything else is `corrupt`. What it says lies in the region.
    pub fn decode(bytes: &[u8], label: &Label) -> Result<Head> {
        let mut fields = unsealed(bytes, "a record's head")?;
        if fields.bytes(4)? != RECORD {
            return Err(corrupt("there is no record"));
        }
        let (kind, flags, id) = (fields.u16()?, fields.u16()?, fields.identity()?);
        let (number, first, count) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (crc, prior) = (fields.u32()?, fields.u32()?);
        if id != label.id {
            return Err(corrupt("a record is another tape's"));
        }
        if flags != 0 || count == 0 || first.checked_add(count).is_none_or(|end| end > label.chunks()) {
            return Err(corrupt("a record is about chunks outside the region"));
        }
        let kind = match kind {
            DATA if count == 1 => Kind::Data { chunk: first, crc },
            ZEROS if crc == 0 => Kind::Zeros { first, count },
            _ => return Err(corrupt("a record is of no known kind")),
        };
        Ok(Head { number, prior, kind })
    }

    /// The checksum by which the next record knows this one.
    pub fn crc(&self, label: &Label) -> u32 {
        crc32c::crc32c(&self.encode(label))
    }

    /// The bytes of a record's chunk, from the whole record; `corrupt` if they are not those that were written.
    pub fn payload<'a>(&self, record: &'a [u8], label: &Label) -> Result<&'a [u8]> {
        let Kind::Data { chunk, crc } = self.kind else { return Ok(&[]) };
        let length = label.length(chunk) as usize;
        match record.get(HEAD..HEAD + length) {
            Some(payload) if crc32c::crc32c(payload) == crc => Ok(payload),
            Some(_) => Err(corrupt(format!("the bytes of record {} fail their checksum", self.number))),
            None => Err(corrupt(format!("record {} ends early", self.number))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAPE: Label = Label { id: [7; 16], size: 300_000, chunk: 65536, block: 512 };

    #[test]
    fn a_label_and_a_head_are_read_as_they_were_written() {
        assert_eq!(Label::decode(&TAPE.encode()).unwrap(), TAPE);
        assert_eq!((TAPE.chunks(), TAPE.length(4), TAPE.stride()), (5, 37_856, 66_048));
        for kind in [Kind::Data { chunk: 4, crc: 9 }, Kind::Zeros { first: 1, count: 4 }] {
            let head = Head { number: 3, prior: 5, kind };
            assert_eq!(Head::decode(&head.encode(&TAPE), &TAPE).unwrap(), head);
        }
    }

    #[test]
    fn a_bit_that_flips_anywhere_and_a_cut_at_any_byte_are_found() {
        let head = Head { number: 3, prior: 5, kind: Kind::Data { chunk: 4, crc: 9 } }.encode(&TAPE);
        for bit in 0..HEAD * 8 {
            let (mut label, mut head) = (TAPE.encode(), head);
            label[bit / 8] ^= 1 << (bit % 8);
            head[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Label::decode(&label).unwrap_err().code(), Code::Corrupt, "bit {bit}");
            assert_eq!(Head::decode(&head, &TAPE).unwrap_err().code(), Code::Corrupt, "bit {bit}");
        }
        for length in 0..HEAD {
            assert!(Label::decode(&TAPE.encode()[..length]).is_err() && Head::decode(&head[..length], &TAPE).is_err());
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_right_checksum_too() {
        for label in [
            Label { size: u64::MAX, ..TAPE },
            Label { chunk: 0, ..TAPE },
            Label { chunk: 1 << 40, ..TAPE },
            Label { block: u32::MAX, ..TAPE },
        ] {
            assert_eq!(Label::decode(&label.encode()).unwrap_err().code(), Code::Corrupt, "{label:?}");
        }
        for kind in [
            Kind::Data { chunk: 5, crc: 0 },
            Kind::Data { chunk: u64::MAX, crc: 0 },
            Kind::Zeros { first: 0, count: 0 },
            Kind::Zeros { first: 2, count: 4 },
            Kind::Zeros { first: u64::MAX, count: u64::MAX },
        ] {
            let head = Head { number: 0, prior: 0, kind };
            assert_eq!(Head::decode(&head.encode(&TAPE), &TAPE).unwrap_err().code(), Code::Corrupt, "{kind:?}");
        }
        let of_another = Label { id: [8; 16], ..TAPE };
        let head = Head { number: 0, prior: 0, kind: Kind::Data { chunk: 0, crc: 0 } };
        assert!(Head::decode(&head.encode(&of_another), &TAPE).is_err());
    }
}

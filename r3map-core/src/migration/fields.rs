//! Bounded reading of what came from outside, field by field.

use crate::error::{Code, Error, Result};
use crate::wire::Identity;

/// The bytes not yet looked at, and what they are for messages.
pub struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    /// The fields of `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Fields<'a> {
        Fields { rest: bytes, what }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    fn refused(&self, why: &str) -> Error {
        Error::new(Code::Corrupt, format!("{} was refused: {why}", self.what))
    }

    /// The next bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        if length > self.rest.len() {
            return Err(self.refused("it ends inside a field"));
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// The next two bytes as a number.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next four bytes as a number.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next eight bytes as a number.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The next sixteen bytes.
    pub fn identity(&mut self) -> Result<Identity> {
        self.array()
    }

    /// A length of at most `longest`, and as many bytes.
    pub fn counted(&mut self, longest: usize) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        if length > longest {
            return Err(self.refused(&format!("a field of {length} bytes, where {longest} are allowed")));
        }
        self.bytes(length)
    }

    /// Words for people, on one line.
    pub fn words(&mut self, longest: usize) -> Result<String> {
        let words = String::from_utf8_lossy(self.counted(longest)?);
        Ok(words.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect())
    }

    /// A number in its shortest form of seven bits a byte, the lowest first.
    pub fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(self.refused("a number of more than 64 bits or not in its shortest form"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.refused("a number of more than 64 bits"))
    }
}

/// Appends a length and as many bytes.
pub fn put_counted(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend((field.len() as u32).to_le_bytes());
    bytes.extend(field);
}

/// Appends a number as [`Fields::varint`] reads it.
pub fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// How many bytes that appends.
pub fn varint_length(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

//! fRPC, the Go library's second protocol: frisbee frames around values of polyglot. Pure functions of bytes.
//!
//! A frame is `u16 id, u16 operation, u32 length`, big-endian, and as many bytes. A message is its flags and its fields in
//! order, each behind a byte that says its kind; an error stands in the place of one.

use crate::error::{Code, Error, Result};

/// Length of what a frame begins with.
pub const HEAD: usize = 8;
/// What a message has besides the bytes it carries, at most: flags, two numbers and a length.
pub const AROUND: usize = 32;
/// The longest text of an error that is sent, and the longest that is taken.
const MOST_TEXT: usize = 4 << 10;

/// Operations by number.
pub mod operations {
    /// Asks whether somebody is there.
    pub const PING: u16 = 0;
    /// Somebody is.
    pub const PONG: u16 = 1;
    /// Reads.
    pub const READ_AT: u16 = 10;
    /// Writes.
    pub const WRITE_AT: u16 = 11;
    /// Makes durable.
    pub const SYNC: u16 = 12;
}

/// Kinds of values.
mod kinds {
    pub const BYTES: u8 = 4;
    pub const STRING: u8 = 5;
    pub const ERROR: u8 = 6;
    pub const UINT8: u8 = 8;
    pub const UINT32: u8 = 10;
    pub const INT32: u8 = 12;
    pub const INT64: u8 = 13;
}

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which request of the operation it is, or answers.
    pub id: u16,
    /// What is asked or answered.
    pub operation: u16,
    /// How many bytes follow.
    pub length: u32,
}

impl Head {
    /// As it goes over the wire.
    pub fn encode(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..2].copy_from_slice(&self.id.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.operation.to_be_bytes());
        bytes[4..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// As it came.
    pub fn decode(bytes: &[u8; HEAD]) -> Head {
        let [a, b, c, d, length @ ..] = *bytes;
        let (id, operation) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Head { id, operation, length: u32::from_be_bytes(length) }
    }
}

/// A message being made, up to the bytes that it may end in.
pub struct Message(Vec<u8>);

impl Message {
    /// One without fields.
    pub fn empty() -> Message {
        Message(vec![kinds::UINT8, 0])
    }

    /// The message that says what went wrong.
    pub fn error(text: &str) -> Message {
        let end = (0..=text.len().min(MOST_TEXT)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let mut message = Message(vec![kinds::ERROR, kinds::STRING, kinds::UINT32]);
        message.varint(end as u64);
        message.0.extend_from_slice(&text.as_bytes()[..end]);
        message
    }

    /// With a number.
    pub fn int32(mut self, number: i32) -> Message {
        self.0.push(kinds::INT32);
        self.zigzag(number.into());
        self
    }

    /// With a long number.
    pub fn int64(mut self, number: i64) -> Message {
        self.0.push(kinds::INT64);
        self.zigzag(number);
        self
    }

    /// With so many bytes, which follow.
    pub fn bytes(mut self, length: u32) -> Message {
        self.0.extend_from_slice(&[kinds::BYTES, kinds::UINT32]);
        self.varint(length.into());
        self
    }

    /// The frame that answers or asks so, up to the `following` bytes.
    pub fn frame(&self, id: u16, operation: u16, following: usize) -> Vec<u8> {
        let length = (self.0.len() + following) as u32;
        [&Head { id, operation, length }.encode()[..], &self.0].concat()
    }

    fn zigzag(&mut self, number: i64) {
        self.varint(((number << 1) ^ (number >> 63)) as u64);
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

/// The fields of a message that came.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields behind a message's flags, or the text of the error that stands in its place.
    pub fn open(message: &'a [u8]) -> Result<Result<Fields<'a>, String>> {
        let mut fields = Fields(message);
        if message.first() == Some(&kinds::ERROR) {
            fields.0 = &message[1..];
            let text = fields.counted(kinds::STRING)?;
            return Ok(Err(String::from_utf8_lossy(&text[..text.len().min(MOST_TEXT)]).into_owned()));
        }
        fields.kind(kinds::UINT8)?;
        fields.byte()?;
        Ok(Ok(fields))
    }

    /// A number.
    pub fn int32(&mut self) -> Result<i32> {
        self.kind(kinds::INT32)?;
        i32::try_from(self.zigzag()?).map_err(|_| corrupt("a number is longer than its kind"))
    }

    /// A long number.
    pub fn int64(&mut self) -> Result<i64> {
        self.kind(kinds::INT64)?;
        self.zigzag()
    }

    /// Bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        self.counted(kinds::BYTES)
    }

    fn counted(&mut self, kind: u8) -> Result<&'a [u8]> {
        self.kind(kind)?;
        self.kind(kinds::UINT32)?;
        let length = self.varint()?;
        let here = usize::try_from(length).ok().filter(|length| *length <= self.0.len());
        let (counted, rest) = self.0.split_at(here.ok_or_else(|| corrupt("bytes go on behind their message"))?);
        self.0 = rest;
        Ok(counted)
    }

    fn kind(&mut self, kind: u8) -> Result<()> {
        if self.byte()? == kind { Ok(()) } else { Err(corrupt("a value is of another kind than it should be")) }
    }

    fn zigzag(&mut self) -> Result<i64> {
        let number = self.varint()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(corrupt("a number has no end"))
    }

    fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.0.split_first().ok_or_else(|| corrupt("a message ends inside a value"))?;
        self.0 = rest;
        Ok(*first)
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(Code::Corrupt, format!("a frame of fRPC was refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::operations::*;
    use super::*;

    #[test]
    fn frames_are_those_of_the_go_library() {
        let read = Message::empty().int32(16).int64(65536).frame(1, READ_AT, 0);
        assert_eq!(read, b"\x00\x01\x00\x0a\0\0\0\x08\x08\x00\x0c\x20\x0d\x80\x80\x08");
        let reply = Message::empty().int32(3).bytes(3).frame(1, READ_AT, 3);
        assert_eq!(reply, b"\x00\x01\x00\x0a\0\0\0\x0a\x08\x00\x0c\x06\x04\x0a\x03");
        let write = Message::empty().int64(-1).bytes(300).frame(0xffff, WRITE_AT, 300);
        assert_eq!(write, b"\xff\xff\x00\x0b\0\0\x01\x34\x08\x00\x0d\x01\x04\x0a\xac\x02");
        assert_eq!(Message::empty().frame(7, SYNC, 0), b"\0\x07\0\x0c\0\0\0\x02\x08\x00");
        assert_eq!(Message::error("EOF").frame(7, SYNC, 0), b"\0\x07\0\x0c\0\0\0\x07\x06\x05\x0a\x03EOF");
        assert_eq!(Head::decode(read[..8].try_into().unwrap()), Head { id: 1, operation: READ_AT, length: 8 });
    }

    #[test]
    fn what_is_encoded_is_decoded_at_every_size_of_number() {
        for number in [0, 1, -1, 63, 64, -64, -65, i64::MAX, i64::MIN, 1 << 40] {
            let message = Message::empty().int64(number).int32(number as i32).bytes(2);
            let bytes = [&message.0[..], b"ab"].concat();
            let mut fields = Fields::open(&bytes).unwrap().unwrap();
            let got = (fields.int64().unwrap(), fields.int32().unwrap(), fields.bytes().unwrap());
            assert_eq!(got, (number, number as i32, &b"ab"[..]));
            // Cut anywhere it is refused.
            for end in 0..bytes.len() {
                let cut = Fields::open(&bytes[..end]).and_then(|fields| {
                    let mut fields = fields.unwrap();
                    fields.int64()?;
                    fields.int32()?;
                    fields.bytes().map(drop)
                });
                assert_eq!(cut.unwrap_err().code(), Code::Corrupt, "{end}");
            }
        }
    }

    #[test]
    fn errors_are_text_and_nonsense_is_refused() {
        let error = Message::error("out of ü").0;
        assert_eq!(Fields::open(&error).unwrap().err().unwrap(), "out of ü");
        for wrong in [&b"\x06\x05\x0a\xff\xff\xff\xff\x0f"[..], b"\x08", b"", b"\x07\x00", b"\x06\x04\x0a\x00"] {
            assert_eq!(Fields::open(wrong).err().unwrap().code(), Code::Corrupt, "{wrong:?}");
        }
        let endless = [&b"\x08\x00\x0d"[..], &[0xff; 12]].concat();
        assert!(Fields::open(&endless).unwrap().unwrap().int64().is_err());
        assert!(Fields::open(b"\x08\x00\x0c\x80\x80\x80\x80\x80\x01").unwrap().unwrap().int32().is_err());
    }
}

//! How a connection begins: fixed newstyle negotiation. A client sends options, the server answers each, and one of
//! them, GO or the older EXPORT_NAME, chooses the export and ends it.

use crate::error::{Code, Error, Result};
use crate::wire::nbd::MOST_TEXT;

/// What a server says first.
pub const GREETING: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// What a server says then, and a client before each option.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// What an old server says then, which knows no options.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// What a server says before each answer.
pub const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Answers are known to be answered, errors too: on both sides.
pub const FIXED_NEWSTYLE: u16 = 1;
/// The answer to EXPORT_NAME goes without zeros behind it: on both sides.
pub const NO_ZEROES: u16 = 2;
/// How many those are.
pub const ZEROES: usize = 124;
/// The longest option or answer that is taken in.
pub const MOST_OPTION: u32 = 64 << 10;
/// The longest option that is skipped rather than the end of the connection.
pub const MOST_SKIPPED: u32 = 1 << 20;
/// The one kind of metadata that is spoken of here: which bytes are zeros.
pub const ALLOCATION: &str = "base:allocation";

/// Options of a client.
pub mod options {
    /// Chooses an export and ends the negotiation; an error cuts the connection.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the connection.
    pub const ABORT: u32 = 2;
    /// Asks for the names of the exports.
    pub const LIST: u32 = 3;
    /// Asks for TLS.
    pub const STARTTLS: u32 = 5;
    /// Asks about an export.
    pub const INFO: u32 = 6;
    /// Chooses an export and ends the negotiation.
    pub const GO: u32 = 7;
    /// Asks for structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Asks which metadata there is.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Chooses metadata.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Kinds of answers. Those that refuse have the highest bit set.
pub mod replies {
    /// Done.
    pub const ACK: u32 = 1;
    /// The name of an export.
    pub const SERVER: u32 = 2;
    /// Something about an export.
    pub const INFO: u32 = 3;
    /// A kind of metadata and its number.
    pub const META_CONTEXT: u32 = 4;
    /// The bit of those that refuse.
    pub const ERROR: u32 = 1 << 31;
    /// Unknown, or not offered.
    pub const UNSUPPORTED: u32 = ERROR | 1;
    /// Forbidden.
    pub const POLICY: u32 = ERROR | 2;
    /// Malformed, or out of order.
    pub const INVALID: u32 = ERROR | 3;
    /// TLS comes first.
    pub const TLS_REQUIRED: u32 = ERROR | 5;
    /// No such export.
    pub const UNKNOWN: u32 = ERROR | 6;
    /// The server is closing.
    pub const SHUTDOWN: u32 = ERROR | 7;
    /// The client must ask for the sizes of blocks.
    pub const BLOCK_SIZE_REQUIRED: u32 = ERROR | 8;
    /// Too long.
    pub const TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of what is said about an export.
pub mod infos {
    /// Its size and flags.
    pub const EXPORT: u16 = 0;
    /// Its name.
    pub const NAME: u16 = 1;
    /// The least, best and greatest length of a request.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Numbers and texts out of bytes, none of which reach past their end.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next so many bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| malformed("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next number of two bytes.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next number of four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next number of eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next text, behind its length.
    pub fn text(&mut self) -> Result<&'a str> {
        let length = self.u32()? as usize;
        text(self.take(length)?)
    }

    /// An error if there is more.
    pub fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed("there are bytes behind its end")) }
    }
}

/// A name or message: UTF-8 without NUL, and not too long.
pub fn text(bytes: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MOST_TEXT && !text.contains('\0'));
    text.ok_or_else(|| malformed("a text is no UTF-8 of at most 4096 bytes without NUL"))
}

fn malformed(why: &str) -> Error {
    Error::new(Code::InvalidArgument, format!("malformed: {why}"))
}

/// What INFO and GO ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    /// The export; the empty name is the default one.
    pub export: &'a str,
    /// What the client wants to know: [`infos`].
    pub infos: Vec<u16>,
}

impl<'a> Ask<'a> {
    /// Takes it apart.
    pub fn decode(bytes: &'a [u8]) -> Result<Ask<'a>> {
        let mut fields = Fields(bytes);
        let export = fields.text()?;
        let infos = (0..fields.u16()?).map(|_| fields.u16()).collect::<Result<_>>()?;
        fields.end()?;
        Ok(Ask { export, infos })
    }

    /// The bytes of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = with_length(self.export);
        bytes.extend((self.infos.len() as u16).to_be_bytes());
        self.infos.iter().for_each(|info| bytes.extend(info.to_be_bytes()));
        bytes
    }
}

/// What LIST_META_CONTEXT and SET_META_CONTEXT ask for.
#[derive(Debug, PartialEq, Eq)]
pub struct Queries<'a> {
    /// The export.
    pub export: &'a str,
    /// Names of metadata, or the part up to their colon.
    pub queries: Vec<&'a str>,
}

impl<'a> Queries<'a> {
    /// Takes them apart.
    pub fn decode(bytes: &'a [u8]) -> Result<Queries<'a>> {
        let mut fields = Fields(bytes);
        let export = fields.text()?;
        // No more are collected than the bytes have lengths of.
        let queries = (0..fields.u32()?).map(|_| fields.text()).collect::<Result<_>>()?;
        fields.end()?;
        Ok(Queries { export, queries })
    }

    /// The bytes of them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = with_length(self.export);
        bytes.extend((self.queries.len() as u32).to_be_bytes());
        self.queries.iter().for_each(|query| bytes.extend(with_length(query)));
        bytes
    }
}

fn with_length(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// The head of an option, before its data.
pub fn option_head(option: u32, length: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes[8..12].copy_from_slice(&option.to_be_bytes());
    bytes[12..].copy_from_slice(&(length as u32).to_be_bytes());
    bytes
}

/// The head of an answer, before its data.
pub fn reply_head(option: u32, kind: u32, length: usize) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes[8..12].copy_from_slice(&option.to_be_bytes());
    bytes[12..16].copy_from_slice(&kind.to_be_bytes());
    bytes[16..].copy_from_slice(&(length as u32).to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_apart_as_they_were_put_together() {
        let ask = Ask { export: "model", infos: vec![infos::BLOCK_SIZE, infos::NAME] };
        assert_eq!(&ask.encode(), b"\0\0\0\x05model\0\x02\0\x03\0\x01");
        assert_eq!(Ask::decode(&ask.encode()).unwrap(), ask);
        let queries = Queries { export: "", queries: vec![ALLOCATION] };
        assert_eq!(&queries.encode(), b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation");
        assert_eq!(Queries::decode(&queries.encode()).unwrap(), queries);
        assert_eq!(&option_head(options::GO, 5), b"IHAVEOPT\0\0\0\x07\0\0\0\x05");
        assert_eq!(
            &reply_head(options::GO, replies::ACK, 0),
            b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0"
        );
    }

    #[test]
    fn options_that_are_cut_too_long_or_lie_about_a_length_are_refused() {
        let good = Ask { export: "model", infos: vec![1, 2, 3] }.encode();
        for length in 0..good.len() {
            assert!(Ask::decode(&good[..length]).is_err(), "{length}");
        }
        assert!(Ask::decode(&[good, vec![0]].concat()).is_err());
        for wrong in [&b"\xff\xff\xff\xffx"[..], b"\0\0\0\x02a\0\0\0", b"\0\0\0\x01\xff\0\0", b"\0\0\0\0\xff\xff"] {
            assert!(Ask::decode(wrong).is_err(), "{wrong:?}");
        }
        assert!(Queries::decode(b"\0\0\0\0\xff\xff\xff\xff").is_err());
        let long = Ask { export: &"x".repeat(MOST_TEXT + 1), infos: vec![] }.encode();
        assert!(Ask::decode(&long).is_err());
    }

    #[test]
    fn no_bytes_at_all_make_the_parsers_panic() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 11
        };
        for round in 0..20_000 {
            let mut bytes = if round % 2 == 0 {
                Queries { export: "export", queries: vec![ALLOCATION, "base:"] }.encode()
            } else {
                Ask { export: "export", infos: vec![0, 3] }.encode()
            };
            for _ in 0..random() % 6 {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }
            bytes.truncate(random() as usize % (bytes.len() + 1));
            if let Ok(ask) = Ask::decode(&bytes) {
                assert_eq!(ask.encode(), bytes);
            }
            if let Ok(queries) = Queries::decode(&bytes) {
                assert_eq!(queries.encode(), bytes);
            }
        }
    }
}

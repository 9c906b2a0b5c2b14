//! Payloads that travel as fewer bytes: one byte for many that are the same, or packed by lz4 or zstd.
//!
//! [`unpack`] is a pure function of bytes. [`Packer`] decides for each payload that is to be sent whether packing pays:
//! when the link would take longer over what is saved than the codec over all of it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::error::{Code, Error, Result};
use crate::options::Compression;
use crate::wire::codec;

/// Feature: a payload of one byte, repeated, is sent once.
pub const FILLS: u64 = 1 << 2;
/// Feature: payloads may be packed by lz4.
pub const LZ4: u64 = 1 << 3;
/// Feature: payloads may be packed by zstd.
pub const ZSTD: u64 = 1 << 4;
/// Feature, of clients: the server is to pack whatever the link's rate.
pub const EAGER: u64 = 1 << 5;
/// All of these features.
pub const FEATURES: u64 = FILLS | LZ4 | ZSTD | EAGER;

/// What is shorter than this is sent as it is, in bytes: it fits one packet of most networks.
const SHORTEST: usize = 1024;
/// For how many payloads at most nothing is tried after some that did not get shorter.
const LONGEST_REST: u32 = 64;
/// Every so-manieth payload is given to a codec that does not look best, since data and machine change.
const LOOK_ELSEWHERE: u32 = 32;
/// What packing must bring besides: it takes time of the processor, which others want too.
const GAIN: f64 = 0.9;

/// How a payload was made shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// It is one byte, of which there are as many as the range is long.
    Fill,
    /// A block of lz4, without any length before it.
    Lz4,
    /// A frame of zstd.
    Zstd,
}

impl Packing {
    /// All there are.
    pub const ALL: [Packing; 3] = [Packing::Fill, Packing::Lz4, Packing::Zstd];

    /// The flag of a frame whose payload it is.
    pub const fn flag(self) -> u16 {
        match self {
            Packing::Lz4 => 1 << 3,
            Packing::Fill => 1 << 5,
            Packing::Zstd => 1 << 6,
        }
    }

    /// The feature by which both sides say that they know it.
    pub const fn feature(self) -> u64 {
        match self {
            Packing::Fill => FILLS,
            Packing::Lz4 => LZ4,
            Packing::Zstd => ZSTD,
        }
    }

    /// The flags of all that are known where these features are used.
    pub fn flags(features: u64) -> u16 {
        Packing::ALL.iter().filter(|packing| features & packing.feature() != 0).fold(0, |sum, it| sum | it.flag())
    }

    /// The one that these flags of a frame name, if they name one.
    pub fn of(flags: u16) -> Option<Packing> {
        Packing::ALL.into_iter().find(|packing| flags & packing.flag() != 0)
    }
}

/// The features that a side offers, or has, where it is told this. Fails where this build lacks what is asked for.
pub fn features(compression: Compression) -> Result<u64> {
    let here = codec::FEATURES;
    let wanted = match compression {
        Compression::Off => return Ok(0),
        Compression::Auto => return Ok(FILLS | here),
        Compression::Lz4 => LZ4,
        Compression::Zstd => ZSTD,
    };
    if here & wanted == 0 {
        let message = "compression: this build has no lz4 and no zstd: it was made without the feature compression";
        return Err(Error::new(Code::Unsupported, message));
    }
    Ok(FILLS | EAGER | wanted)
}

/// The features of a client that a server with these uses too: it packs eagerly for whoever asks.
pub(crate) fn accepted(own: u64) -> u64 {
    if own == 0 { 0 } else { own | EAGER }
}

/// Fills `into` with the bytes that were packed: all of it, no more and no less, and of that CRC-32C. Takes no memory in
/// proportion to anything that `packed` says.
pub fn unpack(packing: Packing, packed: &[u8], into: &mut [u8], crc: u32) -> Result<()> {
    let length = into.len();
    let filled = match (packing, packed) {
        (Packing::Fill, [byte]) => {
            into.fill(*byte);
            Some(length)
        }
        (Packing::Fill, _) => None,
        (Packing::Lz4, packed) => codec::unpack_lz4(packed, into),
        (Packing::Zstd, packed) => codec::unpack_zstd(packed, into),
    };
    let wrong = match filled {
        Some(filled) if filled == length && crc32c::crc32c(into) == crc => return Ok(()),
        Some(filled) if filled == length => "fails the checksum of the bytes that were packed".to_owned(),
        Some(filled) => format!("has {filled} bytes and should have {length}"),
        None => format!("does not unpack to {length} bytes"),
    };
    Err(Error::new(Code::Corrupt, format!("a frame was refused: its payload, {packing:?}, {wrong}")))
}

/// A payload that was packed.
pub(crate) struct Packed {
    /// How.
    pub packing: Packing,
    /// The shorter bytes.
    pub bytes: Buffer,
}

/// What one side of a connection, or of all connections to one peer, packs.
pub(crate) struct Packer {
    eager: bool,
    pace: Mutex<Pace>,
}

impl Packer {
    /// One that was given no payload yet. An eager one packs whatever the link's rate.
    pub fn new(eager: bool) -> Packer {
        Packer { eager, pace: Mutex::new(Pace::new(eager)) }
    }

    /// The same bytes as fewer, where that pays and both sides know how; `link` says how many bytes a second go out at
    /// most, where that is known.
    pub fn pack(&self, bytes: &[u8], features: u64, link: impl FnOnce() -> Option<u64>) -> Option<Packed> {
        if bytes.len() < SHORTEST || features & (FILLS | LZ4 | ZSTD) == 0 {
            return None;
        }
        if features & FILLS != 0 && bytes[1..] == bytes[..bytes.len() - 1] {
            return Some(Packed { packing: Packing::Fill, bytes: Buffer::copy_of(&bytes[..1]) });
        }
        if features & (LZ4 | ZSTD) == 0 {
            return None;
        }
        let link = link();
        if link.is_none() && !self.eager {
            return None;
        }
        let packing = self.pace().choose(features, link.map(|rate| rate as f64))?;
        let begun = Instant::now();
        let mut room = Buffer::new(codec::room(packing, bytes.len()));
        let length = match packing {
            Packing::Zstd => codec::pack_zstd(bytes, &mut room),
            _ => codec::pack_lz4(bytes, &mut room),
        };
        let length = length.unwrap_or(bytes.len());
        let is_shorter = length <= bytes.len() - bytes.len() / 16;
        self.pace().took(packing, bytes.len(), is_shorter.then_some(length), begun.elapsed());
        // What waits to be sent takes no more memory than it has bytes.
        is_shorter.then(|| Packed { packing, bytes: Buffer::copy_of(&room[..length]) })
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What a codec did lately.
#[derive(Clone, Copy)]
struct Figures {
    /// Bytes packed a second.
    speed: f64,
    /// What was left of them.
    share: f64,
}

/// Which codec is worth its time. Knows neither bytes nor clocks.
struct Pace {
    eager: bool,
    lz4: Figures,
    zstd: Figures,
    /// How many payloads there were.
    turn: u32,
    /// For how many more nothing is tried.
    rest: u32,
    /// For how many, the next time.
    pause: u32,
}

impl Pace {
    fn new(eager: bool) -> Pace {
        // What they do with common data on a common processor, until it is measured.
        let (lz4, zstd) = (Figures { speed: 4e8, share: 0.6 }, Figures { speed: 2e8, share: 0.48 });
        Pace { eager, lz4, zstd, turn: 0, rest: 0, pause: 1 }
    }

    fn of(&mut self, packing: Packing) -> &mut Figures {
        if packing == Packing::Zstd { &mut self.zstd } else { &mut self.lz4 }
    }

    /// By what to pack the next payload, if by anything.
    fn choose(&mut self, features: u64, link: Option<f64>) -> Option<Packing> {
        let known = [Packing::Lz4, Packing::Zstd].map(|packing| (features & packing.feature() != 0).then_some(packing));
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        if self.eager {
            return known.into_iter().flatten().next();
        }
        let link = link?;
        self.turn = self.turn.wrapping_add(1);
        let mut best = (GAIN / link, None);
        for packing in known.into_iter().flatten() {
            let Figures { speed, share } = *self.of(packing);
            let time = 1.0 / speed + share / link;
            if time < best.0 {
                best = (time, Some(packing));
            }
        }
        if self.turn % LOOK_ELSEWHERE == 0 {
            let other = known.into_iter().flatten().find(|packing| Some(*packing) != best.1);
            return other.filter(|packing| self.of(*packing).speed > link).or(best.1);
        }
        best.1
    }

    /// Takes down how long it took, and how long it is now if it is much shorter.
    fn took(&mut self, packing: Packing, length: usize, packed: Option<usize>, time: Duration) {
        let Some(packed) = packed else {
            self.rest = self.pause;
            self.pause = (self.pause * 2).min(LONGEST_REST);
            return;
        };
        self.pause = 1;
        let figures = self.of(packing);
        figures.speed += (length as f64 / time.as_secs_f64().max(1e-9) - figures.speed) / 4.0;
        figures.share += (packed as f64 / length as f64 - figures.share) / 4.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: u64 = LZ4 | ZSTD;

    /// By what most of many payloads are packed that each shrink to half, on a link of that many bytes a second.
    fn mostly(link: Option<f64>, features: u64, eager: bool) -> Option<Packing> {
        let mut pace = Pace::new(eager);
        let mut count = [0; 3];
        for _ in 0..1000 {
            let chosen = pace.choose(features, link);
            let (speed, share) = if chosen == Some(Packing::Zstd) { (1.5e8, 0.4) } else { (6e8, 0.5) };
            count[chosen.map_or(0, |packing| 1 + usize::from(packing == Packing::Zstd))] += 1;
            if let Some(packing) = chosen {
                pace.took(
                    packing,
                    1 << 20,
                    Some((share * f64::from(1 << 20)) as usize),
                    Duration::from_secs_f64(1048576.0 / speed),
                );
            }
        }
        let most = (0..3).max_by_key(|which| count[*which])?;
        [None, Some(Packing::Lz4), Some(Packing::Zstd)][most]
    }

    #[test]
    fn the_slower_the_link_the_harder_it_is_packed_and_what_is_not_measured_is_left_alone() {
        assert_eq!(mostly(None, BOTH, false), None);
        assert_eq!(mostly(Some(3e9), BOTH, false), None);
        assert_eq!(mostly(Some(1.25e8), BOTH, false), Some(Packing::Lz4));
        assert_eq!(mostly(Some(2e6), BOTH, false), Some(Packing::Zstd));
        assert_eq!(mostly(Some(2e6), LZ4, false), Some(Packing::Lz4));
        assert_eq!(mostly(Some(2e6), 0, false), None);
        assert_eq!(mostly(None, ZSTD, true), Some(Packing::Zstd));
    }

    #[test]
    fn what_does_not_shrink_is_tried_ever_less_often_until_something_does() {
        for eager in [false, true] {
            let mut pace = Pace::new(eager);
            let mut tried = 0;
            for _ in 0..1000 {
                if let Some(packing) = pace.choose(BOTH, Some(1e6)) {
                    tried += 1;
                    pace.took(packing, 1 << 20, None, Duration::from_millis(1));
                }
            }
            assert!((10..40).contains(&tried), "{tried}");
            while pace.choose(BOTH, Some(1e6)).is_none() {}
            pace.took(Packing::Zstd, 1 << 20, Some(1 << 18), Duration::from_millis(8));
            assert!(pace.choose(BOTH, Some(1e6)).is_some(), "it shrinks again");
        }
    }

    #[test]
    fn what_one_packs_the_other_unpacks_and_noise_is_left_as_it_is() {
        let words: Vec<u8> = (0..40_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        let packer = Packer::new(true);
        for features in [FILLS, LZ4, ZSTD].into_iter().filter(|feature| (codec::FEATURES | FILLS) & feature != 0) {
            let bytes = if features == FILLS { &vec![0xff; 100_000] } else { &words };
            let packed = packer.pack(bytes, features, || None).unwrap();
            assert!(packed.bytes.len() < bytes.len() / 2 && packed.packing.feature() == features);
            let (mut into, crc) = (vec![0; bytes.len()], crc32c::crc32c(bytes));
            unpack(packed.packing, &packed.bytes, &mut into, crc).unwrap();
            assert!(into == *bytes);
            assert_eq!(unpack(packed.packing, &packed.bytes, &mut into, !crc).unwrap_err().code(), Code::Corrupt);
        }
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(100_000)
        .collect();
        assert!(packer.pack(&noise, FILLS | BOTH, || None).is_none());
    }

    #[test]
    fn whatever_is_unpacked_is_as_long_as_was_said_or_refused() {
        let words: Vec<u8> = (0..4096_u32).flat_map(|number| (number / 3).to_le_bytes()).collect();
        let crc = crc32c::crc32c(&words);
        for features in [LZ4, ZSTD].into_iter().filter(|feature| codec::FEATURES & feature != 0) {
            let Packed { packing, bytes } = Packer::new(true).pack(&words, features, || None).unwrap();
            for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                assert!(unpack(packing, &bytes[..cut], &mut vec![0; words.len()], crc).is_err(), "{packing:?} {cut}");
            }
            for other in [0, 1, words.len() - 1, words.len() + 1] {
                assert!(unpack(packing, &bytes, &mut vec![0; other], crc).is_err(), "{packing:?} into {other}");
            }
            let behind = [&bytes[..], &bytes[..]].concat();
            assert!(unpack(packing, &behind, &mut vec![0; words.len()], crc).is_err(), "{packing:?} twice");
            for at in (0..bytes.len()).step_by(11) {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 0x41;
                let mut into = vec![0; words.len()];
                if unpack(packing, &damaged, &mut into, crc).is_ok() {
                    assert!(into == words, "{packing:?}: a byte changed at {at} gave other bytes");
                }
            }
        }
    }
}

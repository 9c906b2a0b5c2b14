//! A set of pages as runs, and its compact form on a wire or disk.

use std::ops::Range;

use crate::error::{Code, Error, Result};
use crate::migration::fields::{Fields, put_varint, varint_length};

/// The longest form of a set in bytes: sets that would be longer are [`joined`](Runs::joined) before.
pub const MAX_ENCODED: usize = 4 << 20;

/// Pages in order, as runs that neither touch nor overlap nor are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(Vec<Range<u64>>);

impl Runs {
    /// Every page of a region of that many.
    pub fn all(pages: u64) -> Runs {
        let mut runs = Runs::default();
        runs.push(0..pages);
        runs
    }

    /// Adds a run that does not begin before the end of the last one; an empty one adds nothing.
    pub fn push(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            last => {
                debug_assert!(last.is_none_or(|last| last.end < run.start));
                self.0.push(run);
            }
        }
    }

    /// Adds the pages of the bits of a word, of which the lowest is page `first`; none from `end` on.
    pub(crate) fn push_bits(&mut self, first: u64, mut bits: u64, end: u64) {
        let mut page = first;
        while bits != 0 {
            let skip = bits.trailing_zeros();
            let length = (bits >> skip).trailing_ones();
            page += u64::from(skip);
            let until = (page + u64::from(length)).min(end);
            self.push(page.min(until)..until);
            page += u64::from(length);
            bits = bits.checked_shr(skip + length).unwrap_or(0);
        }
    }

    /// The runs in order.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }

    /// Whether no page is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many pages are in it.
    pub fn pages(&self) -> u64 {
        self.0.iter().map(|run| run.end - run.start).sum()
    }

    /// Whether the page is in it.
    pub fn contains(&self, page: u64) -> bool {
        let after = self.0.partition_point(|run| run.start <= page);
        after > 0 && page < self.0[after - 1].end
    }

    /// Every page that is in either.
    pub fn union(&self, other: &Runs) -> Runs {
        let mut both: Vec<_> = self.0.iter().chain(&other.0).cloned().collect();
        both.sort_unstable_by_key(|run| run.start);
        let mut union = Runs::default();
        for run in both {
            match union.0.last_mut() {
                Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
                _ => union.0.push(run),
            }
        }
        union
    }

    /// Every page of this set that is not in the other.
    pub fn without(&self, other: &Runs) -> Runs {
        let mut left = Runs::default();
        let mut others = other.0.iter().peekable();
        for run in &self.0 {
            let mut at = run.start;
            while at < run.end {
                while others.next_if(|other| other.end <= at).is_some() {}
                let until = others.peek().map_or(run.end, |other| other.start.min(run.end));
                if at < until {
                    left.push(at..until);
                }
                at = others.peek().filter(|other| other.start < run.end).map_or(run.end, |other| other.end);
            }
        }
        left
    }

    /// The same, or with runs joined across the smallest gaps until the encoded form is at most `longest` bytes
    /// (20 or more). That adds pages, which is sound where it only means that they are pulled again.
    pub fn joined(mut self, longest: usize) -> Runs {
        let mut gap = 1;
        while self.0.len() > 1 && self.encoded_length() > longest {
            self.0.dedup_by(|next, last| {
                let close = next.start - last.end <= gap;
                if close {
                    last.end = next.end;
                }
                close
            });
            gap = gap.saturating_mul(2);
        }
        self
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        let gaps = self.0.iter().scan(0, |end, run| {
            let gap = run.start - std::mem::replace(end, run.end);
            Some([gap, run.end - run.start])
        });
        std::iter::once(self.0.len() as u64).chain(gaps.flatten())
    }

    fn encoded_length(&self) -> usize {
        self.numbers().map(varint_length).sum()
    }

    /// The set as it travels and is kept: how many runs, then for each the gap before it and its length.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_length());
        self.numbers().for_each(|number| put_varint(&mut bytes, number));
        bytes
    }

    /// The set that was received for a region of `pages` pages. Anything but the one form that
    /// [`encode`](Runs::encode) gives is refused, before anything is allocated that the region could not need.
    pub fn decode(bytes: &[u8], pages: u64) -> Result<Runs> {
        let mut fields = Fields::new(bytes, "a set of pages");
        let count = fields.varint()?;
        // Runs lie apart, and each takes two bytes or more.
        if count > pages.div_ceil(2) || count > fields.left() as u64 / 2 {
            return Err(refused(format!("{count} runs in {pages} pages and {} bytes", bytes.len())));
        }
        let mut runs = Vec::with_capacity(count as usize);
        let mut end = 0u64;
        for index in 0..count {
            let (gap, length) = (fields.varint()?, fields.varint()?);
            let start = end.checked_add(gap).filter(|_| gap > 0 || index == 0);
            let run = start.and_then(|start| Some(start..start.checked_add(length)?)).filter(|_| length > 0);
            let run = run.filter(|run| run.end <= pages);
            let run = run.ok_or_else(|| refused(format!("run {index} is empty, no run of its own or outside")))?;
            end = run.end;
            runs.push(run);
        }
        match fields.left() {
            0 => Ok(Runs(runs)),
            left => Err(refused(format!("{left} bytes behind its last run"))),
        }
    }
}

impl FromIterator<Range<u64>> for Runs {
    /// From runs in order.
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(runs: T) -> Runs {
        let mut all = Runs::default();
        runs.into_iter().for_each(|run| all.push(run));
        all
    }
}

fn refused(why: String) -> Error {
    Error::new(Code::Corrupt, format!("a set of pages was refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(ranges: &[Range<u64>]) -> Runs {
        ranges.iter().cloned().collect()
    }

    fn pattern(seed: u64) -> Runs {
        (0..64u64).filter(|page| seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(7) >> page & 1 == 1).fold(
            Runs::default(),
            |mut runs, page| {
                runs.push(page..page + 1);
                runs
            },
        )
    }

    #[test]
    fn union_without_and_contains_agree_with_looking_at_every_page() {
        for seed in 1..200 {
            let (one, two) = (pattern(seed), pattern(seed * 31));
            let (union, without) = (one.union(&two), one.without(&two));
            for page in 0..64 {
                assert_eq!(union.contains(page), one.contains(page) || two.contains(page));
                assert_eq!(without.contains(page), one.contains(page) && !two.contains(page));
            }
            assert_eq!(Runs::decode(&union.encode(), 64).unwrap(), union);
            assert_eq!(Runs::decode(&without.encode(), 64).unwrap(), without);
        }
    }

    #[test]
    fn a_set_too_long_to_send_is_joined_and_loses_no_page() {
        let sparse: Runs = (0..100_000).map(|index| index * 3..index * 3 + 1).collect();
        let joined = sparse.clone().joined(1000);
        assert!(joined.encode().len() <= 1000 && sparse.without(&joined).is_empty());
        let near = runs(&[0..1, 2..3, 1000..1001]).joined(6);
        assert_eq!(near, runs(&[0..3, 1000..1001]));
        assert_eq!(sparse.clone().joined(MAX_ENCODED), sparse);
    }

    #[test]
    fn hostile_sets_are_refused_at_the_number_of_pages() {
        let encode = |numbers: &[u64]| {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|number| put_varint(&mut bytes, *number));
            bytes
        };
        for (what, hostile) in [
            ("2^60 runs", encode(&[1 << 60, 0, 1])),
            ("more runs than bytes", encode(&[50, 0, 1])),
            ("more runs than pages", encode(&[51].iter().chain(&[1; 102]).copied().collect::<Vec<_>>())),
            ("an empty run", encode(&[1, 0, 0])),
            ("a run twice", encode(&[2, 0, 1, 0, 1])),
            ("a run that reaches outside", encode(&[1, 99, 2])),
            ("a run that overflows", encode(&[1, u64::MAX, 2])),
            ("a length that overflows", encode(&[1, 1, u64::MAX])),
            ("bytes behind", encode(&[1, 0, 1, 7])),
            ("a number cut short", vec![1, 0, 0x80]),
            ("a number in a longer form", vec![1, 0x80, 0x00, 1]),
            ("a number over 64 bits", [&[1, 0][..], &[0xFF; 9], &[0x02]].concat()),
            ("nothing", Vec::new()),
        ] {
            assert_eq!(Runs::decode(&hostile, 100).unwrap_err().code(), Code::Corrupt, "{what}");
        }
        assert_eq!(Runs::decode(&[0], 0).unwrap(), Runs::default());
        assert_eq!(Runs::decode(&encode(&[1, 0, 100]), 100).unwrap(), Runs::all(100));
    }
}

//! Numbers that follow from a seed.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_of<T: Clone>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize].clone()
    }

    /// A range of at most `longest` of `size` bytes, more often short than long.
    pub fn range(&mut self, size: u64, longest: u64) -> std::ops::Range<u64> {
        let start = self.below(size);
        let bound = 1 + (longest >> self.below(16));
        start..size.min(start + 1 + self.below(bound))
    }
}

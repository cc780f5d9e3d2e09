//! Random numbers for faults: repeatable from a seed, and nothing else asked of them.

/// Marsaglia's xorshift64 (Journal of Statistical Software 8(14), 2003).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        // Zero is the one state that never changes.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// True for `rate` of 65536.
    pub(crate) const fn below(&mut self, rate: u16) -> bool {
        (self.next() >> 16) & 0xffff < rate as u64
    }
}

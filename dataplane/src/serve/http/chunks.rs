//! A chunked body, read past or taken in (RFC 9112 section 7.1). Its end must be found exactly.

use super::status::Refusal;

/// Where in a chunked body we are. What it may take in all is bounded from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    step: Step,
    /// The chunk's size as far as it is read; then the bytes of it that are still to come.
    left: u64,
    /// Bytes that may still come, framing and all.
    budget: u64,
}

/// What some bytes of a chunked body hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Content, at these places.
    Data { from: usize, to: usize },
    /// Framing, all of them.
    More,
    /// The body ends behind so many of them.
    End(usize),
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The first digit of a size.
    Size,
    /// More digits, an extension, or the end of the line.
    Digits,
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    DataLineFeed,
    /// A trailer field, or the empty line that ends it all.
    Line,
    Trailer,
    TrailerEnd,
    LastLineFeed,
}

impl Chunks {
    pub(crate) const fn new(budget: u64) -> Self {
        Self { step: Step::Size, left: 0, budget }
    }

    /// Reads past as many of `bytes` as belong to the body: how many, and whether it ended there.
    pub(crate) fn skip(&mut self, bytes: &[u8]) -> Result<(usize, bool), Refusal> {
        let mut at = 0;
        loop {
            match self.next(&bytes[at..])? {
                Part::Data { to, .. } => at += to,
                Part::More => return Ok((bytes.len(), false)),
                Part::End(used) => return Ok((at + used, true)),
            }
        }
    }

    /// The next bytes of the content among `bytes`. What lies in front of them is done with.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<Part, Refusal> {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.step == Step::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                // The whole chunk was taken from the budget when its size was known.
                self.left -= here as u64;
                if self.left == 0 {
                    self.step = Step::DataEnd;
                }
                return Ok(Part::Data { from: at, to: at + here });
            }
            self.budget = self.budget.checked_sub(1).ok_or(Refusal::BodyTooLarge)?;
            if self.step == Step::LastLineFeed {
                return if byte == b'\n' { Ok(Part::End(at + 1)) } else { Err(Refusal::Chunk) };
            }
            self.step = self.after(byte)?;
        }
        Ok(Part::More)
    }

    /// One byte of framing.
    fn after(&mut self, byte: u8) -> Result<Step, Refusal> {
        Ok(match (self.step, byte) {
            (Step::Size | Step::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                let left = self.left.checked_mul(16).ok_or(Refusal::Chunk)?;
                self.left = left + u64::from(digit);
                Step::Digits
            }
            // Whitespace is not let in: RFC 9112 section 7.1.1 calls it bad, and readers differ about it.
            (Step::Digits, b';') => Step::Extension,
            (Step::Digits | Step::Extension, b'\r') => Step::SizeEnd,
            (Step::Extension, b'\t' | b' '..=b'~' | 0x80..) => Step::Extension,
            (Step::SizeEnd, b'\n') if self.left == 0 => Step::Line,
            (Step::SizeEnd, b'\n') => {
                self.budget = self.budget.checked_sub(self.left).ok_or(Refusal::BodyTooLarge)?;
                Step::Data
            }
            (Step::DataEnd, b'\r') => Step::DataLineFeed,
            (Step::DataLineFeed, b'\n') => Step::Size,
            (Step::Line, b'\r') => Step::LastLineFeed,
            // Trailers are thrown away, so it matters only where they end (RFC 9112 section 7.1.2).
            (Step::Line, b'!'..=b'~') => Step::Trailer,
            (Step::Trailer, b'\t' | b' '..=b'~' | 0x80..) => Step::Trailer,
            (Step::Trailer, b'\r') => Step::TrailerEnd,
            (Step::TrailerEnd, b'\n') => Step::Line,
            _ => return Err(Refusal::Chunk),
        })
    }
}

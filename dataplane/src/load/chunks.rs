//! A chunked body, of which the content is wanted (RFC 9112 section 7.1).

use super::head::Garbage;

/// Where in a chunked body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    step: Step,
    /// The chunk's size as far as it is read; then the bytes of it that are still to come.
    left: u64,
}

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
    Over,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many of content.
    Content(usize),
    /// So many of framing.
    Framing(usize),
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { step: Step::Size, left: 0 }
    }

    /// Whether the body has ended.
    pub(super) const fn is_over(self) -> bool {
        matches!(self.step, Step::Over)
    }

    /// Bytes of content that come before any more framing.
    pub(super) const fn left(self) -> u64 {
        if matches!(self.step, Step::Data) { self.left } else { 0 }
    }

    /// So many bytes of content have come.
    pub(super) fn pass(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        if self.left == 0 {
            self.step = Step::DataEnd;
        }
    }

    /// Looks at the beginning of `bytes`, which is not empty.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<Piece, Garbage> {
        if self.step == Step::Data {
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.pass(here as u64);
            return Ok(Piece::Content(here));
        }
        let mut used = 0;
        for byte in bytes {
            self.step = self.after(*byte)?;
            used += 1;
            if matches!(self.step, Step::Data | Step::Over) {
                break;
            }
        }
        Ok(Piece::Framing(used))
    }

    /// One byte of framing.
    fn after(&mut self, byte: u8) -> Result<Step, Garbage> {
        Ok(match (self.step, byte) {
            (Step::Size | Step::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                let before = if self.step == Step::Size { 0 } else { self.left };
                self.left = before.checked_mul(16).ok_or(Garbage)? + u64::from(digit);
                Step::Digits
            }
            // Some servers pad sizes with spaces; nobody can be misled by a client that lets them.
            (Step::Digits, b';' | b' ' | b'\t') => Step::Extension,
            (Step::Digits | Step::Extension, b'\r') => Step::SizeEnd,
            (Step::Extension, b'\t' | b' '..=b'~' | 0x80..) => Step::Extension,
            (Step::SizeEnd, b'\n') if self.left == 0 => Step::Line,
            (Step::SizeEnd, b'\n') => Step::Data,
            (Step::DataEnd, b'\r') => Step::DataLineFeed,
            (Step::DataLineFeed, b'\n') => Step::Size,
            (Step::Line, b'\r') => Step::LastLineFeed,
            (Step::Line, b'!'..=b'~') => Step::Trailer,
            (Step::Trailer, b'\t' | b' '..=b'~' | 0x80..) => Step::Trailer,
            (Step::Trailer, b'\r') => Step::TrailerEnd,
            (Step::TrailerEnd, b'\n') => Step::Line,
            (Step::LastLineFeed, b'\n') => Step::Over,
            _ => return Err(Garbage),
        })
    }
}

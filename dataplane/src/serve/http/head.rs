//! Writing a response's head into a buffer of fixed size.

/// The room that a head needs at most: what [`respond`](super::respond::respond) writes fits, or it writes something
/// shorter instead.
pub const HEAD_MAX: usize = 1024;

/// A head being written. What does not fit is noticed, not written.
#[derive(Debug)]
pub(crate) struct Head<'o> {
    out: &'o mut [u8],
    len: usize,
    full: bool,
}

impl<'o> Head<'o> {
    pub(crate) const fn new(out: &'o mut [u8]) -> Self {
        Self { out, len: 0, full: false }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.full = true,
        }
    }

    /// In decimal digits.
    pub(crate) fn number(&mut self, number: u64) {
        let mut digits = [0; 20];
        let (mut at, mut rest) = (digits.len(), number);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }

    /// A field line. `name` comes with its colon and space.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.put(name);
        self.put(value);
        self.put(b"\r\n");
    }

    /// `bytes first-last/size` (RFC 9110 section 14.4); `len` is at least 1.
    pub(crate) fn content_range(&mut self, start: u64, len: u64, size: u64) {
        self.put(b"Content-Range: bytes ");
        self.number(start);
        self.put(b"-");
        self.number(start + len - 1);
        self.put(b"/");
        self.number(size);
        self.put(b"\r\n");
    }

    /// Bytes written, unless they did not fit.
    pub(crate) fn finish(self) -> Option<u16> {
        if self.full { None } else { u16::try_from(self.len).ok() }
    }
}

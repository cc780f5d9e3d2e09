//! Which stretches of a file are wanted: `Range` (RFC 9110 section 14.2).

/// The most stretches that one request may ask for; who asks for more gets the whole file.
pub const RANGES_MAX: usize = 16;

/// A stretch of a file; `len` is at least 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// What is to be sent.
#[expect(clippy::large_enum_variant, reason = "lives on the stack of one call; a box would be an allocation")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selected {
    /// All of it: the field is not valid, or in another unit, or asks for too much.
    Whole,
    /// Nothing of what is asked for exists (RFC 9110 section 15.5.17).
    Nothing,
    One(Span),
    Many(Spans),
}

/// Up to [`RANGES_MAX`] of them, in the order of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans {
    spans: [Span; RANGES_MAX],
    len: usize,
}

impl Spans {
    pub(crate) fn as_slice(&self) -> &[Span] {
        &self.spans[..self.len]
    }
}

/// A member of the list as it applies to a file of `size` bytes.
enum Member {
    Span(Span),
    Unsatisfiable,
}

/// What `value` selects of `size` bytes.
pub(crate) fn select(value: &[u8], size: u64) -> Selected {
    // RFC 9110 section 14.1: the name of a unit is case-insensitive; unknown units are ignored.
    let Some((unit, list)) = value.split_at_checked(6) else { return Selected::Whole };
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return Selected::Whole;
    }
    let (mut spans, mut asked) = (Spans::default(), 0);
    for text in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|text| !text.is_empty()) {
        asked += 1;
        if asked > RANGES_MAX {
            return Selected::Whole;
        }
        match member(text, size) {
            // RFC 9110 section 14.2: an invalid member makes the field invalid, and it may be ignored.
            None => return Selected::Whole,
            Some(Member::Unsatisfiable) => {}
            Some(Member::Span(span)) => {
                spans.spans[spans.len] = span;
                spans.len += 1;
            }
        }
    }
    match spans.as_slice() {
        _ if asked == 0 => Selected::Whole,
        [] => Selected::Nothing,
        [one] => Selected::One(*one),
        many if is_greedy(many, size) => Selected::Whole,
        _ => Selected::Many(spans),
    }
}

/// `first-last`, `first-` or `-length` (RFC 9110 section 14.1.1). `None`: none of them.
fn member(text: &[u8], size: u64) -> Option<Member> {
    let hyphen = text.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (&text[..hyphen], &text[hyphen + 1..]);
    let span = |start: u64, len: u64| {
        Some(if len > 0 { Member::Span(Span { start, len }) } else { Member::Unsatisfiable })
    };
    if first.is_empty() {
        let len = number(last)?;
        // A suffix of an empty file is satisfiable, and has no Content-Range: the whole of nothing is sent.
        if size == 0 && len > 0 {
            return None;
        }
        let len = len.min(size);
        return span(size - len, len);
    }
    let start = number(first)?;
    let end = if last.is_empty() { u64::MAX } else { number(last)? };
    if end < start {
        return None;
    }
    span(start, end.saturating_add(1).min(size).saturating_sub(start))
}

/// Digits only. A number beyond all files is as good as any other beyond them.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

/// RFC 9110 section 14.2: who asks for more than two overlapping stretches, or for more bytes than there are, is
/// confused or an attacker.
fn is_greedy(spans: &[Span], size: u64) -> bool {
    let sum: u128 = spans.iter().map(|span| u128::from(span.len)).sum();
    let overlap = |a: &Span, b: &Span| a.start < b.start + b.len && b.start < a.start + a.len;
    let pairs = spans.iter().enumerate().flat_map(|(at, a)| spans[..at].iter().map(move |b| (a, b)));
    sum > u128::from(size) || pairs.filter(|(a, b)| overlap(a, b)).count() > 2
}

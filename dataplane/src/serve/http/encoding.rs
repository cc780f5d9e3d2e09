//! Which form of a file a client gets: `Accept-Encoding` (RFC 9110 section 12.5.3), and quality values at large
//! (section 12.4.2).

use super::facts::{Coding, Facts};

/// Splits a list at its commas; each member into its name and its weight in thousandths. Members that are none are
/// left out.
pub(crate) fn members(list: &[u8]) -> impl Iterator<Item = (&[u8], u16)> {
    list.split(|byte| *byte == b',').filter_map(|member| {
        let mut parts = member.split(|byte| *byte == b';');
        let name = parts.next()?.trim_ascii();
        let mut weight = 1000;
        for parameter in parts {
            if let [b'q' | b'Q', b'=', value @ ..] = parameter.trim_ascii() {
                weight = thousandths(value)?;
            }
        }
        (!name.is_empty()).then_some((name, weight))
    })
}

/// `0`, `0.5`, `1.000`: at most three digits, at most one.
fn thousandths(value: &[u8]) -> Option<u16> {
    let (whole, digits) = match value {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut number = u16::from(whole - b'0') * 1000;
    for (digit, worth) in digits.iter().zip([100, 10, 1]) {
        number += digit.is_ascii_digit().then(|| u16::from(digit - b'0'))? * worth;
    }
    (number <= 1000).then_some(number)
}

/// What a client said of each coding.
#[derive(Default)]
struct Wishes {
    identity: Option<u16>,
    precompressed: [Option<u16>; 3],
    others: Option<u16>,
}

impl Wishes {
    fn new(list: &[u8]) -> Self {
        let mut wishes = Self::default();
        for (name, weight) in members(list) {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if let Some(place) = Coding::PRECOMPRESSED.iter().position(|coding| is(coding.name())) {
                wishes.precompressed[place] = Some(weight);
            } else if is("x-gzip") {
                // RFC 9110 section 8.4.1.3: another name for it.
                wishes.precompressed[2] = Some(weight);
            } else if is("identity") {
                wishes.identity = Some(weight);
            } else if name == b"*" {
                wishes.others = Some(weight);
            }
        }
        wishes
    }
}

/// The form with the greatest weight, the smallest of those; the file itself if the client wishes no other. `None`: the
/// client has ruled out all that there is.
pub(crate) fn choose(facts: &Facts, accept: Option<&[u8]>) -> Option<Coding> {
    let Some(list) = accept else { return Some(Coding::Identity) };
    // Nothing to choose, and nothing ruled out.
    if !facts.varies() && !list.contains(&b';') {
        return Some(Coding::Identity);
    }
    let wishes = Wishes::new(list);
    let candidates =
        Coding::PRECOMPRESSED.into_iter().zip(wishes.precompressed).filter_map(|(coding, wish)| {
            let weight = wish.or(wishes.others).unwrap_or(0);
            let size = facts.representation(coding)?.size();
            // A coding that makes the file longer is of no use to anybody.
            (weight > 0 && size < facts.identity().size()).then_some((weight, size, coding))
        });
    let best = candidates.min_by_key(|(weight, size, _)| (u16::MAX - weight, *size));
    // The file itself is acceptable unless it is ruled out, by name or by `*;q=0`; without a weight of its own it
    // comes last.
    let identity = wishes.identity.or_else(|| wishes.others.filter(|weight| *weight == 0));
    match (best, identity) {
        (Some((weight, _, _)), Some(own)) if own > weight => Some(Coding::Identity),
        (Some((_, _, coding)), _) => Some(coding),
        (None, Some(0)) => None,
        (None, _) => Some(Coding::Identity),
    }
}

/// Whether a client would rather have JSON than HTML (RFC 9110 section 12.5.1). Whoever names neither is a person.
pub(crate) fn prefers_json(accept: Option<&[u8]>) -> bool {
    let Some(list) = accept else { return false };
    let weight = |exact: &[u8], group: &[u8]| {
        let mut found = (0, 0);
        for (name, weight) in members(list) {
            let name_is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            let precision = if name_is(exact) {
                3
            } else if name_is(group) {
                2
            } else {
                u8::from(name_is(b"*/*"))
            };
            if precision > 0 && precision >= found.0 {
                found = (precision, weight);
            }
        }
        found.1
    };
    weight(b"application/json", b"application/*") > weight(b"text/html", b"text/*")
}

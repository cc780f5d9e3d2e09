//! Preconditions, in the order of RFC 9110 section 13.2.2.

use super::date::Date;
use super::facts::{Etag, Representation};
use super::request::Conditions;

/// What becomes of a GET or HEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As if there were no conditions.
    Perform,
    /// 304: the client has it.
    NotModified,
    /// 412
    Failed,
}

/// Steps 1 to 4 for a file that exists.
pub(crate) fn evaluate(conditions: &Conditions<'_>, file: &Representation) -> Verdict {
    let modified = file.modified().seconds();
    // Steps 1 and 2.
    if let Some(list) = conditions.if_match {
        // RFC 9110 section 13.1.1: strong comparison.
        if !names(list, file.etag(), Comparison::Strong) {
            return Verdict::Failed;
        }
    } else if let Some(since) = conditions.if_unmodified_since.and_then(Date::parse)
        && modified > since
    {
        return Verdict::Failed;
    }
    // Steps 3 and 4.
    if let Some(list) = conditions.if_none_match {
        // RFC 9110 section 13.1.2: weak comparison.
        if names(list, file.etag(), Comparison::Weak) {
            return Verdict::NotModified;
        }
    } else if let Some(since) = conditions.if_modified_since.and_then(Date::parse)
        && modified <= since
    {
        return Verdict::NotModified;
    }
    Verdict::Perform
}

/// Steps 1 to 3 for what is to be stored in place of `file`, or where there is none: whether it may be.
pub(crate) fn may_store(conditions: &Conditions<'_>, file: Option<&Representation>) -> bool {
    if let Some(list) = conditions.if_match {
        if !file.is_some_and(|file| names(list, file.etag(), Comparison::Strong)) {
            return false;
        }
    } else if let Some(since) = conditions.if_unmodified_since.and_then(Date::parse)
        && file.is_some_and(|file| file.modified().seconds() > since)
    {
        return false;
    }
    let refused = |list| file.is_some_and(|file| names(list, file.etag(), Comparison::Weak));
    !conditions.if_none_match.is_some_and(refused)
}

/// Step 5: whether `Range` counts, given `If-Range` (RFC 9110 section 13.1.5).
pub(crate) fn range_holds(if_range: Option<&[u8]>, file: &Representation, now: &Date) -> bool {
    match if_range {
        None => true,
        Some(value @ ([b'"', ..] | [b'W', b'/', ..])) => {
            matches!(tags(value).next(), Some((tag, false)) if tag == file.etag().text() && tag == value)
        }
        // A date only if it is the very one, and its second was over when we answer: a file changed twice within a
        // second has one date for two contents (RFC 9110 section 8.8.2.2).
        Some(value) => {
            let modified = file.modified().seconds();
            Date::parse(value) == Some(modified) && modified < now.seconds()
        }
    }
}

/// RFC 9110 section 8.8.3.2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether a list of tags names `etag`; `*` names all that exist.
fn names(list: &[u8], etag: &Etag, comparison: Comparison) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    tags(list).any(|(tag, weak)| tag == etag.text() && !(weak && comparison == Comparison::Strong))
}

/// The tags of a list with their quotes, and whether each is weak. Ends at the first thing that is no tag.
fn tags(list: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let mut rest = list;
    std::iter::from_fn(move || {
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        let (tag, weak) = match rest {
            [b'W', b'/', tag @ ..] => (tag, true),
            tag => (tag, false),
        };
        let [b'"', text @ ..] = tag else { return None };
        let end = text.iter().position(|byte| *byte == b'"')? + 2;
        let (tag, after) = tag.split_at(end);
        rest = after;
        Some((tag, weak))
    })
}

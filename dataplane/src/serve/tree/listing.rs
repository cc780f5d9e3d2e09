//! What is in a directory, rendered when it is looked up.

use super::resolve::Nowhere;
use crate::serve::http::Listing;
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use serde::Serialize;
use std::fmt::Write;
use std::os::fd::OwnedFd;

/// Names listed at most: a page of more is no use to anybody, and its making would hold up other lookups.
const ITEMS_MAX: usize = 10_000;

/// One name in a directory: a line of the JSON form.
#[derive(Debug, Serialize)]
struct Item {
    name: String,
    /// `directory` or `file`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Bytes; none for directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// Seconds since 1970.
    modified: i64,
}

/// The JSON form.
#[derive(Debug, Serialize)]
struct Page<'l> {
    path: &'l str,
    items: &'l [Item],
    /// Whether there are more than are listed.
    cut: bool,
}

/// Lists a directory: directories first, each part by name. Hidden names are left out, and so is what cannot be served:
/// devices, links unless they are followed, names that are not UTF-8.
/// `follow` says where a link in it leads, if it may be followed.
pub(super) fn read(
    directory: &OwnedFd,
    path: &str,
    follow: impl Fn(&str) -> Option<Stat>,
) -> Result<Listing, Nowhere> {
    let mut items = Vec::new();
    let mut cut = false;
    for name in Dir::read_from(directory).map_err(Nowhere::of)? {
        let name = name.map_err(Nowhere::of)?;
        let Ok(name) = name.file_name().to_str() else { continue };
        if name.starts_with('.') || name.chars().any(char::is_control) {
            continue;
        }
        if items.len() == ITEMS_MAX {
            cut = true;
            break;
        }
        items.extend(item(directory, name, &follow));
    }
    items.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let page = Page { path, items: &items, cut };
    let json = serde_json::to_vec(&page).map_err(|_| Nowhere::Failed)?;
    Ok(Listing { html: html(&page).into_bytes().into(), json: json.into() })
}

/// A link is listed as what it leads to; one that may not be followed, not at all: what lies outside of the root has no
/// size to tell.
fn item(directory: &OwnedFd, name: &str, follow: &impl Fn(&str) -> Option<Stat>) -> Option<Item> {
    let mut stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        stat = follow(name)?;
    }
    let (kind, size) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => ("file", u64::try_from(stat.st_size).ok()),
        FileType::Directory => ("directory", None),
        _ => return None,
    };
    Some(Item { name: name.to_owned(), kind, size, modified: stat.st_mtime })
}

fn html(page: &Page<'_>) -> String {
    let title = escaped(page.path);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>/{title}</title>\n\
         <style>body{{font:16px system-ui,sans-serif;margin:2em}}td{{padding:.1em 1.5em .1em 0}}\
         td+td{{text-align:right}}</style>\n</head><body><h1>/{title}</h1>\n<table>\n"
    );
    if !page.path.is_empty() {
        html.push_str("<tr><td><a href=\"../\">../</a></td><td></td></tr>\n");
    }
    for item in page.items {
        let slash = if item.size.is_none() { "/" } else { "" };
        let size = item.size.map(|size| size.to_string()).unwrap_or_default();
        // `./` so that a name with a colon is not taken for a scheme (RFC 3986 section 4.2).
        let _ = writeln!(
            html,
            "<tr><td><a href=\"./{}{slash}\">{}{slash}</a></td><td>{size}</td></tr>",
            in_url(&item.name),
            escaped(&item.name),
        );
    }
    html.push_str("</table>\n");
    if page.cut {
        let _ = writeln!(html, "<p>Only the first {ITEMS_MAX} names are shown.</p>");
    }
    html.push_str("</body></html>\n");
    html
}

/// As text of a page or value of an attribute.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// As a segment of a path: all but the unreserved characters (RFC 3986 section 2.3) in percent.
fn in_url(name: &str) -> String {
    let mut url = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

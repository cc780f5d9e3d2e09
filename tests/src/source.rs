//! Reading the tree's own source, for the tests that hold it to the house rules.

use std::path::{Path, PathBuf};

/// The top of the repository.
#[must_use]
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies in the workspace").to_owned()
}

/// Every Rust file of the tree, as path from the top and text, sorted by path. `target` folders are left out.
///
/// # Panics
/// When a folder or file cannot be read.
#[must_use]
pub fn rust_files() -> Vec<(String, String)> {
    let (top, mut found) = (top(), Vec::new());
    let mut folders = vec![top.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a readable file");
                let path = path.strip_prefix(&top).expect("below the top").to_string_lossy().into_owned();
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

/// The code alone: comments, strings and character literals become blanks, line breaks stay.
///
/// Knows line and nested block comments, strings with escapes, raw strings, byte and C strings, and tells a character
/// from a lifetime (`'a'` and `'a`).
#[must_use]
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = not_code(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        if length == 0 {
            code.push(if bytes[at].is_ascii() { char::from(bytes[at]) } else { ' ' });
            at += 1;
        } else {
            let end = (at + length).min(bytes.len());
            code.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// How many bytes at the start of `rest` are a comment or a literal; 0 when it starts with code.
fn not_code(rest: &[u8], before: Option<u8>) -> usize {
    if rest.starts_with(b"//") {
        return rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment(rest);
    }
    if rest[0] == b'"' {
        return quoted(rest);
    }
    if rest[0] == b'\'' {
        return character(rest);
    }
    // r"..", r#".."#, br"..": not the r at the end of a name, and not a raw identifier (r#type).
    let in_a_name = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if rest[0] == b'r' && (!in_a_name || matches!(before, Some(b'b' | b'c'))) {
        return raw(rest);
    }
    0
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn character(rest: &[u8]) -> usize {
    match rest {
        [_, b'\\', _, tail @ ..] => tail.iter().position(|byte| *byte == b'\'').map_or(0, |end| end + 4),
        [_, first, b'\'', ..] if *first != b'\'' => 3,
        // A character of two to four bytes; a lifetime is ASCII.
        [_, first, tail @ ..] if !first.is_ascii() => {
            tail.iter().take(4).position(|byte| *byte == b'\'').map_or(0, |end| end + 3)
        }
        _ => 0,
    }
}

fn raw(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = 2 + hashes;
    let found = rest[body..].windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |length| body + length + end.len())
}

/// Whether `code` contains `word` as a word of its own.
#[must_use]
pub fn has_word(code: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word)
        .any(|(at, _)| !part(code[..at].chars().next_back()) && !part(code[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(text: &str) -> bool {
        has_word(&code_only(text), "unsafe")
    }

    #[test]
    fn code_is_found_and_talk_of_it_is_not() {
        assert!(finds("unsafe { x() }"));
        assert!(finds("/* safe */ unsafe impl Send for X {}"));
        assert!(finds("let r = 'a'; unsafe {}"));
        assert!(finds("fn f<'a>(x: &'a str) { unsafe {} } // 'a"));
        assert!(finds("let quote = '\"'; unsafe {}"));
        assert!(finds("let quote = '\\''; unsafe {}"));
        assert!(finds("let e = 'é'; unsafe {}"));
        assert!(finds("let r#type = r\"\"; unsafe {}"));
        for talk in [
            "// unsafe",
            "/// unsafe\nfn f() {}",
            "/* a /* nested */ unsafe */",
            "\"unsafe\"",
            "\"\\\" unsafe\"",
            "r#\"a \" unsafe \"#",
            "br\"unsafe\"",
            "#![forbid(unsafe_code)]",
            "fn not_unsafe() {}",
        ] {
            assert!(!finds(talk), "{talk}");
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "a\n/* b\nc */\n\"d\n\"\ne";
        assert_eq!(code_only(text).lines().count(), text.lines().count());
        assert!(code_only(text).ends_with("\ne"));
    }
}

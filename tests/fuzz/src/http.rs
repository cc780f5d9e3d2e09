//! What the HTTP target does with its bytes. A plain function, so that `cargo test` runs it from seeds too
//! (`dataplane/tests/fuzz_http.rs`).

use dataplane::serve::http::{
    Body, Coding, Date, Facts, HEAD_MAX, Intake, Limits, Next, Place, Policy, Representation, Resource,
    Response, Scratch, refuse, respond,
};
use std::time::{Duration, UNIX_EPOCH};

const SIZE: u64 = 1000;

fn facts() -> Facts {
    let form = |size, inode| Representation::new(size, UNIX_EPOCH + Duration::from_secs(784_111_777), inode);
    Facts::new("a.css", form(SIZE, 1)).with(Coding::Gzip, form(SIZE / 2, 2))
}

/// A head is text that ends once, and a body is found byte by byte as it is found at once, within the file.
fn check(response: &Response, head: &[u8]) {
    let head = std::str::from_utf8(&head[..usize::from(response.head_len)]).expect("ASCII");
    assert!(head.starts_with("HTTP/1.1 ") && head.ends_with("\r\n\r\n"), "{head:?}");
    assert!(head.matches("\r\n\r\n").count() == 1 && !head.replace("\r\n", "").contains(['\r', '\n']));
    assert!(response.status != 500, "{head}");
    let len = response.body.len();
    if !matches!(response.body, Body::Empty) {
        assert!(head.contains(&format!("\r\nContent-Length: {len}\r\n")), "{head}");
    }
    let mut at = 0;
    while at < len {
        let run = match response.body.locate(at) {
            Place::Bytes(bytes) => bytes.len() as u64,
            Place::File { coding, start, len } => {
                let size = if coding == Coding::Gzip { SIZE / 2 } else { SIZE };
                assert!(start + len <= size, "beyond the file");
                len
            }
            Place::End => 0,
        };
        assert!(run > 0, "a hole at {at} of {len}");
        at += run;
    }
    assert!(at == len && response.body.locate(len) == Place::End, "the body ends where it should");
}

/// What happens on a connection that delivers `bytes` in pieces of `step`: heads and refusals, and the bytes left.
fn events(bytes: &[u8], step: usize, resource: Resource<'_>) -> (Vec<String>, usize) {
    let limits = Limits { head_bytes: 512, target_bytes: 200, body_bytes: 64, ..Limits::default() };
    let (mut intake, mut scratch, mut head) = (Intake::default(), Scratch::new(&limits), [0; HEAD_MAX]);
    let (policy, date) = (Policy::default(), Date::new(UNIX_EPOCH + Duration::from_secs(784_198_177)));
    let (mut from, mut events) = (0, Vec::new());
    let ends = (0..bytes.len()).step_by(step.max(1)).chain([bytes.len()]);
    for end in ends {
        loop {
            let offered = &bytes[from..end.max(from)];
            let (used, next) = intake.next(offered, &mut scratch, &limits);
            assert!(used <= offered.len());
            from += used;
            let response = match next {
                Next::More | Next::Over => break,
                Next::Request(request, len) => {
                    assert!(used + len <= offered.len());
                    assert!(request.path.split('/').all(|name| name != ".." && name != "."), "{request:?}");
                    assert!(
                        !request.path.starts_with('/') && !request.path.contains(['\0', '\\']),
                        "{request:?}"
                    );
                    let response = respond(&request, resource, &policy, &date, &mut head);
                    intake.answered(&request, &response, &limits);
                    from += len;
                    response
                }
                Next::Refused(refusal, asked) => refuse(refusal, asked, &policy, &date, &mut head),
                Next::Broken(refusal) => {
                    events.push(refusal.name().to_owned());
                    continue;
                }
            };
            check(&response, &head);
            events.push(String::from_utf8_lossy(&head[..usize::from(response.head_len)]).into_owned());
        }
    }
    (events, bytes.len() - from)
}

/// Any bytes on a connection: no panic, only clean paths, well-formed answers, and the same ones however the bytes are
/// cut.
pub fn http_request(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let facts = facts();
    for resource in [Resource::File(&facts), Resource::Redirect, Resource::NotFound] {
        let whole = events(bytes, usize::MAX, resource);
        assert_eq!(whole, events(bytes, usize::from(cut % 40), resource), "in pieces");
    }
}

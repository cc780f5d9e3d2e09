//! Whole connections: pipelining, bodies read past, ends; the same events however the bytes come.

use super::*;
use proptest::prelude::*;

/// What happens on a connection that delivers `bytes` in pieces that end at `cuts`: requests as `host/path`, refusals by
/// name, `over`; and the bytes left.
fn events(bytes: &[u8], cuts: impl IntoIterator<Item = usize>, limits: &Limits) -> (Vec<String>, usize) {
    let (mut intake, mut scratch, mut events) = (Intake::default(), Scratch::new(limits), Vec::new());
    let (mut out, mut from) = ([0; HEAD_MAX], 0);
    for end in cuts.into_iter().chain([bytes.len()]) {
        loop {
            let offered = &bytes[from..end.max(from)];
            let over = intake.is_over();
            let (used, next) = intake.next(offered, &mut scratch, limits);
            assert!(used <= offered.len());
            from += used;
            match next {
                Next::More => break,
                Next::Request(request, len) => {
                    let response = respond(&request, Resource::NotFound, &site(), &now(), &mut out);
                    let end = if response.close { " last" } else { "" };
                    events.push(format!("{} {}/{}{end}", request.method_text, request.host, request.path));
                    intake.answered(&request, &response, limits);
                    from += len;
                }
                Next::Refused(refusal, asked) => {
                    let response = refuse(refusal, asked, &site(), &now(), &mut out);
                    let body = if response.body.is_empty() { ", no body" } else { "" };
                    events.push(format!("refused {}{body}", refusal.name()));
                }
                Next::Broken(refusal) => events.push(format!("broken {}", refusal.name())),
                Next::Over => {
                    assert_eq!(used, offered.len(), "all is thrown away");
                    assert!(over || offered.is_empty() || intake.is_over());
                    break;
                }
            }
        }
    }
    if intake.is_over() {
        events.push("over".to_owned());
    }
    (events, bytes.len() - from)
}

fn at_once(raw: &str, limits: &Limits) -> Vec<String> {
    let whole = events(raw.as_bytes(), [], limits);
    let single = events(raw.as_bytes(), 0..raw.len(), limits);
    assert_eq!(whole, single, "byte by byte: {raw:?}");
    whole.0
}

const A: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const B: &str = "HEAD /b HTTP/1.1\r\nHost: h\r\n\r\n";

fn post(lines: &str, body: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n{body}")
}

#[test]
fn requests_follow_each_other() {
    let limits = Limits::default();
    let check = |raw: &str, expected: &[&str]| assert_eq!(at_once(raw, &limits), expected, "{raw:?}");
    check("", &[]);
    check(A, &["GET h/a"]);
    check(&[A, B, A].concat(), &["GET h/a", "HEAD h/b", "GET h/a"]);
    check(&[A, "\r\n", B, "\r\n\r\n", A].concat(), &["GET h/a", "HEAD h/b", "GET h/a"]);
    check(&[A, &B[..10]].concat(), &["GET h/a"]);
    check(&[A, "nonsense\r\n\r\n", B].concat(), &["GET h/a", "refused request-line", "over"]);
    check(&["GET /c HTTP/1.0\r\n\r\n", A].concat(), &["GET /c last", "over"]);
    check(
        &["GET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", A].concat(),
        &["GET h/c last", "over"],
    );
    check(&["GET /c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", A].concat(), &["GET /c", "GET h/a"]);
    let three = Limits { requests: 3, ..limits.clone() };
    assert_eq!(at_once(&A.repeat(5), &three), ["GET h/a", "GET h/a", "GET h/a last", "over"]);
}

#[test]
fn bodies_are_read_past() {
    let limits = Limits { body_bytes: 100, ..Limits::default() };
    let length = |lines: &str, body: &str| at_once(&[&post(lines, body), A].concat(), &limits);
    assert_eq!(length("Content-Length: 5", "12345"), ["POST h/p", "GET h/a"]);
    assert_eq!(length("Content-Length: 28", A), ["POST h/p", "GET h/a"], "a body is not a request");
    assert_eq!(length("Content-Length: 100", &"x".repeat(100)), ["POST h/p", "GET h/a"]);
    assert_eq!(length("Content-Length: 101", &"x".repeat(101)), ["POST h/p last", "over"]);
    assert_eq!(length("Content-Length: 5\r\nExpect: 100-continue", ""), ["POST h/p last", "over"]);
    let get = ["GET /g HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n\r\n\r", A].concat();
    assert_eq!(at_once(&get, &limits), ["GET h/g", "GET h/a"]);

    let chunked = |body: &str| at_once(&[&post("Transfer-Encoding: chunked", body), A].concat(), &limits);
    for body in [
        "0\r\n\r\n",
        "5\r\n12345\r\n0\r\n\r\n",
        "5\r\n\r\n\r\n\n\r\n0\r\n\r\n",
        "A\r\n1234567890\r\n1\r\nx\r\n0\r\n\r\n",
        "0000\r\n\r\n",
        "000a\r\n1234567890\r\n00\r\n\r\n",
        "1;a=b\r\nx\r\n0;c=\"d;e\"\r\n\r\n",
        "1;\r\nx\r\n0\r\n\r\n",
        "0\r\nX: y\r\nZ:\r\n\r\n",
    ] {
        assert_eq!(chunked(body), ["POST h/p", "GET h/a"], "{body:?}");
    }
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\nx\r\n",
        "0x1\r\nx\r\n",
        " 1\r\nx\r\n",
        "1 \r\nx\r\n",
        "1 ;a\r\nx\r\n",
        "1\nx\r\n",
        "1\r\rx\r\n",
        "1;a\nx\r\n",
        "1;\0\r\nx\r\n",
        "1\r\nxx\r\n",
        "1\r\nx\n",
        "1\r\nx\r\r",
        "1\r\nx0\r\n\r\n",
        ";\r\n\r\n",
        "11111111111111111\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\n\rx",
        "0\r\n\n",
    ] {
        assert_eq!(chunked(body), ["POST h/p", "broken chunk", "over"], "{body:?}");
    }
    for body in [
        "ffffffffffffffff\r\n",
        "65\r\n",
        &format!("1;{}\r\nx\r\n0\r\n\r\n", "y".repeat(100)),
        &format!("0\r\n{}\r\n", "X: y\r\n".repeat(20)),
        &"1\r\nx\r\n".repeat(30),
        &"0".repeat(200),
    ] {
        assert_eq!(chunked(body), ["POST h/p", "broken body-too-large", "over"], "{body:?}");
    }
}

/// A request whose answer must wait stays where it is, and is the same when asked again.
#[test]
fn an_answer_may_wait() {
    let limits = Limits::default();
    let (mut intake, mut scratch) = (Intake::default(), Scratch::new(&limits));
    let raw = [&post("Content-Length: 2", "xy"), A].concat();
    for _ in 0..3 {
        let (used, next) = intake.next(raw.as_bytes(), &mut scratch, &limits);
        assert!(used == 0 && matches!(next, Next::Request(request, _) if request.path == "p"));
    }
    assert_eq!(intake.requests(), 0);
}

#[test]
fn it_says_what_it_waits_for() {
    let limits =
        Limits { idle_time: Duration::from_secs(1), head_time: Duration::from_secs(2), ..Limits::default() };
    let (mut intake, mut scratch, mut out) = (Intake::default(), Scratch::new(&limits), [0; HEAD_MAX]);
    assert_eq!((intake.waiting(false), intake.waiting(true)), (Waiting::Request, Waiting::Head));
    let raw = post("Content-Length: 2", "");
    let (_, Next::Request(request, _)) = intake.next(raw.as_bytes(), &mut scratch, &limits) else {
        panic!("a request")
    };
    let response = respond(&request, Resource::NotFound, &site(), &now(), &mut out);
    intake.answered(&request, &response, &limits);
    assert_eq!(intake.waiting(false), Waiting::Body);
    intake.drain();
    let (used, next) = intake.next(b"xyGET / HTTP/1.1\r\nHost: h\r\n\r\n", &mut scratch, &limits);
    assert!(used == 2 && matches!(&next, Next::Request(request, _) if !request.persistent), "{next:?}");
    assert_eq!(limits.time(Waiting::Request), Duration::from_secs(1));
    assert_eq!(limits.time(Waiting::Body), Duration::from_secs(2));
    let slow = Limits { read_rate: 1000, stall_time: Duration::from_secs(10), ..Limits::default() };
    assert!(slow.is_slow_reader(9_999, Duration::from_secs(10)));
    assert!(!slow.is_slow_reader(10_000, Duration::from_secs(10)));
    assert!(!slow.is_slow_reader(0, Duration::from_secs(9)), "not judged so early");
    assert!(!Limits::default().is_slow_reader(0, Duration::MAX));
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let whole = [A, B].map(str::to_owned).into_iter().chain([
        post("Content-Length: 5", "12345"),
        post("Transfer-Encoding: chunked", "5;x\r\n12345\r\n0\r\nT: t\r\n\r\n"),
        post("Transfer-Encoding: chunked", "5\r\n12345\r"),
        post("Content-Length: 500", "12345"),
        "GET /c HTTP/1.0\r\n\r\n".to_owned(),
        "\r\n".to_owned(),
        "0\r\n\r\n".to_owned(),
        "x".to_owned(),
        "\n".to_owned(),
    ]);
    prop::collection::vec(prop::sample::select(whole.collect::<Vec<_>>()), 0..8)
        .prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        bytes in stream(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let limits = Limits { body_bytes: 60, ..Limits::default() };
        let mut bytes = bytes;
        for (at, byte) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let whole = events(&bytes, [], &limits);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(&whole, &events(&bytes, cuts, &limits));
        prop_assert_eq!(&whole, &events(&bytes, 0..bytes.len(), &limits));
    }
}

/// Which method was refused is read where the request begins, behind what was left of the body before it.
#[test]
fn a_refused_head_behind_a_body_has_no_body() {
    let limits = Limits::default();
    for (body, refused, expected) in [
        ("hello", "HEAD /%2e%2e/ HTTP/1.1\r\nHost: h\r\n\r\n", "refused path, no body"),
        ("HEAD ", "GET /%2e%2e/ HTTP/1.1\r\nHost: h\r\n\r\n", "refused path"),
    ] {
        let raw = post("Content-Length: 5", body) + refused;
        assert_eq!(at_once(&raw, &limits)[1], expected, "{raw:?}");
    }
}

//! The file server over wires in memory: what a path and its routers can do to it, at any time that is wanted.
//!
//! ```text
//!   client of our own ── loopback ── worker [ serve ]
//! ```
#![forbid(unsafe_code)]

use dataplane::net::Vlan;
use dataplane::serve::server::ServePlan;
use lab::indoors::{Indoors, TooLong, plan, pools};
use lab::server::{Reply, Tree};
use std::time::Duration;

const GET: &[u8] = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n";

/// Whether a response of so many bytes is there to its end.
fn is_whole(heard: &[u8], body: usize) -> bool {
    let head = heard.windows(4).position(|four| four == b"\r\n\r\n");
    head.is_some_and(|head| heard.len() >= head + 4 + body)
}

#[test]
fn a_file_over_loopback() {
    let (tree, pools) = (Tree::new().expect("a folder"), pools(1).expect("memory"));
    let content = tree.file("file", 200_000).expect("a file");
    let mut room = Indoors::new(plan(tree.path()).expect("a plan"), &pools, None).expect("a server");
    let talk = room.say(GET).expect("room");
    room.until("a response", |room| is_whole(room.heard(talk), content.len())).expect("whole");
    let reply = Reply::parse(room.heard(talk)).expect("a response");
    assert_eq!(reply.status, 200, "{}", reply.head);
    assert!(reply.body == content, "the body");
    assert_eq!(room.figures(["timeouts", "retransmits_fast", "malformed"]).expect("figures"), [0, 0, 0]);
    room.close().expect("books in order");
}

/// RFC 1191 with several workers: the router's word reaches one that does not have the connection.
#[test]
fn an_icmp_error_finds_the_worker_that_it_is_for() {
    let (tree, pools) = (Tree::new().expect("a folder"), pools(3).expect("memory"));
    let content = tree.file("file", 200_000).expect("a file");
    let mut room = Indoors::new(plan(tree.path()).expect("a plan"), &pools, None).expect("a server");
    room.mtu = (1300, TooLong::Told);
    let talks: Vec<usize> = (0..3).map(|_| room.say(GET).expect("room")).collect();
    let all = |room: &Indoors<'_>| talks.iter().all(|talk| is_whole(room.heard(*talk), content.len()));
    room.until("three responses", all).expect("whole");
    for talk in talks {
        assert!(Reply::parse(room.heard(talk)).expect("a response").body == content, "the body");
    }
    // Every one of a window is told of; the first makes segments short.
    let counts =
        room.figures(["pmtu_lowered", "pmtu_black_holes", "timeouts", "icmp_lost"]).expect("figures");
    assert_eq!(counts, [3, 0, 0, 0]);
    let [on, taken] = room.figures(["icmp_handed_on", "icmp_taken"]).expect("figures");
    assert!(on >= 3 && taken == on, "{on} handed on, {taken} taken");
    room.close().expect("books in order");
}

/// RFC 4821: no word at all.
#[test]
fn a_black_hole_does_not_hold_a_response() {
    let (tree, pools) = (Tree::new().expect("a folder"), pools(1).expect("memory"));
    let content = tree.file("file", 100_000).expect("a file");
    let mut room = Indoors::new(plan(tree.path()).expect("a plan"), &pools, None).expect("a server");
    room.mtu = (1300, TooLong::Vanish);
    let (talk, begin) = (room.say(GET).expect("room"), room.now());
    room.until("a response", |room| is_whole(room.heard(talk), content.len())).expect("whole");
    let time = room.now() - begin;
    assert!(Reply::parse(room.heard(talk)).expect("a response").body == content, "the body");
    assert_eq!(room.figures(["pmtu_lowered", "pmtu_black_holes"]).expect("figures"), [0, 1]);
    assert!(time < Duration::from_secs(4), "{time:?}");
    room.close().expect("books in order");
}

/// A router fails over in the middle of a response.
#[test]
fn a_response_goes_on_through_another_router() {
    let (tree, pools) = (Tree::new().expect("a folder"), pools(1).expect("memory"));
    let content = tree.file("file", 3_000_000).expect("a file");
    let mut room = Indoors::new(plan(tree.path()).expect("a plan"), &pools, None).expect("a server");
    let talk = room.say(GET).expect("room");
    room.until("a part", |room| room.heard(talk).len() > 100_000).expect("a part");
    assert!(!is_whole(room.heard(talk), content.len()));
    assert_eq!(room.went_to[5], 1);
    room.client.path.local_mac = [2, 0, 0, 0, 0, 7];
    room.until("the rest", |room| is_whole(room.heard(talk), content.len())).expect("whole");
    assert_eq!(room.went_to[5], 7);
    assert_eq!(room.figures(["peers_moved"]).expect("figures"), [1]);
    assert!(Reply::parse(room.heard(talk)).expect("a response").body == content, "the body");
    room.close().expect("books in order");
}

/// The same over a VLAN: what bears no tag, or another, is not for us.
#[test]
fn a_file_over_a_vlan() {
    let (tree, pools) = (Tree::new().expect("a folder"), pools(1).expect("memory"));
    let content = tree.file("file", 100_000).expect("a file");
    let tagged = ServePlan { vlan: Some(42), ..plan(tree.path()).expect("a plan") };
    for (tag, heard) in [(Some(0x602a), true), (Some(43), false), (None, false)] {
        let vlan = tag.and_then(Vlan::new);
        let mut room = Indoors::new(tagged.clone(), &pools, vlan).expect("a server");
        let talk = room.say(GET).expect("room");
        if heard {
            room.until("a response", |room| is_whole(room.heard(talk), content.len())).expect("whole");
            assert!(Reply::parse(room.heard(talk)).expect("a response").body == content, "the body");
        } else {
            room.pass(Duration::from_millis(500)).expect("turns");
            assert_eq!(room.figures(["segments_in", "accepted"]).expect("figures"), [0, 0], "{tag:?}");
        }
        room.close().expect("books in order");
    }
}

//! What other programs read: each command's `ready` says what runs and where, its `end` why it ended, under the same names.
//!
//! ```text
//!   left: load ── left0 ══ rw-left [ forward, serve --port, serve --engine ]
//! ```
#![forbid(unsafe_code)]

use dataplane::lab::{Namespace, Side};
use drivers::kernel::Method;
use lab::engine::{Engine, SOON, laboratory};
use lab::server::{PORT, SERVER, Tree};
use lab::traffic::ping;
use lab::{Forwarder, Ringway, TestLab, needs};
use serde_json::{Value, json};
use std::time::Duration;

/// The first and the last line of a command that ends well by itself.
fn report(place: &Namespace, args: &[&str]) -> (Value, Value) {
    let ended = Ringway::complete(place, args, SOON).expect("an end");
    assert!(ended.status.success(), "{args:?}: {ended:?}");
    let mut lines = ended.json_lines().expect("JSON");
    let (end, ready) = (lines.pop().expect("an end"), lines.swap_remove(0));
    assert_eq!((&ready["event"], &end["event"]), (&json!("ready"), &json!("end")), "{args:?}: {ready} {end}");
    (ready, end)
}

fn says(object: &Value, names: &[(&str, &str)]) {
    for (name, value) in names {
        assert_eq!(object[*name], *value, "{name}: {object}");
    }
}

/// Time that is up is no stop, whatever the command; and each report bears the same names for the same things.
#[test]
fn every_command_says_what_it_does_and_why_it_ended() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    tree.file("body", 100).expect("a file");
    let root = tree.path().to_string_lossy().into_owned();
    let short = ["--format", "json", "--duration", "0.3"];
    let with = |args: &[&str]| -> (Value, Value) { report(lab.middle(), &[args, &short].concat()) };

    let (ready, end) = with(&["forward", "--mode", "mac-swap", "--port", "packet:rw-right"]);
    says(&ready, &[("command", "forward"), ("mode", "mac-swap")]);
    says(&end, &[("command", "forward"), ("mode", "mac-swap"), ("ended", "time-up")]);

    let here = ["--address", "10.77.0.90/24", "--address", "fd77::90/64", "--listen", "81"];
    let (ready, end) = with(&[&["serve", "--port", "packet:rw-right", "--root", &root][..], &here].concat());
    says(&ready, &[("command", "serve"), ("mode", "serve"), ("listen", "10.77.0.90:81"), ("root", &root)]);
    assert_eq!(ready["urls"], json!(["http://10.77.0.90:81/", "http://[fd77::90]:81/"]));
    says(&end, &[("command", "serve"), ("mode", "serve"), ("ended", "time-up")]);

    let listen = format!("{SERVER}:81");
    let (ready, end) = with(&["serve", "--engine", "sendfile", "--listen", &listen, "--root", &root]);
    says(&ready, &[("command", "serve"), ("mode", "serve"), ("listen", &listen), ("root", &root)]);
    assert_eq!(ready["urls"], json!([format!("http://{listen}/")]));
    says(&end, &[("command", "serve"), ("ended", "time-up"), ("reason", "time-up")]);
    assert_eq!(end["fault"], Value::Null);

    let server = Engine::start(&lab, Method::Sendfile, &tree, &[]);
    let url = format!("http://{SERVER}:{PORT}/body");
    let left = lab.host(Side::Left);
    let ours = ["--port", "packet:left0", "--address", "10.77.0.50/24"];
    for way in [&[][..], &ours] {
        let load = |more: &[&str]| report(left, &[&["load", &url, "--format", "json"], way, more].concat());
        let (ready, end) = load(&["--duration", "0.3"]);
        says(&ready, &[("command", "load"), ("mode", "closed"), ("pace", "closed")]);
        says(&end, &[("command", "load"), ("mode", "closed"), ("pace", "closed"), ("ended", "time-up")]);
        let (ready, end) = load(&["--requests", "70", "--rate", "1000"]);
        says(&ready, &[("mode", "rate"), ("pace", "rate")]);
        says(&end, &[("mode", "rate"), ("ended", "exhausted")]);
        assert_eq!((&end["requests"], &end["fault"]), (&json!(70), &Value::Null), "{end}");
    }
    let _ = server.finish();
}

/// A signal is a stop, and a server that is not there is a fault with its words.
#[test]
fn a_load_that_is_stopped_or_cannot_begin_says_so() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    tree.file("body", 100).expect("a file");
    let server = Engine::start(&lab, Method::Sendfile, &tree, &[]);
    let url = format!("http://{SERVER}:{PORT}/body");
    let left = lab.host(Side::Left);
    let mut load = Ringway::start(left, &["load", &url, "--format", "json"]).expect("started");
    load.ready("\"event\":\"interval\"", SOON).expect("a second");
    load.interrupt().expect("a signal");
    let ended = load.wait(SOON).expect("an end");
    assert!(ended.status.success(), "{ended:?}");
    says(&ended.json_lines().expect("JSON").pop().expect("an end"), &[("ended", "stopped")]);
    let _ = server.finish();
    let ended = Ringway::complete(left, &["load", &url, "--format", "json"], SOON).expect("an end");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let end = ended.json_lines().expect("JSON").pop().expect("an end");
    says(&end, &[("ended", "fault")]);
    assert!(end["fault"].as_str().is_some_and(|why| why.contains("refused")), "{end}");
}

/// How often a line comes is the user's to say, and what passed stands in it port by port; quiet, there is none.
#[test]
fn lines_come_as_often_as_wanted() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "ping");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let forwarder = Forwarder::between(&lab, "packet", "", &["--interval", "0.2"]).expect("a forwarder");
    ping(&lab, Side::Left, 5, 10).expect("answers");
    std::thread::sleep(Duration::from_millis(1500));
    let mut lines = forwarder.lines().expect("books in order");
    let end = lines.pop().expect("an end");
    let times: Vec<f64> = lines[1..].iter().map(|line| line["seconds"].as_f64().expect("seconds")).collect();
    // On a busy machine some are left out, and none comes twice.
    let mut beats: Vec<f64> = times.iter().map(|time| (time / 0.2).floor()).collect();
    assert!(times.len() >= 3 && times.windows(2).any(|two| two[1] - two[0] < 0.9), "{times:?}");
    beats.dedup();
    assert_eq!(beats.len(), times.len(), "{times:?}");
    let count = |line: &Value, port: usize, name: &str| line["ports"][port][name].as_u64().expect("a count");
    let last = lines.last().expect("an interval");
    for port in [0, 1] {
        assert_eq!(last["ports"][port]["port"], port, "{last}");
        let received = count(last, port, "received_packets");
        assert!(received >= 5 && count(last, port, "transmitted_packets") >= 5, "{last}");
        assert_eq!(
            end["ports"][port]["queues"][0]["received_packets"], received,
            "nothing came after: {end}"
        );
    }
    let tree = Tree::new().expect("a folder");
    let root = tree.path().to_string_lossy().into_owned();
    let forward = ["forward", "--mode", "mac-swap", "--port", "packet:rw-right"];
    let serve = ["serve", "--port", "packet:rw-right", "--address", "10.77.0.90/24", "--root", &root];
    let engine = ["serve", "--engine", "splice", "--listen", "127.0.0.1:0", "--root", &root];
    for command in [&forward[..], &serve, &engine] {
        let run = |more: &[&str]| {
            let args = [command, &["--duration", "0.7"], more].concat();
            let ended = Ringway::complete(lab.middle(), &args, SOON).expect("an end");
            assert!(ended.status.success(), "{args:?}: {ended:?}");
            ended.stdout
        };
        let intervals = |text: &str| text.matches("\"event\":\"interval\"").count();
        let json = run(&["--format", "json", "--interval", "0.1"]);
        assert!((3..=7).contains(&intervals(&json)), "{command:?}: {json}");
        let quiet = run(&["--format", "json", "--quiet"]);
        assert_eq!((quiet.lines().count(), intervals(&quiet)), (2, 0), "{command:?}: {quiet}");
    }
    let text = run_text(&lab, &forward, "0.2");
    assert!(text.contains("0.2 s   in ") && text.contains(" pps ") && !text.contains("0.000 Mpps"), "{text}");
}

fn run_text(lab: &TestLab, command: &[&str], interval: &str) -> String {
    let args = [command, &["--duration", "0.5", "--interval", interval]].concat();
    Ringway::complete(lab.middle(), &args, SOON).expect("an end").stdout
}

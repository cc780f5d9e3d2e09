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
use lab::{Ringway, needs};
use serde_json::{Value, json};

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

//! `ringway doctor` as a user meets it: exit codes, text, JSON, with and without rights.

use serde_json::Value;
use std::process::{Command, Output};

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringway")).arg("doctor").args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A network namespace with the ends `va` (three queues, up) and `vb` (up) of a veth; removed on drop.
struct Namespace(String);

impl Namespace {
    fn with_veth(test: &str) -> Option<Self> {
        let name = format!("ringway-doctor-{}-{test}", std::process::id());
        if !run("ip", &["netns", "add", &name]) {
            println!("SKIPPED: {test}: needs CAP_NET_ADMIN");
            return None;
        }
        let namespace = Self(name);
        let pair =
            "link add va numrxqueues 3 numtxqueues 3 type veth peer name vb numrxqueues 3 numtxqueues 3";
        for line in [pair, "link set va up", "link set vb up"] {
            namespace.ip(line);
        }
        Some(namespace)
    }

    fn ip(&self, line: &str) {
        let arguments: Vec<&str> = ["-n", &self.0].into_iter().chain(line.split(' ')).collect();
        assert!(run("ip", &arguments), "ip {line}");
    }

    /// `ip netns exec` also remounts `/sys`, so this shows too that nothing depends on it.
    fn doctor(&self, arguments: &[&str]) -> Output {
        let program = env!("CARGO_BIN_EXE_ringway");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program, "doctor"]).args(arguments).output().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.0]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_veth_pair_in_json() {
    let Some(namespace) = Namespace::with_veth("json") else { return };
    namespace.ip("link set va mtu 9000");
    let report = json(&namespace.doctor(&["va", "--format", "json"]));
    let interfaces = report["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 1);
    let va = &interfaces[0];
    assert_eq!((&va["name"], &va["driver"], &va["mtu"]), (&"va".into(), &"veth".into(), &9000.into()));
    assert_eq!((&va["receive_queues"], &va["transmit_queues"]), (&3.into(), &3.into()));
    assert_eq!((&va["up"], &va["carrier"]), (&true.into(), &true.into()));
    assert_eq!((&va["largest_frame"], &va["fits_single_buffer"]), (&9014.into(), &false.into()));
    assert_eq!(va["attached"], Value::Null);
    assert_eq!(va["zero_copy"]["verdict"], "no");
    assert!(va["zero_copy"]["reason"].as_str().unwrap().contains("veth"));
    assert_eq!(va["peer"]["name"], "vb");
    assert_eq!(va["partial_checksums"], true);
    let problems = va["problems"].as_array().unwrap();
    assert!(
        problems
            .iter()
            .any(|problem| problem["code"] == "vlan_tags_stripped" && problem["severity"] == "note")
    );
    let all = json(&namespace.doctor(&["--format", "json"]));
    let names: Vec<&str> =
        all["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"va") && names.contains(&"vb") && !names.contains(&"lo"), "{names:?}");
}

#[test]
fn a_port_that_is_down_is_in_the_way_only_when_asked_for() {
    let Some(namespace) = Namespace::with_veth("down") else { return };
    namespace.ip("link set vb down");
    let severity = |arguments: &[&str]| {
        let report = json(&namespace.doctor(&[arguments, &["--format", "json"]].concat()));
        let vb =
            report["interfaces"].as_array().unwrap().iter().find(|one| one["name"] == "vb").unwrap().clone();
        let problems = vb["problems"].as_array().unwrap().clone();
        problems.iter().find(|problem| problem["code"] == "interface_down").unwrap()["severity"].clone()
    };
    assert_eq!(severity(&["vb"]), "warning");
    assert_eq!(severity(&[]), "note");
}

#[test]
fn an_interface_that_is_not_there_is_an_error() {
    let output = doctor(&["no-such-port"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("error: no interface called 'no-such-port' in this network namespace"), "{text}");
    let report = json(&doctor(&["no-such-port", "--format", "json"]));
    assert_eq!(report["problems"][0]["code"], "interface_missing");
    assert!(report["count"]["errors"].as_u64().unwrap() >= 1);
}

/// The exit code follows the errors, whatever rights the tests run with.
#[test]
fn the_exit_code_follows_the_errors() {
    let output = doctor(&["--format", "json"]);
    let errors = json(&output)["count"]["errors"].as_u64().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(errors > 0)));
    assert!(output.stderr.is_empty());
}

#[test]
fn it_works_without_rights_and_names_those_missing() {
    // All capabilities dropped; the uid stays, so the binary can still be read.
    let caps = ["--inh-caps=-all", "--bounding-set=-all", "--ambient-caps=-all"];
    let program = env!("CARGO_BIN_EXE_ringway");
    if !run("setpriv", &["--bounding-set=-all", "true"]) {
        println!("SKIPPED: it_works_without_rights_and_names_those_missing: needs CAP_SETPCAP and setpriv");
        return;
    }
    let output = Command::new("setpriv")
        .args(caps)
        .args([program, "doctor", "lo", "--format", "json"])
        .output()
        .unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["machine"]["rights"]["net_admin"], false);
    let missing =
        report["machine"]["problems"].as_array().unwrap().iter().find(|one| one["code"] == "rights_missing");
    let message = missing.unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("CAP_NET_ADMIN") && message.contains("CAP_NET_RAW") && message.contains("CAP_BPF")
    );
    assert_eq!(report["interfaces"][0]["name"], "lo", "the facts need no rights");
}

/// Only looked at: whatever cards the machine has, those that sysfs calls network cards are told of, with their drivers.
#[test]
fn the_cards_of_this_machine_are_told_of() {
    let folder = std::path::Path::new("/sys/bus/pci/devices");
    let mut cards = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let class = std::fs::read_to_string(entry.path().join("class")).unwrap_or_default();
        let driver = std::fs::read_link(entry.path().join("driver")).ok();
        let driver = driver.map(|link| link.file_name().unwrap().to_string_lossy().into_owned());
        if class.starts_with("0x02") {
            cards.push((entry.file_name().to_string_lossy().into_owned(), driver));
        }
    }
    cards.sort();
    let report = json(&doctor(&["--format", "json"]));
    let told = report["cards"].as_array().unwrap().iter().map(|card| {
        (card["address"].as_str().unwrap().to_owned(), card["driver"].as_str().map(str::to_owned))
    });
    assert_eq!(told.collect::<Vec<_>>(), cards);
    let modules = report["machine"]["pci"]["modules"].as_array().unwrap();
    assert_eq!(modules.len(), 3, "{modules:?}");
}

#[test]
fn a_card_that_is_not_there_is_an_error() {
    let output = doctor(&["ffff:ff:1f.7"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("error: there is no PCI device ffff:ff:1f.7"), "{text}");
    let report = json(&doctor(&["ffff:ff:1f.7", "--format", "json"]));
    assert_eq!(report["problems"][0]["code"], "card_missing");
    assert_eq!(report["interfaces"].as_array().unwrap().len(), 0, "only what was asked for");
}

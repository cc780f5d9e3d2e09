//! Who has not all rights, or finds the port taken, is told what helps; and it does help.
//!
//! ```text
//!   left ══ rw-left [ forward, as nobody ] rw-right ══ right
//! ```
#![forbid(unsafe_code)]

use lab::{Forwarder, Ringway, TestLab, needs};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

/// A copy of the program where anybody may start it: the folder of a build may be closed.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("ringway-rights-{name}-{}", std::process::id()));
        std::fs::copy(Ringway::program().expect("the program"), &place).expect("a copy");
        Self(place)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs it as nobody, who has these rights and may lock 64 KiB of memory.
fn as_nobody(lab: &TestLab, program: &Path, rights: &str, typed: &str) -> Output {
    let caps: String =
        rights.split(',').filter(|right| !right.is_empty()).fold("-all".to_owned(), |all, right| {
            all + ",+" + right.strip_prefix("cap_").expect("a right's name")
        });
    let line = format!(
        "ulimit -l 64; exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps={caps} --ambient-caps={caps} {} {typed}",
        program.display()
    );
    lab.middle().command("sh").args(["-c", &line]).output().expect("a shell")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The rights behind `setcap` in what was printed.
fn printed_rights(text: &str) -> String {
    let (_, behind) = text.split_once("setcap ").unwrap_or_else(|| panic!("no setcap: {text}"));
    behind.split_once("+ep").expect("a list of rights").0.to_owned()
}

/// The rights that are printed are the same wherever they are, and enough for what was refused.
#[test]
fn the_printed_cure_is_enough() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW, BPF, IPC_LOCK, SETUID; tools: "ip", "ethtool", "setpriv", "sh");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let copy = Copy::new("cure");
    let af_xdp = "forward --port af-xdp:rw-left --port af-xdp:rw-right --duration 0.3";
    let bare = "forward --port rw-left --port rw-right --duration 0.3";
    let refused = as_nobody(&lab, &copy.0, "", af_xdp);
    let words = said(&refused);
    assert_eq!(refused.status.code(), Some(1), "{words}");
    for word in
        ["rw-left", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "sudo", "packet:rw-left takes cap_net_raw"]
    {
        assert!(words.contains(word), "{word}: {words}");
    }
    let rights = printed_rights(&words);
    let other = said(&as_nobody(&lab, &copy.0, "", bare));
    assert!(other.contains("CAP_BPF") && printed_rights(&other) == rights, "the best driver counts: {other}");
    let doctor = as_nobody(&lab, &copy.0, "", "doctor rw-left --format json");
    assert_eq!(printed_rights(&String::from_utf8_lossy(&doctor.stdout)), rights);
    for typed in [af_xdp, bare] {
        let granted = as_nobody(&lab, &copy.0, &rights, typed);
        assert!(granted.status.success(), "{rights} for {typed}: {granted:?}");
        assert!(String::from_utf8_lossy(&granted.stdout).contains("books:"), "{granted:?}");
    }
    let packet = "forward --port packet:rw-left --port packet:rw-right --duration 0.3";
    let granted = as_nobody(&lab, &copy.0, "cap_net_raw", packet);
    assert!(granted.status.success(), "{granted:?}");
}

/// A port that another process has is refused with that process, and free once it has ended.
#[test]
fn who_has_the_port_is_named() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW, BPF; tools: "ip", "ethtool");
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let mut first = Forwarder::between(&lab, "af-xdp", "", &[]).expect("a forwarder");
    let typed = ["forward", "--port", "af-xdp:rw-left", "--port", "af-xdp:rw-right", "--duration", "0.2"];
    let second = || Ringway::complete(lab.middle(), &typed, Duration::from_secs(10)).expect("an end");
    let refused = second();
    let kill = format!("kill {}", first.process().pid());
    for word in ["rw-left", "`ringway`", &kill, "BPF link"] {
        assert!(refused.stderr.contains(word), "{word}: {}", refused.stderr);
    }
    assert_eq!(refused.status.code(), Some(1));
    first.finish().expect("books in order");
    let granted = second();
    assert!(granted.status.success(), "{granted:?}");
}

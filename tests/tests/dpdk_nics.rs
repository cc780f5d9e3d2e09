//! A real NIC by its PCI address, as QEMU emulates one: bound to VFIO behind an IOMMU, with RSS; in use, not bound, pulled out.
//!
//! ```text
//!   guest:  [ load, over the kernel's TCP ] far ══ near 0000:01:00.0, an igb ── [ serve ], two queues, two workers
//! ```
#![cfg(feature = "dpdk")]
#![forbid(unsafe_code)]

use dataplane::lab::Namespace;
use lab::dpdk::traces;
use lab::guest::{Guest, Inside, Kernel, Nic};
use lab::server::{Server, Tree};
use lab::{Ended, Outcome, Ringway};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ENDING: Duration = Duration::from_secs(40);

/// DPDK's plugins for this NIC, which it looks for in a folder of its own.
fn plugins() -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let wanted = ["librte_bus_pci", "librte_bus_vdev", "librte_net_e1000", "librte_mempool_ring"];
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        wanted.iter().any(|wanted| name.starts_with(&format!("{wanted}.so."))) && !path.is_symlink()
    };
    let folders = list(Path::new("/usr/lib")).into_iter().flat_map(|arch| list(&arch.join("dpdk")));
    folders.flat_map(|folder| list(&folder)).filter(named).collect()
}

fn guest() -> Guest {
    let guest = Guest::new(Kernel::V6_12).cable(Nic::Igb).drivers(false).iommu(true);
    let guest = guest.module("vfio-pci").module("vfio_iommu_type1").module("uio_pci_generic");
    let guest = plugins().into_iter().fold(guest, Guest::plugin);
    guest.memory(2048).limit(Duration::from_secs(150))
}

fn here() -> Namespace {
    Namespace::current().expect("a namespace")
}

fn ip(args: &str) -> Outcome<()> {
    let status = Command::new("ip").args(args.split_whitespace()).status()?;
    if status.success() { Ok(()) } else { Err(format!("ip {args}: {status}").into()) }
}

fn serve(pci: &str, tree: &Tree) -> Outcome<Server> {
    let port = format!("dpdk:{pci},queues=2,memory=256");
    let root = tree.path().to_string_lossy();
    let args =
        ["--port", &port, "--address", "10.99.0.2/24", "--root", &root, "--cpu", "0,1", "--content", "16"];
    Server::with(&here(), &args)
}

fn ask() -> Outcome<Ended> {
    let url = "http://10.99.0.2:8080/file";
    let args = [
        "load",
        "--format",
        "json",
        url,
        "--requests",
        "600",
        "--connections",
        "32",
        "--hash",
        "--timeout",
        "15",
    ];
    Ringway::complete(&here(), &args, ENDING)
}

/// Asks for one file until it comes, for half a minute at most: what is asked then says what is wrong.
fn until_answered() {
    let url = "http://10.99.0.2:8080/file";
    let args = ["load", "--format", "json", url, "--requests", "1", "--connections", "1", "--timeout", "3"];
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if Ringway::complete(&here(), &args, ENDING).is_ok_and(|ended| ended.status.success()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A port that does not open: its exit code, and words of its sentence.
fn refused(port: &str, words: &[&str]) -> Outcome<()> {
    let args = ["forward", "--mode", "mac-swap", "--port", port];
    let ended = Ringway::complete(&here(), &args, ENDING)?;
    println!("{port}: {}", ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "no {word:?} in: {}", ended.stderr);
    }
    Ok(())
}

/// What drives a PCI device is left as it was.
fn driver(pci: &str) -> String {
    let link = std::fs::read_link(format!("/sys/bus/pci/devices/{pci}/driver"));
    link.ok().and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned())).unwrap_or_default()
}

/// Huge pages that nobody has.
fn free_pages() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).ok_or("no huge pages")?;
    Ok(line.trim().parse()?)
}

/// The same, once the kernel has done with a process that is gone.
fn free_pages_soon(wanted: u64) -> Outcome<u64> {
    let until = Instant::now() + Duration::from_secs(5);
    while free_pages()? < wanted && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    free_pages()
}

fn all(inside: &mut Inside) -> Outcome<()> {
    // DPDK makes a folder there, also for a process that has no files; and takes no plugins from below a folder that is
    // everybody's, as a guest's root is.
    std::fs::create_dir_all("/var/run")?;
    std::fs::set_permissions("/", Permissions::from_mode(0o755))?;
    let (pci, far) = (inside.near_pci(0), inside.far(0)?);
    ip(&format!("address add 10.99.0.1/24 dev {far}"))?;
    ip(&format!("link set {far} up"))?;
    let port = format!("dpdk:{pci},memory=256");

    // Nobody's, and then uio's: it has no IOMMU's protection, and needs memory whose place is known, so huge pages.
    refused(&port, &["vfio-pci", "dpdk-devbind.py -b vfio-pci", &pci])?;
    inside.bind(&pci, "uio_pci_generic")?;
    refused(&port, &["huge pages", "vm.nr_hugepages", "vfio-pci"])?;
    assert_eq!(driver(&pci), "uio_pci_generic");

    inside.load("vfio_iommu_type1")?;
    inside.bind(&pci, "vfio-pci")?;
    refused(&format!("dpdk:{pci},memory=256,queues=99"), &["it has 16 queue pairs, and 99 are wanted"])?;
    refused(&format!("dpdk:{pci},memory=256,mtu=20000"), &["MTU", "is the most that it can"])?;

    let tree = Tree::in_memory()?;
    tree.file("file", 20_000)?;
    let server = serve(&pci, &tree)?;
    let ended = ask()?;
    assert!(ended.status.success(), "{ended:?}");
    refused(&port, &["in use"])?;
    // The link goes and comes. Meanwhile the server has been idle, with packets of several segments behind it: an igb's ring
    // that was asked for what it had sent would stand still from here on (`DpdkPort::tidies`).
    inside.link(0, false)?;
    std::thread::sleep(Duration::from_millis(500));
    inside.link(0, true)?;
    // The two ends agree on a speed first, which takes seconds on a busy host.
    until_answered();
    let ended = ask()?;
    let report = server.finish()?;
    assert!(ended.status.success(), "{ended:?} {}", report.end);
    let queue = &report.ready["ports"][0]["queues"][0];
    println!("{} {}", queue["copying"], queue["mode"]);
    let received = report.queues(0, "received_packets");
    // 64 flows; each connection's packets came to the worker that has it, or it would not have been answered.
    println!("received by queue: {received:?}");
    assert!(received.len() == 2 && received.iter().all(|packets| *packets > 500), "{}", report.end);
    assert!(report.served("requests") > 1200 && report.port(0, "copied_bytes") == 0, "{}", report.end);
    assert!(report.port(0, "link_down") >= 1, "{}", report.end);
    assert_eq!(driver(&pci), "vfio-pci", "it is left as it was");

    // From here on in huge pages. Killed, it leaves none of them behind, nor anything that another start would trip over.
    std::fs::write("/proc/sys/vm/nr_hugepages", "160")?;
    assert_eq!(free_pages()?, 160, "so much memory is there");
    let mut server = serve(&pci, &tree)?;
    server.process().kill()?;
    drop(server);
    assert_eq!(free_pages_soon(160)?, 160);
    let server = serve(&pci, &tree)?;
    assert!(free_pages()? < 160);
    let ended = ask()?;
    assert!(ended.status.success(), "{ended:?}");
    // Pulled out: the kernel waits for us, and we say what it was and end.
    inside.pull_out(0)?;
    let report = server.report()?;
    assert_eq!((report.code, &report.end["ended"]), (Some(1), &"fault".into()), "{report:?}");
    assert_eq!(report.ready["workers"][0]["memory"], "2 MiB pages", "{}", report.ready);
    assert_eq!((free_pages_soon(160)?, traces()), (160, Vec::new()));
    assert!(report.stderr.contains(&pci), "{}", report.stderr);
    let until = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/sys/bus/pci/devices/{pci}")).exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    refused(&port, &["Cannot find device"])
}

#[test]
#[ignore = "tier guest"]
fn an_igb_by_its_address() {
    guest().run(all);
}

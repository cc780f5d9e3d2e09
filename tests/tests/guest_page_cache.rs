//! The page cache itself on the wire: a NIC behind an IOMMU may read ext4's own pages, and sends them.
//!
//! ```text
//!   ext4: page cache ══ mapped for reading ══► 82574L, 82576, virtio ──► wire ──► curl        no copy, no snapshot
//! ```

use dataplane::lab::Namespace;
use lab::guest::{Guest, Inside, Kernel, Nic};
use lab::server::{PORT, SERVER, Server, fetch, url};
use lab::{Outcome, TestLab, needs};
use rustix::mount::{MountFlags, mount};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BYTES: usize = 700_001;

/// A disk in memory with ext4 on it.
fn disk(inside: &Inside) -> Outcome<&'static Path> {
    for module in ["crc32c_generic", "ext4", "brd", "vfio-pci", "vfio_iommu_type1"] {
        inside.load(module)?;
    }
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "/dev/ram0"]).output()?;
    assert!(made.status.success(), "{made:?}");
    std::fs::create_dir_all("/disk")?;
    mount("/dev/ram0", "/disk", "ext4", MountFlags::empty(), None)?;
    Ok(Path::new("/disk"))
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..=u8::MAX).cycle().map(|byte| byte.wrapping_mul(7).wrapping_add(seed)).take(BYTES).collect()
}

fn body(lab: &TestLab, path: &str) -> Outcome<Vec<u8>> {
    let reply = fetch(lab, &[&url(&format!("/{path}"))])?;
    assert_eq!(reply.status, 200, "{}", reply.head);
    Ok(reply.body)
}

/// Bodies are the files', and none of their bytes passed through a processor of ours. A file that is replaced, cut off or
/// written anew is served as it is by then, by a copy.
fn serves(inside: &Inside) -> Outcome<()> {
    let root = disk(inside)?;
    for (name, seed) in [("same", 1), ("replaced", 2), ("rewritten", 3)] {
        std::fs::write(root.join(name), pattern(seed))?;
    }
    let lab = inside.hosts(|_| {})?;
    let (port, address) = (format!("vfio:{}", inside.near_pci(0)), format!("{SERVER}/24"));
    let (listen, root_text) = (PORT.to_string(), root.to_string_lossy().into_owned());
    let args = ["--port", &port, "--address", &address, "--listen", &listen, "--root", &root_text];
    let args = [&args[..], &["--content-kind", "shared", "--copy-below", "0", "--content", "32"]].concat();
    let server = Server::with(&Namespace::current()?, &args)?;
    let outcome = || -> Outcome<()> {
        for (name, seed) in [("same", 1), ("replaced", 2), ("rewritten", 3), ("same", 1)] {
            assert!(body(&lab, name)? == pattern(seed), "{name}");
        }
        std::fs::write(root.join("new"), pattern(4))?;
        std::fs::rename(root.join("new"), root.join("replaced"))?;
        // Cut to nothing first: these pages are others than those that are mapped.
        std::fs::write(root.join("rewritten"), pattern(5))?;
        std::thread::sleep(Duration::from_millis(300));
        for (name, seed) in [("same", 1), ("replaced", 4), ("rewritten", 5)] {
            assert!(body(&lab, name)? == pattern(seed), "{name}, as it is now");
        }
        Ok(())
    };
    let outcome = outcome();
    let report = server.finish()?;
    println!("{}", report.end);
    outcome?;
    let (bytes, shared) = (BYTES as u64, report.served("shared_bytes"));
    assert_eq!(shared, 3 * bytes, "all three were mapped");
    assert_eq!(report.port(0, "flattened_bytes") + report.served("copied_bytes"), 0);
    assert!(report.served("gathered_bytes") >= 7 * bytes);
    let snapshot = report.served("snapshot_bytes");
    assert!(snapshot >= 2 * bytes && snapshot < 3 * bytes, "the two new versions alone: {snapshot}");
    assert_eq!(report.port(0, "checksums_finished"), 0, "the card's business");
    Ok(())
}

fn guest(nic: Nic) -> Guest {
    let guest = Guest::new(Kernel::V6_12).cable(nic).iommu(true).program("curl").program("mkfs.ext4");
    let modules = ["vfio_iommu_type1", "vfio-pci", "ext4", "crc32c_generic", "brd"];
    modules.into_iter().fold(guest, Guest::module).limit(Duration::from_secs(120))
}

#[test]
#[ignore = "tier guest"]
fn the_82574l_sends_ext4s_page_cache() {
    guest(Nic::E1000e).run(|inside| serves(inside));
}

#[test]
#[ignore = "tier guest"]
fn the_82576_sends_ext4s_page_cache() {
    guest(Nic::Igb).run(|inside| serves(inside));
}

/// Its cable is one of the host's, which takes checksums undone: what only the card may read, only the card can sum.
#[test]
#[ignore = "tier guest"]
fn virtio_sends_ext4s_page_cache() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip");
    guest(Nic::Virtio).taps(1).run(|inside| serves(inside));
}

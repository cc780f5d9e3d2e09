//! A site on tmpfs, served from the page cache itself: found, mapped, registered with a socket, and still the same files.
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use dataplane::serve::Waiter;
use dataplane::serve::bell::Bell;
use dataplane::serve::content::{Candidates, Piece, Share, Store, StorePlan};
use dataplane::serve::tree::{Found, HostId, Tree, TreePlan};
use drivers::QueuePair;
use drivers::xdp::{Umem, XdpPlan, XdpPort, XdpQueue};
use lab::server::{Server, Tree as Folder, fetch, url};
use lab::{TestLab, needs};
use ringbuf::{Arena, ArenaPlan, FileMap, Pool};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Registering pins the pages for writing, which must not move the files' times: what is looked up afterwards must be found
/// in the arena, and look no newer to clients.
#[test]
fn a_site_on_tmpfs_is_found_in_the_arena_after_registration() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool");
    if !rustix::fs::statfs("/dev/shm").is_ok_and(|fs| fs.f_type == 0x0102_1994) {
        return eprintln!("SKIPPED: /dev/shm is no tmpfs");
    }
    let root = Path::new("/dev/shm").join(format!("ringway-shared-{}", std::process::id()));
    std::fs::create_dir_all(root.join("below")).expect("directories");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for (name, bytes) in [("index.html", 700), ("below/large", 300_000)] {
        std::fs::write(root.join(name), vec![7; bytes]).expect("writes");
        let file = std::fs::File::options().write(true).open(root.join(name)).expect("opens");
        file.set_modified(then).expect("sets");
    }
    let tree = Tree::open(TreePlan::new(&root)).expect("opens");
    let candidates = Candidates::find(&tree, 1 << 20, Share::InMemory);
    assert_eq!(candidates.len(), 2);

    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let plan = ArenaPlan { frames: 1024, frame_size: 4096, content_bytes: 256 << 10, huge_pages: false };
    let (arena, mut files) = candidates.map(&plan).expect("an arena");
    let pool = Pool::new(arena);
    let umem = Umem::new(&pool);
    let queue = {
        let _inside = lab.host(Side::Left).enter().expect("inside");
        let port = XdpPort::open(XdpPlan { ring: 64, ..XdpPlan::new(Side::Left.interface()) });
        XdpQueue::open(&umem, &port.expect("a port"), 0).expect("a queue")
    };
    candidates.confirm(&mut files);
    assert_eq!((files.len(), files.bytes()), (2, 300_700));

    let bell = Arc::new(Bell::new().expect("a descriptor"));
    let mut store = Store::new(&pool, StorePlan::default(), bell).expect("starts").with_files(files);
    for (path, size) in [("", 700), ("below/large", 300_000)] {
        let Found::File(forms) = tree.look_up(HostId::default(), path) else { panic!("{path}") };
        let entry = forms.plain();
        assert_eq!((entry.size(), entry.modified()), (size, then), "{path}");
        let Piece::Page(page) = store.page(entry, size - 100, 4096, Waiter(0)) else { panic!("{path}") };
        assert!(page.is_file() && page.len() == 100, "{path}: {page:?}");
    }
    assert_eq!((store.counters().misses, store.counters().shared.files), (0, 2), "{:?}", queue.caps().mode);
    drop(store);
    drop(queue);
    std::fs::remove_dir_all(&root).expect("removes");
}

/// Two workers, each with the files in its arena: a second registration makes nothing of the first one's look old.
#[test]
fn two_workers_share_the_same_files() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return lab::needs::skip("shared_files::two_workers_share_the_same_files", &["two CPUs".to_owned()]);
    }
    let lab = TestLab::with(|plan| (plan.queues, plan.ipv6) = (2, false)).expect("a laboratory");
    let tree = Folder::in_memory().expect("a folder");
    let files: Vec<(String, Vec<u8>)> = (0..24)
        .map(|number| (format!("/file-{number}"), 30_000 + 1111 * number))
        .map(|(name, bytes)| (name.clone(), tree.file(&name[1..], bytes).expect("a file")))
        .collect();
    let times = || -> Vec<SystemTime> {
        let path = |name: &str| tree.path().join(&name[1..]);
        files
            .iter()
            .map(|(name, _)| path(name).metadata().and_then(|it| it.modified()).expect("there"))
            .collect()
    };
    let before = times();
    let server = Server::start(
        &lab,
        "af-xdp",
        &tree,
        &["--cpu", "0,1", "--content-kind", "shared", "--copy-below", "0"],
    );
    let server = server.expect("a server");
    // A connection each, so that the NIC's hash has something to choose from.
    for (name, content) in &files {
        let reply = fetch(&lab, &[&url(name)]).expect("a response");
        assert!(reply.body == *content, "{name}: {}", reply.head);
    }
    let report = server.finish().expect("books in order");
    let all: u64 = files.iter().map(|(_, content)| content.len() as u64).sum();
    assert_eq!(report.served("shared_bytes"), 2 * all, "in both arenas: {}", report.end);
    assert_eq!((report.served("snapshot_bytes"), report.served("copied_bytes")), (0, 0), "{}", report.end);
    assert!(report.served("gathered_bytes") >= all, "{}", report.end);
    let sent = report.queues(0, "transmitted_bytes");
    assert!(sent.len() == 2 && sent.iter().all(|bytes| *bytes > 30_000), "both serve: {sent:?}");
    assert!(times() == before, "nobody has written to them");
}

/// A file of huge pages is served from those, in whole pages, as it must be there.
#[test]
fn huge_pages_are_shared() {
    needs!(NET_ADMIN, SYS_ADMIN, NET_RAW; tools: "ip", "ethtool", "curl");
    let Some(huge) = HugeFolder::mount() else {
        return lab::needs::skip(
            "shared_files::huge_pages_are_shared",
            &["two free huge pages of 2 MiB".to_owned()],
        );
    };
    let lab = TestLab::with(|plan| plan.ipv6 = false).expect("a laboratory");
    let content = huge.file("huge", 2 << 20);
    let root = huge.0.path().to_string_lossy().into_owned();
    let port = format!("af-xdp:{}", Side::Left.port());
    let address = format!("{}/24", lab::server::SERVER);
    let args = [
        "--port",
        &port,
        "--address",
        &address,
        "--root",
        &root,
        "--content-kind",
        "shared",
        "--copy-below",
        "0",
    ];
    let server = Server::with(lab.middle(), &args).expect("a server");
    for range in ["0-2097151", "4095-4097", "2000000-2097151"] {
        let reply = fetch(&lab, &["--range", range, &url("/huge")]).expect("a response");
        let (from, to) = range.split_once('-').expect("two");
        let (from, to): (usize, usize) = (from.parse().expect("a number"), to.parse().expect("a number"));
        assert!(reply.status == 206 && reply.body == content[from..=to], "{range}: {}", reply.head);
    }
    let report = server.finish().expect("books in order");
    assert_eq!(report.served("shared_bytes"), 2 << 20, "{}", report.end);
    assert_eq!((report.served("snapshot_bytes"), report.served("copied_bytes")), (0, 0), "{}", report.end);
}

/// A hugetlbfs of a test's own; unmounted with it.
struct HugeFolder(Folder);

impl HugeFolder {
    /// `None` without free huge pages, or without the right to mount.
    fn mount() -> Option<Self> {
        let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
        let free: u64 = std::fs::read_to_string(free).ok()?.trim().parse().ok()?;
        if free < 2 {
            return None;
        }
        let folder = Folder::new().ok()?;
        let mount =
            std::process::Command::new("mount").args(["-t", "hugetlbfs", "none"]).arg(folder.path()).status();
        mount.is_ok_and(|status| status.success()).then_some(Self(folder))
    }

    /// Such a file has no `write`: it is filled through a mapping, which an arena has.
    fn file(&self, name: &str, bytes: usize) -> Vec<u8> {
        let content: Vec<u8> = (0..251u8).cycle().take(bytes).collect();
        let file =
            std::fs::File::options().read(true).write(true).create_new(true).open(self.0.path().join(name));
        let file = file.expect("a file");
        file.set_len(bytes as u64).expect("whole pages");
        let plan = ArenaPlan { frames: 1, frame_size: 2048, content_bytes: 0, huge_pages: false };
        let map = FileMap { file: file.as_fd(), bytes, page: 2 << 20 };
        let (arena, places) = Arena::with_files(&plan, &[map]).expect("an arena");
        let place = places[0].as_ref().expect("mapped").start;
        let address = arena.base().as_ptr().addr() + arena.content_start() + place;
        let memory = std::fs::File::options().write(true).open("/proc/self/mem").expect("our own");
        memory.write_all_at(&content, address as u64).expect("writes");
        content
    }
}

impl Drop for HugeFolder {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

//! A site on tmpfs, served from the page cache itself: found, mapped, registered with a socket, and still the same files.
#![forbid(unsafe_code)]

use dataplane::lab::Side;
use dataplane::serve::Waiter;
use dataplane::serve::bell::Bell;
use dataplane::serve::content::{Candidates, Piece, Store, StorePlan};
use dataplane::serve::tree::{Found, HostId, Tree, TreePlan};
use drivers::QueuePair;
use drivers::xdp::{Umem, XdpPlan, XdpPort, XdpQueue};
use lab::{TestLab, needs};
use ringbuf::{ArenaPlan, Pool};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Registering pins the pages for writing, and moves the files' times: what is looked up afterwards must still be found
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
    let candidates = Candidates::find(&tree, 1 << 20);
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
    candidates.settle(&mut files);
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

use super::*;
use crate::serve::Waiter;
use crate::serve::bell::Bell;
use crate::serve::testing::{Scratch, pattern, soon};
use crate::serve::tree::{Entry, Found, HostId, Tree, TreePlan};
use crate::worker::Tick;
use ringbuf::{Arena, ArenaPlan, Page, Pool};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

fn pool(extents: usize) -> Pool {
    let plan = ArenaPlan { frames: 2, frame_size: 2048, content_bytes: extents * EXTENT, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("small"))
}

fn store(pool: &Pool, kinds: Kinds) -> Store<'_> {
    let plan = StorePlan { kinds, depth: 8, ..StorePlan::default() };
    Store::new(pool, plan, Arc::new(Bell::new().expect("a descriptor"))).expect("starts")
}

fn entry(root: &Path, name: &str) -> Arc<Entry> {
    let tree = Tree::open(TreePlan::new(root)).expect("opens");
    match tree.look_up(HostId::default(), name) {
        Found::File(forms) => Arc::clone(forms.plain()),
        other => panic!("{name}: {other:?}"),
    }
}

const ME: Waiter = Waiter(7);

fn now() -> Tick {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Tick(BEGIN.elapsed())
}

/// One page, waited for; `None` if it is gone.
fn page<'p>(store: &mut Store<'p>, entry: &Arc<Entry>, offset: u64, len: usize) -> Option<Page<'p>> {
    let mut woken = vec![ME];
    soon("a page", || {
        if woken.is_empty() {
            store.poll(now(), &mut woken);
            return None;
        }
        woken.clear();
        match store.page(entry, offset, len, ME) {
            Piece::Page(page) => Some(Some(page)),
            Piece::Gone => Some(None),
            Piece::Later => None,
        }
    })
}

/// A stretch of a file; `None` if some of it is gone.
fn read(store: &mut Store<'_>, entry: &Arc<Entry>, mut offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let page = page(store, entry, offset, len - bytes.len())?;
        assert!(!page.is_empty() && page.len() <= len - bytes.len());
        offset += page.len() as u64;
        bytes.extend_from_slice(page.bytes().expect("readable"));
    }
    Some(bytes)
}

const KINDS: [Kinds; 3] = [Kinds::Auto, Kinds::Snapshot, Kinds::Direct];

#[test]
fn any_range_of_any_file_is_what_the_file_has() {
    let scratch = Scratch::new();
    let sizes = [1, 4095, 4096, 4097, 70_000, EXTENT, EXTENT + 1, 3 * EXTENT + 12_345];
    let files: Vec<(Vec<u8>, Arc<Entry>)> = sizes
        .iter()
        .map(|size| {
            let bytes = pattern(*size, *size as u64);
            scratch.write(&size.to_string(), &bytes);
            (bytes, entry(scratch.path(), &size.to_string()))
        })
        .collect();
    for kinds in KINDS {
        let pool = pool(12);
        let mut store = store(&pool, kinds);
        let mut random = pattern(8 * 3000, 5)
            .chunks(8)
            .map(|b| b.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
            .collect::<Vec<usize>>()
            .into_iter();
        for _ in 0..1000 {
            let mut next = |below: usize| random.next().expect("enough") % below;
            let (bytes, entry) = &files[next(files.len())];
            let from = next(bytes.len());
            let len = 1 + next((bytes.len() - from).min(20_000));
            let read = read(&mut store, entry, from as u64, len).expect("unchanged");
            assert!(read == bytes[from..from + len], "{kinds:?}: {len} bytes from {from} of {}", bytes.len());
        }
        let counters = store.counters();
        assert!(counters.hits > counters.misses && counters.misses > 0, "{counters:?}");
        drop(store);
        assert_eq!(pool.content_lent(), 0);
    }
}

/// Room for four extents, files of forty: everything is thrown out and read again, and still right.
#[test]
fn files_larger_than_memory_are_read_again_and_again() {
    let scratch = Scratch::new();
    let bytes = pattern(40 * EXTENT, 1);
    scratch.write("large", &bytes);
    let entry = entry(scratch.path(), "large");
    for kinds in KINDS {
        let pool = pool(4);
        let mut store = store(&pool, kinds);
        for round in 0..2 {
            let whole = read(&mut store, &entry, 0, bytes.len()).expect("unchanged");
            assert!(whole == bytes, "{kinds:?}, round {round}");
        }
        let counters = store.counters();
        assert!(counters.evicted >= 70, "{counters:?}");
        assert!(counters.ahead > 0, "a reader that goes straight through is read ahead of: {counters:?}");
        assert_eq!(counters.snapshot.reads > 0, kinds == Kinds::Snapshot || counters.direct.reads == 0);
    }
}

/// Who waits for what is being read ahead has more read ahead the next time, up to a bound; who doesn't, has not.
#[test]
fn the_window_grows_for_who_is_faster_than_the_disk() {
    let scratch = Scratch::new();
    let bytes = pattern(100 * EXTENT, 1);
    scratch.write("large", &bytes);
    let entry = entry(scratch.path(), "large");
    let settled = |store: &mut Store<'_>| {
        soon("all reads", || {
            store.poll(now(), &mut Vec::new());
            (store.reading() == 0).then_some(())
        });
    };
    let deep = |pool| {
        let bell = Arc::new(Bell::new().expect("a descriptor"));
        Store::new(pool, StorePlan { kinds: Kinds::Direct, ..StorePlan::default() }, bell).expect("starts")
    };
    let (pool_of_slow, pool_of_fast) = (pool(120), pool(120));
    let mut slow = deep(&pool_of_slow);
    for extent in 0..20 {
        page(&mut slow, &entry, extent * EXTENT as u64, 1).expect("unchanged");
        settled(&mut slow);
    }
    let counters = slow.counters();
    assert_eq!(counters.ahead, 19 + 4, "four ahead of the last: {counters:?}");
    let mut fast = deep(&pool_of_fast);
    let mut at = 0;
    while at < 60 {
        // Asks for the next before the loader can have it, as often as it takes, and waits then.
        match fast.page(&entry, at * EXTENT as u64, 1, ME) {
            Piece::Page(_) => at += 1,
            Piece::Later => settled(&mut fast),
            Piece::Gone => panic!("it has changed"),
        }
    }
    let counters = fast.counters();
    assert!(counters.misses < 20, "the window outruns it: {counters:?}");
    assert_eq!(counters.ahead, 59 + 32, "thirty-two ahead of the last: {counters:?}");
}

/// A worker is pinned; its loader must not be, or it waits for the turns of one that polls.
#[test]
fn the_loader_is_not_pinned_with_its_worker() {
    use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None).expect("a set");
    if all.count() < 2 {
        return eprintln!("SKIPPED: one CPU only");
    }
    let its_cpus = |cpus: Option<CpuSet>| {
        let worker = std::thread::spawn(move || {
            let mut one = CpuSet::new();
            one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("a CPU"));
            sched_setaffinity(None, &one).expect("pins");
            let threads = || -> Vec<i32> {
                let tasks = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
                let loader = |task: &std::fs::DirEntry| {
                    std::fs::read_to_string(task.path().join("comm"))
                        .is_ok_and(|name| name.trim() == "loader")
                };
                tasks.filter(loader).filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
            };
            let before = threads();
            let pool = pool(2);
            let plan = StorePlan { cpus, ..StorePlan::default() };
            let store = Store::new(&pool, plan, Arc::new(Bell::new().expect("a descriptor")));
            // Other tests have loaders too: one of those that are new runs where ours should.
            let found = soon("the loader", || {
                let new = threads().into_iter().filter(|thread| !before.contains(thread));
                let sets = new.filter_map(|thread| sched_getaffinity(Pid::from_raw(thread)).ok());
                sets.map(|set| set.count()).find(|count| *count == cpus.map_or(1, |cpus| cpus.count()))
            });
            drop(store);
            found
        });
        worker.join().expect("no panic")
    };
    assert_eq!((its_cpus(None), its_cpus(Some(all))), (1, all.count()));
}

/// What somebody holds stays; who finds no room waits until there is some.
#[test]
fn held_pages_keep_their_extent() {
    let scratch = Scratch::new();
    let bytes = pattern(8 * EXTENT, 2);
    scratch.write("large", &bytes);
    let entry = entry(scratch.path(), "large");
    let pool = pool(2);
    let mut store = store(&pool, Kinds::Snapshot);
    let first = page(&mut store, &entry, 0, 4096).expect("unchanged");
    let second = page(&mut store, &entry, EXTENT as u64, 4096).expect("unchanged");
    assert!(matches!(store.page(&entry, 5 * EXTENT as u64, 1, ME), Piece::Later));
    assert!(store.counters().no_room > 0, "{:?}", store.counters());
    assert!(first.bytes() == Some(&bytes[..4096]) && second.bytes() == Some(&bytes[EXTENT..EXTENT + 4096]));

    drop(second);
    let third = page(&mut store, &entry, 5 * EXTENT as u64, 4096).expect("room now");
    assert!(third.bytes() == Some(&bytes[5 * EXTENT..5 * EXTENT + 4096]));
    assert!(first.bytes() == Some(&bytes[..4096]), "and this one has been held all the time");
}

/// In the middle of a transfer: once that is known nothing of it is to be had, not even what is in memory, and never
/// does anything come from the new version.
#[test]
fn a_file_that_changes_is_gone_and_never_mixed() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 5] = [
        ("overwritten in place", |path| {
            let mut file = std::fs::File::options().write(true).open(path).expect("opens");
            file.write_all(&[0; 10 * EXTENT]).expect("writes");
        }),
        ("truncated", |path| {
            std::fs::File::options().write(true).open(path).expect("opens").set_len(5000).expect("cuts");
        }),
        ("truncated to nothing and written anew", |path| {
            std::fs::write(path, pattern(10 * EXTENT, 99)).expect("writes");
        }),
        ("deleted", |path| std::fs::remove_file(path).expect("removes")),
        ("replaced", |path| {
            let new = path.with_extension("new");
            std::fs::write(&new, pattern(10 * EXTENT, 98)).expect("writes");
            std::fs::rename(new, path).expect("renames");
        }),
    ];
    for (what, change) in changes {
        for kinds in [Kinds::Snapshot, Kinds::Direct] {
            let scratch = Scratch::new();
            let bytes = pattern(10 * EXTENT, 3);
            let path = scratch.write("file", &bytes);
            let old = entry(scratch.path(), "file");
            let pool = pool(20);
            let mut store = store(&pool, kinds);
            let begun = read(&mut store, &old, 0, EXTENT).expect("unchanged yet");
            assert!(begun == bytes[..EXTENT]);
            soon("what was read ahead", || {
                store.poll(now(), &mut Vec::new());
                (store.reading() == 0).then_some(())
            });
            // The clock of the file system may be coarse: not in the same tick as the file was made.
            std::thread::sleep(Duration::from_millis(15));
            change(&path);

            let far = 9 * EXTENT as u64;
            assert!(page(&mut store, &old, far, 1).is_none(), "{what}, {kinds:?}");
            assert!(page(&mut store, &old, far + 1, 1).is_none(), "{what}: for good");
            assert!(old.is_gone());
            assert!(read(&mut store, &old, 0, EXTENT).is_none(), "{what}: neither what is in memory");
            if path.exists() {
                let new = entry(scratch.path(), "file");
                let size = usize::try_from(new.size()).expect("small");
                let now = read(&mut store, &new, 0, size).expect("the new version");
                assert!(now == std::fs::read(&path).expect("reads"), "{what}");
            }
        }
    }
}

/// A file system without `O_DIRECT` gets snapshots, and the counters say so.
#[test]
fn direct_is_told_apart_from_what_became_of_it() {
    let Ok(tmpfs) = rustix::fs::statfs("/dev/shm") else {
        return eprintln!("SKIPPED: no /dev/shm");
    };
    /// `TMPFS_MAGIC`, `include/uapi/linux/magic.h`.
    const TMPFS: i64 = 0x0102_1994;
    if tmpfs.f_type != TMPFS {
        return eprintln!("SKIPPED: /dev/shm is no tmpfs");
    }
    let bytes = pattern(EXTENT, 4);
    let scratch = Scratch::beneath(Path::new("/dev/shm"));
    scratch.write("file", &bytes);
    let entry = entry(scratch.path(), "file");
    let pool = pool(4);
    let mut store = store(&pool, Kinds::Direct);
    assert!(read(&mut store, &entry, 0, EXTENT).expect("unchanged") == bytes);
    let counters = store.counters();
    assert_eq!((counters.snapshot.reads + counters.direct.reads, counters.failed), (1, 0));
    assert_eq!((counters.snapshot.read_bytes + counters.direct.read_bytes), EXTENT as u64);
}

/// A queue that takes less in one buffer gets less in one page.
#[test]
fn pages_are_as_long_as_the_queue_takes() {
    let scratch = Scratch::new();
    let bytes = pattern(9000, 8);
    scratch.write("file", &bytes);
    let entry = entry(scratch.path(), "file");
    let pool = pool(2);
    let bell = Arc::new(Bell::new().expect("a descriptor"));
    let plan = StorePlan { page_bytes: 1792, ..StorePlan::default() };
    let mut store = Store::new(&pool, plan, bell).expect("starts");
    let (mut at, mut lengths) = (0, Vec::new());
    while at < 9000 {
        let page = page(&mut store, &entry, at, 9000).expect("unchanged");
        lengths.push(page.len());
        at += page.len() as u64;
    }
    assert_eq!(lengths, [1792, 1792, 512, 1792, 1792, 512, 808]);
}

/// Small files share a slab: thirty-two of a unit, not one.
#[test]
fn small_files_do_not_take_the_room_of_large_ones() {
    let scratch = Scratch::new();
    let pool = pool(2);
    let mut store = store(&pool, Kinds::Snapshot);
    let entries: Vec<Arc<Entry>> = (0..64u64)
        .map(|number| {
            scratch.write(&number.to_string(), &pattern(100, number));
            entry(scratch.path(), &number.to_string())
        })
        .collect();
    for round in 0..2 {
        for (number, entry) in (0..).zip(&entries) {
            let bytes = read(&mut store, entry, 0, 100).expect("unchanged");
            assert_eq!(bytes, pattern(100, number), "round {round}");
        }
    }
    let counters = store.counters();
    assert_eq!((counters.misses, counters.evicted, counters.snapshot.files), (64, 0, 64));
}

/// A file that is written to, or replaced, between the first look and the last is not taken, and its times stay as its
/// writer left them.
#[test]
fn what_changes_while_it_is_mapped_is_not_shared() {
    if !rustix::fs::statfs("/dev/shm").is_ok_and(|fs| fs.f_type == 0x0102_1994) {
        return eprintln!("SKIPPED: /dev/shm is no tmpfs");
    }
    let scratch = Scratch::beneath(Path::new("/dev/shm"));
    let names = ["same", "written", "cut", "grown", "replaced", "removed"];
    for name in names {
        scratch.write(name, &pattern(5000, 1));
    }
    let times =
        |name: &str| std::fs::metadata(scratch.path().join(name)).and_then(|meta| meta.modified()).ok();
    let before = times("same");
    let tree = Tree::open(TreePlan::new(scratch.path())).expect("opens");
    let candidates = Candidates::find(&tree, 1 << 20, Share::InMemory);
    assert_eq!(candidates.len(), names.len());
    std::thread::sleep(Duration::from_millis(15));
    let file =
        |name: &str| std::fs::File::options().write(true).open(scratch.path().join(name)).expect("opens");
    let plan = ArenaPlan { frames: 2, frame_size: 2048, content_bytes: 2 * EXTENT, huge_pages: false };
    file("written").write_all(b"x").expect("writes");
    file("cut").set_len(100).expect("cuts");
    let (arena, mut files) = candidates.map(&plan).expect("small");
    file("grown").set_len(9000).expect("grows");
    scratch.write("new", &pattern(5000, 2));
    std::fs::rename(scratch.path().join("new"), scratch.path().join("replaced")).expect("renames");
    std::fs::remove_file(scratch.path().join("removed")).expect("removes");
    let written = times("written");
    candidates.confirm(&mut files);
    assert_eq!((files.len(), files.bytes()), (1, 5000), "the one that stayed the same");
    assert_eq!((times("same"), times("written")), (before, written));
    assert_ne!(written, before);
    let pool = Pool::new(arena);
    let mut store = store(&pool, Kinds::Snapshot).with_files(files);
    let mut is_shared =
        |name: &str| page(&mut store, &entry(scratch.path(), name), 0, 10).expect("there").is_file();
    assert!(is_shared("same") && !is_shared("written") && !is_shared("cut") && !is_shared("replaced"));
}

/// Files on tmpfs are handed out as they lie there, for a device's eyes; what reads itself gets a copy.
#[test]
fn files_of_tmpfs_are_shared_and_never_read_by_us() {
    if !rustix::fs::statfs("/dev/shm").is_ok_and(|fs| fs.f_type == 0x0102_1994) {
        return eprintln!("SKIPPED: /dev/shm is no tmpfs");
    }
    let scratch = Scratch::beneath(Path::new("/dev/shm"));
    let bytes = pattern(10_000, 6);
    scratch.write("a/file", &bytes);
    scratch.write("empty", b"");
    std::os::unix::fs::symlink("a/file", scratch.path().join("link")).expect("links");
    let tree = Tree::open(TreePlan::new(scratch.path())).expect("opens");
    assert_eq!(Candidates::find(&tree, 8192, Share::InMemory).len(), 0, "no room for it");
    let candidates = Candidates::find(&tree, 1 << 20, Share::InMemory);
    assert_eq!(candidates.len(), 1);
    let plan = ArenaPlan { frames: 2, frame_size: 2048, content_bytes: 2 * EXTENT, huge_pages: false };
    let (arena, mut files) = candidates.map(&plan).expect("small");
    candidates.confirm(&mut files);
    assert_eq!((files.len(), files.bytes()), (1, 10_000));
    let pool = Pool::new(arena);
    let mut store = store(&pool, Kinds::Snapshot).with_files(files);
    let old = entry(scratch.path(), "a/file");

    let own = page(&mut store, &old, 9000, 4096).expect("there");
    assert!(own.is_file() && own.bytes().is_none());
    assert_eq!(own.len(), 1000);
    assert_eq!(store.counters().snapshot.reads, 0, "nothing was read");
    let Piece::Later = store.readable_page(&old, 0, 10, ME) else { panic!("not in memory yet") };
    soon("a copy", || {
        store.poll(now(), &mut Vec::new());
        match store.readable_page(&old, 9000, 1000, ME) {
            Piece::Page(page) => (page.bytes() == Some(&bytes[9000..])).then_some(()),
            _ => None,
        }
    });

    std::thread::sleep(Duration::from_millis(15));
    scratch.write("a/file", &pattern(10_000, 7));
    assert!(!old.check());
    assert!(matches!(store.page(&old, 0, 10, ME), Piece::Gone), "its pages are another version's now");
    let new = entry(scratch.path(), "a/file");
    assert!(read(&mut store, &new, 0, 10_000).expect("by snapshot") == pattern(10_000, 7));
}

#[test]
fn content_too_small_for_an_extent_is_refused() {
    let plan = ArenaPlan { frames: 2, frame_size: 2048, content_bytes: 4096, huge_pages: false };
    let pool = Pool::new(Arena::new(&plan).expect("small"));
    let bell = Arc::new(Bell::new().expect("a descriptor"));
    let error = Store::new(&pool, StorePlan::default(), bell).expect_err("too small");
    assert!(error.to_string().contains("131072"), "{error}");
}

/// Not a test: what direct reads bring on this disk, to be held against
/// `fio --name=x --filename=FILE --rw=read --direct=1 --bs=128k --ioengine=io_uring --iodepth=8 --readonly`.
///
/// ```text
/// RINGWAY_LARGE=FILE cargo test -p ringway --release --lib serve::content::tests::speed -- --ignored --nocapture
/// ```
#[test]
#[ignore = "a measurement, of a large file that RINGWAY_LARGE names"]
fn speed_of_direct_reads() {
    let path = std::path::PathBuf::from(std::env::var_os("RINGWAY_LARGE").expect("RINGWAY_LARGE"));
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    let entry = entry(path.parent().expect("a directory"), name);
    for (readers, ahead) in [(1, 4), (1, 8), (1, 32), (8, 4), (8, 32)] {
        let pool = pool(512);
        let plan = StorePlan { kinds: Kinds::Direct, ahead, ..StorePlan::default() };
        let bell = Arc::new(Bell::new().expect("a descriptor"));
        let mut store = Store::new(&pool, plan, Arc::clone(&bell)).expect("starts");
        let share = entry.size() / readers / EXTENT as u64 * EXTENT as u64;
        let mut at: Vec<(u64, bool)> = (0..readers).map(|reader| (reader * share, true)).collect();
        let (begin, mut woken) = (Instant::now(), Vec::new());
        while at.iter().zip(1..).any(|((offset, _), reader)| *offset < reader * share) {
            for (reader, (offset, ready)) in at.iter_mut().enumerate() {
                while *ready && *offset < (reader as u64 + 1) * share {
                    match store.page(&entry, *offset, 4096, Waiter(reader as u64)) {
                        Piece::Page(page) => *offset += page.len() as u64,
                        Piece::Later => *ready = false,
                        Piece::Gone => panic!("it has changed"),
                    }
                }
            }
            bell.doze();
            store.poll(now(), &mut woken);
            if woken.is_empty() {
                let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                let fd = rustix::event::PollFd::new(&bell, rustix::event::PollFlags::IN);
                let _ = rustix::event::poll(&mut [fd], Some(&limit));
            }
            bell.rise();
            woken.drain(..).for_each(|Waiter(reader)| at[usize::try_from(reader).expect("few")].1 = true);
        }
        #[expect(clippy::cast_precision_loss, reason = "a report")]
        let speed = (share * readers) as f64 / begin.elapsed().as_secs_f64() / 1e6;
        eprintln!("{readers} readers, {ahead} extents ahead: {speed:.0} MB/s; {:?}", store.counters());
    }
}

//! A site of more files than may be open at once. A process of its own, since the limit is the process's.
#![forbid(unsafe_code)]

use dataplane::Tick;
use dataplane::serve::Waiter;
use dataplane::serve::bell::Bell;
use dataplane::serve::tree::{Finder, Found, HostId, Librarian, Lookup, Tree, TreePlan};
use lab::server::Tree as Folder;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Each file is found, though many times more are known than descriptors are left: old ones are closed for new ones.
#[test]
fn more_files_than_descriptors_are_all_found() {
    const FILES: usize = 300;
    let folder = Folder::new().expect("a folder");
    for number in 0..FILES {
        folder.write(&format!("file-{number}"), b"content").expect("a file");
    }
    // The hard limit too, or the librarian raises the other one.
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(64) }).expect("lower");
    let tree = Tree::open(TreePlan::new(folder.path())).expect("opens");
    let librarian = Librarian::start(Arc::new(tree)).expect("starts");
    let bell = Arc::new(Bell::new().expect("a descriptor"));
    let mut finder = Finder::new(librarian.desk(8, bell), 1, 4096);
    let begin = Instant::now();
    let mut busy = 0;
    for number in (0..FILES).chain(0..FILES) {
        let path = format!("file-{number}");
        loop {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "file {number} is never found: {:?}",
                finder.counters()
            );
            let now = Tick(begin.elapsed());
            finder.poll(now, &mut Vec::new());
            if let Lookup::Known(answer) = finder.find(now, HostId::default(), &path, Waiter(1)) {
                match answer.found() {
                    Found::File(forms) if forms.plain().size() == 7 => break,
                    Found::Busy => busy += 1,
                    other => panic!("{path}: {other:?}"),
                }
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    let counters = finder.counters();
    assert!(busy > 0 && counters.evicted > 0, "the limit was never met: {counters:?}");
    // What is known stays so while there is room.
    let (now, last) = (Tick(begin.elapsed()), format!("file-{}", FILES - 1));
    assert!(matches!(finder.find(now, HostId::default(), &last, Waiter(1)), Lookup::Known(_)));
}

//! Files that change while somebody sends them.

use super::*;

/// Who is sending a file must hear that it was written to, removed, replaced or moved away, by whatever name it is known;
/// other rights and times are no reason to stop.
#[test]
fn files_that_lose_their_name_or_change_are_gone() {
    type Change = fn(&Path);
    let changes: [(&str, bool, Change); 8] = [
        ("removed", true, |root| std::fs::remove_file(root.join("a.txt")).expect("removes")),
        ("replaced", true, |root| {
            std::fs::write(root.join("new"), b"new").expect("writes");
            std::fs::rename(root.join("new"), root.join("a.txt")).expect("renames");
        }),
        ("moved away", true, |root| {
            std::fs::rename(root.join("a.txt"), root.join("b.txt")).expect("renames");
        }),
        ("written to", true, |root| std::fs::write(root.join("a.txt"), b"abc").expect("writes")),
        ("cut", true, |root| {
            let file = std::fs::File::options().write(true).open(root.join("a.txt")).expect("opens");
            file.set_len(1).expect("cuts");
        }),
        ("given rights", false, |root| {
            std::fs::set_permissions(root.join("a.txt"), std::fs::Permissions::from_mode(0o600))
                .expect("sets");
        }),
        ("given a form beside", false, |root| std::fs::write(root.join("a.txt.gz"), b"z").expect("writes")),
        ("given a neighbour", false, |root| std::fs::write(root.join("c.txt"), b"z").expect("writes")),
    ];
    for (what, gone, change) in changes {
        for path in ["a.txt", "link"] {
            let scratch = site();
            let root = scratch.path().join("root");
            std::os::unix::fs::symlink("a.txt", root.join("link")).expect("links");
            let mut desk = Desk::with(tree(&root, |plan| plan.symlinks = Symlinks::On));
            let answer = desk.find(path);
            let Found::File(forms) = answer.found() else { panic!("{answer:?}") };
            assert!(!answer.is_stale(), "{what}");
            // The clock of the file system may be coarse: not in the same tick as the file was made.
            std::thread::sleep(Duration::from_millis(15));
            change(&root);
            if gone {
                soon(what, || forms.plain().is_gone().then_some(()));
                assert!(answer.is_stale(), "{what}: it is looked up anew");
            } else {
                // The librarian hears of changes in their order, so what happened before this is heard of by then.
                let last = desk.find("docs/page");
                std::fs::remove_file(root.join("docs/page")).expect("removes");
                soon("the end", || last.is_stale().then_some(()));
                assert!(!forms.plain().is_gone(), "{what}, by {path}");
            }
        }
    }
}

/// A loader has seen what inotify does not tell of: nobody is given that answer again.
#[test]
fn an_answer_with_a_file_that_is_gone_is_asked_for_again() {
    let scratch = site();
    let mut desk = Desk::new(&scratch.path().join("root"), 4, 64);
    let answer = desk.find("a.txt");
    let Found::File(forms) = answer.found() else { panic!("{answer:?}") };
    forms.plain().set_gone();
    assert!(desk.ask("a.txt").is_none(), "asked again");
    let again = desk.find("a.txt");
    let Found::File(anew) = again.found() else { panic!("{again:?}") };
    assert!(anew.plain().id() != forms.plain().id() && !anew.plain().is_gone());
}

/// A second name is no matter for inotify: who sends such a file hears of it all the same, a moment later.
#[test]
fn files_that_nothing_watches_are_looked_at() {
    let scratch = site();
    let root = scratch.path().join("root");
    std::fs::hard_link(root.join("a.txt"), scratch.path().join("outside/a")).expect("links");
    let mut desk = Desk::new(&root, 4, 64);
    let answer = desk.find("a.txt");
    let Found::File(forms) = answer.found() else { panic!("{answer:?}") };
    std::thread::sleep(Duration::from_millis(15));
    scratch.write("outside/a", b"abd");
    soon("the news", || forms.plain().is_gone().then_some(()));
}

/// Rights and further names are no reason to end a transfer, also where nothing tells of them; a write whose time was set back is,
/// and so is the loss of a name.
#[test]
fn the_time_of_rights_is_not_that_of_bytes() {
    use rustix::fs::{Timestamps, fstat, futimens};
    type Change = fn(&Path);
    let changes: [(&str, bool, Change); 6] = [
        ("given rights", true, |root| {
            let rights = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(root.join("a.txt"), rights).expect("sets");
        }),
        ("linked", true, |root| std::fs::hard_link(root.join("a.txt"), root.join("second")).expect("links")),
        ("unlinked, the second name", true, |root| {
            std::fs::remove_file(root.join("second")).expect("removes")
        }),
        ("given other rights", true, |root| {
            let rights = std::fs::Permissions::from_mode(0o640);
            std::fs::set_permissions(root.join("a.txt"), rights).expect("sets");
        }),
        ("moved away and back", false, |root| {
            std::fs::rename(root.join("a.txt"), root.join("b.txt")).expect("renames");
            std::fs::rename(root.join("b.txt"), root.join("a.txt")).expect("renames");
        }),
        ("written to, its time set back", false, |root| {
            let file = std::fs::File::options().write(true).open(root.join("a.txt")).expect("opens");
            let stat = fstat(&file).expect("facts");
            std::os::unix::fs::FileExt::write_all_at(&file, b"z", 0).expect("writes");
            let time = |seconds, nanos: u64| rustix::fs::Timespec {
                tv_sec: seconds,
                tv_nsec: nanos.try_into().expect("less than a second"),
            };
            let times = Timestamps {
                last_access: time(stat.st_atime, stat.st_atime_nsec),
                last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
            };
            futimens(&file, &times).expect("sets");
        }),
    ];
    let scratch = site();
    let root = scratch.path().join("root");
    let entry = || {
        let file = std::fs::File::open(root.join("a.txt")).expect("opens");
        let stat = fstat(&file).expect("facts");
        Entry::new("a.txt", file.into(), &stat)
    };
    let mut old = entry();
    for (what, same, change) in changes {
        std::thread::sleep(Duration::from_millis(15));
        change(&root);
        assert_eq!(old.check(), same, "{what}");
        assert_eq!(old.is_also(&entry()), same, "{what}: the one that is looked up next");
        if !same {
            old = entry();
        }
    }
    std::fs::remove_file(root.join("a.txt")).expect("removes");
    assert!(!old.check(), "without a name");
}

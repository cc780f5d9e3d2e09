use super::*;
use crate::serve::bell::Bell;
use crate::serve::http::Resource;
use crate::serve::testing::{Scratch, soon};
use crate::serve::waiters::Waiter;
use crate::worker::Tick;
use rustix::fs::{CWD, Gid, Mode, Uid, mkfifoat};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

mod changes;

fn tree(root: &Path, change: impl FnOnce(&mut TreePlan)) -> Tree {
    let mut plan = TreePlan::new(root);
    change(&mut plan);
    Tree::open(plan).expect("opens")
}

/// What is there, in a word; for a file its name and size.
fn word(found: &Found) -> String {
    match found {
        Found::File(forms) => format!("{} {}", forms.plain().name(), forms.plain().size()),
        Found::Redirect => "redirect".to_owned(),
        Found::Listing(_) => "listing".to_owned(),
        Found::NotFound => "not found".to_owned(),
        Found::Forbidden => "forbidden".to_owned(),
        Found::Busy => "busy".to_owned(),
        Found::Failed => "failed".to_owned(),
    }
}

fn site() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("outside/secret", b"secret");
    scratch.write("root/index.html", b"hello");
    scratch.write("root/a.txt", b"abc");
    scratch.write("root/docs/index.html", b"docs");
    scratch.write("root/docs/page", b"p");
    scratch.write("root/bare/x", b"x");
    scratch.write("root/grüße/ü", b"\xc3\xbc");
    scratch.write("root/outsider", b"");
    scratch
}

#[test]
fn paths_lead_where_they_should_and_nowhere_else() {
    let scratch = site();
    let root = scratch.path().join("root");
    let link = |target: &str, name: &str| symlink(target, root.join(name)).expect("links");
    link("a.txt", "good");
    link("docs", "dir");
    link("../bare/x", "docs/up");
    link("../outside/secret", "out");
    link("../root/a.txt", "out-and-in");
    link(scratch.path().join("root/a.txt").to_str().expect("UTF-8"), "absolute");
    link("loop", "loop");
    link("nothing", "dangling");
    link("/proc/self/root", "magic");
    mkfifoat(CWD, root.join("fifo"), Mode::RUSR).expect("makes a pipe");

    let long = "n".repeat(300);
    let deep = "d/".repeat(3000);
    let cases = [
        ("", "index.html 5", "index.html 5"),
        ("a.txt", "a.txt 3", "a.txt 3"),
        ("a.txt/", "not found", "not found"),
        ("a.txt/x", "not found", "not found"),
        ("docs", "redirect", "redirect"),
        ("docs/", "index.html 4", "index.html 4"),
        ("docs/page", "page 1", "page 1"),
        ("docs//page", "page 1", "page 1"),
        ("bare/", "forbidden", "forbidden"),
        ("grüße/ü", "ü 2", "ü 2"),
        ("outsider", "outsider 0", "outsider 0"),
        ("nothing", "not found", "not found"),
        ("nothing/at/all", "not found", "not found"),
        (&long, "not found", "not found"),
        (&deep, "not found", "not found"),
        // Out of the root by spelling.
        ("..", "not found", "not found"),
        ("../outside/secret", "not found", "not found"),
        ("docs/../../outside/secret", "not found", "not found"),
        ("docs/../a.txt", "not found", "not found"),
        ("/etc/passwd", "not found", "not found"),
        ("a.txt\0.html", "not found", "not found"),
        // Out of the root by links, and about within: links off, links on.
        ("good", "forbidden", "good 3"),
        ("dir", "forbidden", "redirect"),
        ("dir/page", "forbidden", "page 1"),
        ("docs/up", "forbidden", "up 1"),
        ("dir/up", "forbidden", "up 1"),
        ("out", "forbidden", "forbidden"),
        ("out-and-in", "forbidden", "forbidden"),
        ("absolute", "forbidden", "forbidden"),
        ("loop", "forbidden", "forbidden"),
        ("dangling", "forbidden", "not found"),
        ("magic", "forbidden", "forbidden"),
        ("magic/etc/passwd", "forbidden", "forbidden"),
        // Opening a pipe would wait for a writer.
        ("fifo", "forbidden", "forbidden"),
    ];
    let off = tree(&root, |_| ());
    let on = tree(&root, |plan| plan.symlinks = Symlinks::On);
    for (path, without, with) in cases {
        assert_eq!(word(&off.look_up(HostId::default(), path)), without, "{path:?}, links off");
        assert_eq!(word(&on.look_up(HostId::default(), path)), with, "{path:?}, links on");
    }
}

#[test]
fn links_of_the_owner_are_followed_and_no_others() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: only root can give a link to somebody else");
    }
    let scratch = site();
    let root = scratch.path().join("root");
    let give = |name: &str| {
        let (user, group) = (Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534)));
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(CWD, root.join(name), user, group, flags).expect("gives");
    };
    symlink("a.txt", root.join("ours")).expect("links");
    symlink("a.txt", root.join("theirs")).expect("links");
    symlink("docs", root.join("their-dir")).expect("links");
    symlink("theirs", root.join("ours-to-theirs")).expect("links");
    symlink("docs/page", root.join("theirs-to-theirs")).expect("links");
    for name in ["theirs", "their-dir", "theirs-to-theirs", "docs/page"] {
        give(name);
    }
    let tree = tree(&root, |plan| plan.symlinks = Symlinks::Owner);
    let cases = [
        ("a.txt", "a.txt 3"),
        ("docs/page", "page 1"),
        ("ours", "ours 3"),
        ("theirs", "forbidden"),
        ("their-dir/index.html", "forbidden"),
        ("ours-to-theirs", "forbidden"),
        ("theirs-to-theirs", "theirs-to-theirs 1"),
    ];
    for (path, expected) in cases {
        assert_eq!(word(&tree.look_up(HostId::default(), path)), expected, "{path}");
    }
}

#[test]
fn what_may_not_be_read_is_forbidden() {
    if rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: root may read everything");
    }
    let scratch = site();
    let path = scratch.path().join("root/a.txt");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).expect("changes");
    let tree = tree(&scratch.path().join("root"), |_| ());
    assert_eq!(word(&tree.look_up(HostId::default(), "a.txt")), "forbidden");
}

#[test]
fn precompressed_forms_count_if_they_are_not_older() {
    let scratch = site();
    for (suffix, bytes) in [(".br", &b"br"[..]), (".zst", b"zstd"), (".gz", b"")] {
        scratch.write(&format!("root/a.txt{suffix}"), bytes);
    }
    let root = scratch.path().join("root");
    std::fs::create_dir(root.join("docs/page.gz")).expect("creates");
    let set = |name: &str, time| {
        std::fs::File::options().write(true).open(root.join(name)).expect("opens").set_modified(time)
    };
    set("a.txt.zst", SystemTime::UNIX_EPOCH).expect("sets");
    set("a.txt.br", std::fs::metadata(root.join("a.txt")).expect("there").modified().expect("has"))
        .expect("sets");

    let found = tree(&root, |_| ()).look_up(HostId::default(), "a.txt");
    let Found::File(forms) = &found else { panic!("{found:?}") };
    let sizes = Coding::PRECOMPRESSED.map(|coding| forms.entry(coding).map(|entry| entry.size()));
    assert_eq!(sizes, [Some(2), None, None], "one as old, one too old, one empty");
    let Resource::File(facts) = found.resource() else { panic!("a file") };
    assert_eq!(facts.media(), "text/plain; charset=utf-8", "the form beside has the type of the file");
    assert_eq!(facts.representation(Coding::Brotli).expect("there").size(), 2);
    assert!(facts.varies());

    let found = tree(&root, |_| ()).look_up(HostId::default(), "docs/page");
    let Found::File(forms) = &found else { panic!("{found:?}") };
    assert_eq!(forms.entries().count(), 1, "a directory is no form");
    let found = tree(&root, |plan| plan.precompressed = false).look_up(HostId::default(), "a.txt");
    let Found::File(forms) = &found else { panic!("{found:?}") };
    assert_eq!(forms.entries().count(), 1, "not asked for");
}

#[test]
fn directories_are_listed_with_what_can_be_had_there() {
    let scratch = site();
    let odd = "<b>&\"q\": 100%";
    for name in ["bare/.hidden", &format!("bare/{odd}"), "bare/sub/x"] {
        scratch.write(&format!("root/{name}"), b"12");
    }
    let root = scratch.path().join("root");
    symlink("x", root.join("bare/link")).expect("links");
    mkfifoat(CWD, root.join("bare/fifo"), Mode::RUSR).expect("makes a pipe");
    let tree = tree(&root, |plan| plan.listing = true);
    let Found::Listing(listing) = tree.look_up(HostId::default(), "bare/") else { panic!("a listing") };
    let json: serde_json::Value = serde_json::from_slice(&listing.json).expect("JSON");
    let names: Vec<&str> =
        json["items"].as_array().expect("a list").iter().filter_map(|i| i["name"].as_str()).collect();
    assert_eq!(names, ["sub", odd, "x"]);
    assert_eq!((&json["items"][1]["size"], &json["cut"]), (&2.into(), &false.into()));
    let html = String::from_utf8(listing.html.to_vec()).expect("UTF-8");
    assert!(
        html.contains("<a href=\"./%3Cb%3E%26%22q%22%3A%20100%25\">&lt;b&gt;&amp;&quot;q&quot;: 100%</a>"),
        "{html}"
    );
    assert!(html.contains("<a href=\"./sub/\">sub/</a>") && html.contains("<a href=\"../\">"), "{html}");
    assert_eq!(word(&tree.look_up(HostId::default(), "docs/")), "index.html 4", "the index goes first");
    // A link is what it leads to, and nothing is told of what lies outside of the root.
    for (target, name) in [("../../outside/secret", "out"), ("../a.txt", "up"), ("/etc/passwd", "far")] {
        symlink(target, root.join("bare").join(name)).expect("links");
    }
    let tree = self::tree(&root, |plan| (plan.listing, plan.symlinks) = (true, Symlinks::On));
    let Found::Listing(listing) = tree.look_up(HostId::default(), "bare/") else { panic!("a listing") };
    let json: serde_json::Value = serde_json::from_slice(&listing.json).expect("JSON");
    let items = json["items"].as_array().expect("a list").iter();
    let items: Vec<_> = items.map(|item| (item["name"].as_str(), item["size"].as_u64())).collect();
    let expected = [("sub", None), (odd, Some(2)), ("link", Some(1)), ("up", Some(3)), ("x", Some(1))];
    assert_eq!(items, expected.map(|(name, size)| (Some(name), size)));
}

#[test]
fn hosts_have_roots_of_their_own() {
    let scratch = Scratch::new();
    scratch.write("one/x", b"1");
    scratch.write("two/x", b"22");
    let host =
        |name: &str, root: &str| HostPlan { names: vec![name.to_owned()], root: scratch.path().join(root) };
    let mut plan = TreePlan::new("");
    plan.hosts = vec![host("one.example", "one"), host("two.example", "two")];
    let tree = Tree::open(plan).expect("opens");
    for (name, size) in [("one.example", 1), ("TWO.Example", 2), ("", 1), ("three.example", 1)] {
        let found = tree.look_up(tree.host(name), "x");
        assert_eq!(word(&found), format!("x {size}"), "{name}");
    }
    let error = Tree::open(TreePlan::new("/nowhere")).expect_err("refused").to_string();
    assert!(error.contains("/nowhere") && error.contains("No such file"), "{error}");
}

/// A librarian, and one worker's finder.
struct Desk {
    librarian: Librarian,
    finder: Finder,
    woken: Vec<Waiter>,
    now: Tick,
}

impl Desk {
    fn new(root: &Path, places: usize, capacity: usize) -> Self {
        Self::over(tree(root, |_| ()), places, capacity)
    }

    fn with(tree: Tree) -> Self {
        Self::over(tree, 4, 64)
    }

    fn over(tree: Tree, places: usize, capacity: usize) -> Self {
        let librarian = Librarian::start(Arc::new(tree)).expect("starts");
        let bell = Arc::new(Bell::new().expect("a descriptor"));
        let finder = Finder::new(librarian.desk(places, bell), 1, capacity);
        Self { librarian, finder, woken: Vec::new(), now: Tick::default() }
    }

    fn poll(&mut self) {
        self.finder.poll(self.now, &mut self.woken);
    }

    fn ask(&mut self, path: &str) -> Option<Arc<Answer>> {
        match self.finder.find(self.now, HostId::default(), path, Waiter(1)) {
            Lookup::Known(answer) => Some(Arc::clone(answer)),
            Lookup::Asked => None,
            Lookup::Busy => panic!("busy"),
        }
    }

    /// Asks until there is an answer.
    fn find(&mut self, path: &str) -> Arc<Answer> {
        soon(path, || {
            self.poll();
            self.ask(path)
        })
    }

    /// Asks until the answer is this.
    fn becomes(&mut self, path: &str, expected: &str) {
        soon(&format!("{path}: {expected}"), || (word(self.find(path).found()) == expected).then_some(()));
    }
}

#[test]
fn known_paths_are_answered_at_once_and_waiters_woken() {
    let scratch = site();
    let mut desk = Desk::new(&scratch.path().join("root"), 4, 64);
    assert!(desk.ask("a.txt").is_none());
    assert!(desk.ask("a.txt").is_none(), "asked, not asked twice");
    soon("an answer", || {
        desk.poll();
        (!desk.woken.is_empty()).then_some(())
    });
    assert_eq!(desk.woken, [Waiter(1)]);
    let answer = desk.ask("a.txt").expect("known now");
    assert!(Arc::ptr_eq(&answer, &desk.ask("a.txt").expect("known")));
    let counters = desk.finder.counters();
    assert_eq!((counters.asked, counters.hits, counters.busy), (1, 2, 0));
}

/// What changes on the disk changes the answer, and soon; nothing is asked for again without a reason.
#[test]
fn changes_make_answers_stale() {
    let scratch = site();
    let root = scratch.path().join("root");
    let mut desk = Desk::new(&root, 4, 64);
    // Longer than it takes an unwatched answer to grow old, by our clock.
    for (path, before) in
        [("a.txt", "a.txt 3"), ("docs/page", "page 1"), ("bare/", "forbidden"), ("late", "not found")]
    {
        desk.becomes(path, before);
    }
    let asked = desk.finder.counters().asked;
    desk.find("a.txt");
    assert_eq!(desk.finder.counters().asked, asked, "nothing has changed");

    std::fs::write(root.join("a.txt"), b"four").expect("writes");
    desk.becomes("a.txt", "a.txt 4");
    scratch.write("root/late", b"here");
    desk.becomes("late", "late 4");
    scratch.write("root/new", b"other");
    std::fs::rename(root.join("new"), root.join("a.txt")).expect("renames");
    desk.becomes("a.txt", "a.txt 5");
    std::fs::remove_file(root.join("a.txt")).expect("removes");
    desk.becomes("a.txt", "not found");
    scratch.write("root/bare/index.html", b"123456");
    desk.becomes("bare/", "index.html 6");
    // Not the file nor its directory, but the name of the directory.
    std::fs::rename(root.join("docs"), root.join("papers")).expect("renames");
    desk.becomes("docs/page", "not found");
    desk.becomes("papers/page", "page 1");
    assert!(desk.librarian.counters().watches >= 2);
}

/// A precompressed form that comes later is found; a file touched without a change keeps its entry.
#[test]
fn the_same_version_keeps_its_entry() {
    let scratch = site();
    let root = scratch.path().join("root");
    let mut desk = Desk::new(&root, 4, 64);
    let entry = |answer: &Answer| match answer.found() {
        Found::File(forms) => (forms.plain().id(), forms.entries().count()),
        other => panic!("{other:?}"),
    };
    let (id, forms) = entry(&desk.find("a.txt"));
    assert_eq!(forms, 1);
    scratch.write("root/a.txt.gz", b"gz");
    let answer = soon("the form beside", || Some(desk.find("a.txt")).filter(|answer| entry(answer).1 == 2));
    assert_eq!(entry(&answer).0, id, "the file itself has not changed");
    scratch.write("root/a.txt", b"xyz");
    soon("another version", || (entry(&desk.find("a.txt")).0 != id).then_some(()));
}

/// A write by another name of the same file is not heard of, so such a file is asked for again and again; while it
/// has not changed it keeps its entry.
#[test]
fn a_file_with_two_names_is_not_trusted() {
    let scratch = site();
    let root = scratch.path().join("root");
    std::fs::hard_link(root.join("a.txt"), scratch.path().join("outside/a")).expect("links");
    let mut desk = Desk::new(&root, 4, 64);
    let id = |answer: &Answer| match answer.found() {
        Found::File(forms) => forms.plain().id(),
        other => panic!("{other:?}"),
    };
    let first = desk.find("a.txt");
    desk.now = Tick(Duration::from_millis(1500));
    assert!(desk.ask("a.txt").is_none(), "asked again");
    assert_eq!(id(&desk.find("a.txt")), id(&first));
    scratch.write("outside/a", b"four");
    desk.now = Tick(Duration::from_secs(3));
    desk.becomes("a.txt", "a.txt 4");
}

/// Answers that nothing watches over grow old by the clock.
#[test]
fn negative_answers_are_short_lived() {
    let scratch = site();
    let mut desk = Desk::new(&scratch.path().join("root"), 4, 64);
    desk.becomes("nothing", "not found");
    desk.becomes("a.txt", "a.txt 3");
    desk.now = Tick(Duration::from_millis(1500));
    assert!(desk.ask("nothing").is_none(), "asked again");
    assert!(desk.ask("a.txt").is_some(), "watched");
    desk.now = Tick(Duration::from_secs(90));
    assert!(desk.ask("a.txt").is_none(), "nothing is believed for ever");
    assert_eq!(desk.finder.counters().asked_again, 2);
}

#[test]
fn memory_is_bounded_whatever_is_asked() {
    let scratch = site();
    let mut desk = Desk::new(&scratch.path().join("root"), 4, 16);
    for number in 0..200 {
        desk.find("a.txt");
        desk.find(&format!("nothing-{number}"));
    }
    assert_eq!(desk.finder.len(), 16);
    let counters = desk.finder.counters();
    assert_eq!(counters.evicted, 201 - 16);
    assert!(counters.asked <= 202, "what is used stays: {counters:?}");

    // More at once than there are places.
    let mut busy = 0;
    for number in 200..300 {
        let path = format!("nothing-{number}");
        busy += usize::from(matches!(
            desk.finder.find(desk.now, HostId::default(), &path, Waiter(2)),
            Lookup::Busy
        ));
    }
    assert_eq!(busy, 96, "nobody has polled");
    assert!(desk.ask("a.txt").is_some());
}

/// Two workers that want the same file share its entry, and with it what the kernel holds open.
#[test]
fn workers_share_answers() {
    let scratch = site();
    let mut one = Desk::new(&scratch.path().join("root"), 4, 16);
    let bell = Arc::new(Bell::new().expect("a descriptor"));
    let mut two = Finder::new(one.librarian.desk(4, bell), 1, 16);
    let first = one.find("a.txt");
    let second = soon("an answer", || {
        two.poll(Tick::default(), &mut Vec::new());
        match two.find(Tick::default(), HostId::default(), "a.txt", Waiter(1)) {
            Lookup::Known(answer) => Some(Arc::clone(answer)),
            _ => None,
        }
    });
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(one.librarian.counters().shared, 1);
}

//! Uploads that go wrong, or have to share: half a body, a full disk, a slow client, many at once, the end of the server.
//!
//! ```text
//!   left: raw sockets ── left0 ══ rw-left [ serve --engine METHOD --upload WAY ] ── files that are whole, or not there
//! ```
#![forbid(unsafe_code)]

use drivers::kernel::{Method, Receive};
use lab::engine::{Engine, SOON, begin, connect, laboratory, number, response};
use lab::server::{PORT, Reply, SERVER, Tree};
use lab::upload::{ask, chunked, left, names, put};
use lab::{Outcome, Ringway, needs};
use rustix::mount::MountFlags;
use std::ffi::CStr;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Who vanishes, stops or crawls in the middle of a body leaves nothing, and the server goes on.
#[test]
fn half_a_body_leaves_nothing() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for way in Receive::ALL {
        let tree = Tree::new().expect("a folder");
        tree.write("old", b"old").expect("a file");
        let times = ["--upload", way.name(), "--stall-timeout", "1", "--least-rate", "10000"];
        let server = Engine::start(&lab, Method::Sendfile, &tree, &times);
        let half = |path: &str| {
            let mut bytes = put(path, "", &vec![1; 1 << 20]);
            bytes.truncate(500_000);
            bytes
        };
        let story = || -> Outcome<()> {
            for path in ["/old", "/new"] {
                // By a reset.
                let stream = begin(&half(path))?;
                std::thread::sleep(Duration::from_millis(100));
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
                drop(stream);
                // In order.
                let mut stream = begin(&half(path))?;
                stream.shutdown(Shutdown::Write)?;
                assert_eq!(stream.read_to_end(&mut Vec::new())?, 0, "{way}: no answer to half a request");
            }
            // Stopped: told so.
            let begun = Instant::now();
            let mut stream = begin(&half("/new"))?;
            let reply = response(&mut stream)?;
            assert_eq!((reply.status, reply.field("Connection")), (408, Some("close")), "{way}");
            assert!(begun.elapsed() > Duration::from_millis(900), "{way}: {:?}", begun.elapsed());
            assert_eq!(stream.read_to_end(&mut Vec::new())?, 0, "{way}");
            // Crawling: a byte now and then is not enough.
            let mut stream = begin(&half("/new"))?;
            let mut reader = stream.try_clone()?;
            let crawl = std::thread::spawn(move || {
                while stream.write_all(b"x").is_ok() && begun.elapsed() < SOON {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            assert_eq!(response(&mut reader)?.status, 408, "{way}");
            reader.shutdown(Shutdown::Both)?;
            crawl.join().expect("no panic");
            let reply = ask(b"GET /old HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert_eq!((reply.status, &reply.body[..]), (200, &b"old"[..]));
            Ok(())
        };
        left(&lab, story);
        assert_eq!(names(tree.path()), ["old"], "{way}");
        let serve = server.finish();
        assert_eq!((number(&serve, "uploads_stored"), number(&serve, "uploads_failed")), (0, 6), "{serve}");
        assert_eq!(number(&serve, "clients_timed_out"), 2, "{serve}");
    }
}

/// A file system of one MiB; unmounted with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(flags: MountFlags) -> Self {
        Self::of(flags, c"size=1m")
    }

    fn of(flags: MountFlags, options: &CStr) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringway-small-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        rustix::mount::mount("tmpfs", &path, "tmpfs", flags, Some(options)).expect("a mount");
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// 507, at once where the length is known and in the middle where it is not; the client hears it although it still sends;
/// what was written is gone, and what fits is stored.
#[test]
fn a_full_disk_is_told() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for way in Receive::ALL {
        let disk = SmallDisk::mount(MountFlags::empty());
        std::fs::write(disk.0.join("old"), b"old").expect("a file");
        let server = Engine::at(&lab, Method::Sendfile, &disk.0, &["--upload", way.name()]);
        let large = vec![7; 8 << 20];
        let story = || -> Outcome<()> {
            for (what, bytes) in
                [("known", put("/new", "", &large)), ("chunked", chunked("/old", &large, 60_000))]
            {
                let reply = ask(&bytes)?;
                assert_eq!((reply.status, reply.field("Connection")), (507, Some("close")), "{way}: {what}");
            }
            // Three at once that would fit one by one: some end in the middle.
            let body = &large[..700_000];
            let mut streams = Vec::new();
            for number in 0..3 {
                let mut stream = begin(&put(&format!("/{number}"), "", body)[..300_000])?;
                std::thread::sleep(Duration::from_millis(50));
                stream.flush()?;
                streams.push(stream);
            }
            let mut statuses = Vec::new();
            for stream in &mut streams {
                let head = put("/0", "", body).len();
                stream.write_all(&vec![7; head - 300_000])?;
                statuses.push(response(stream)?.status);
            }
            statuses.sort_unstable();
            assert!(
                statuses.contains(&507) && statuses.iter().all(|s| [201, 507].contains(s)),
                "{statuses:?}"
            );
            for number in 0..3 {
                let _ = std::fs::remove_file(disk.0.join(number.to_string()));
            }
            let reply = ask(&put("/small", "", b"small"))?;
            assert_eq!(reply.status, 201, "{way}: {}", reply.head);
            Ok(())
        };
        left(&lab, story);
        assert_eq!(names(&disk.0), ["old", "small"], "{way}");
        assert_eq!(std::fs::read(disk.0.join("old")).expect("a file"), b"old");
        let _ = server.finish();
    }
}

/// What is mounted to be read is not written to; and the server's own limit on files is one of uploads, not its end.
#[test]
fn what_may_not_be_written_is_told() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "prlimit");
    let lab = laboratory();
    let disk = SmallDisk::mount(MountFlags::RDONLY);
    let server = Engine::at(&lab, Method::Sendfile, &disk.0, &["--upload"]);
    let reply = left(&lab, || ask(&put("/new", "", b"x")));
    assert_eq!(reply.status, 403, "{}", reply.head);
    let _ = server.finish();
    let tree = Tree::new().expect("a folder");
    let listen = format!("{SERVER}:{PORT}");
    let mut limited = lab.middle().command("prlimit");
    limited.args(["--fsize=100000:100000"]).arg(Ringway::program().expect("a program"));
    limited.args(["serve", "--engine", "sendfile", "--listen", &listen, "--duration", "5", "--upload"]);
    let mut limited =
        limited.arg("--root").arg(tree.path()).stdout(Stdio::null()).spawn().expect("a process");
    std::thread::sleep(Duration::from_millis(500));
    let body = vec![1; 200_000];
    let story = || -> Outcome<[u16; 3]> {
        let long = ask(&put("/long", "", &body))?;
        let chunks = ask(&chunked("/chunks", &body, 5000))?;
        Ok([long.status, chunks.status, ask(&put("/short", "", &body[..100_000]))?.status])
    };
    assert_eq!(left(&lab, story), [413, 413, 201]);
    assert!(limited.wait().expect("an end").success());
    assert_eq!(names(tree.path()), ["short"]);
}

/// A server without rights of root's: a folder that is not open to it says 403, beside one that is.
#[test]
fn a_folder_without_rights_is_told() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "setpriv");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    tree.write("locked/old", b"old").expect("a file");
    let locked = tree.path().join("locked");
    std::fs::set_permissions(&locked, Permissions::from_mode(0o555)).expect("a mode");
    let listen = format!("{SERVER}:{PORT}");
    let mut server = lab.middle().command("setpriv");
    server.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(Ringway::program().expect("a program"));
    server.args(["serve", "--engine", "sendfile", "--listen", &listen, "--duration", "5", "--upload"]);
    let mut server = server.arg("--root").arg(tree.path()).stdout(Stdio::null()).spawn().expect("a process");
    std::thread::sleep(Duration::from_millis(500));
    let story = || -> Outcome<Vec<u16>> {
        let paths = ["/locked/new", "/locked/old", "/open"];
        paths.into_iter().map(|path| Ok(ask(&put(path, "", b"x"))?.status)).collect()
    };
    assert_eq!(left(&lab, story), [403, 403, 201]);
    assert!(server.wait().expect("an end").success());
    assert_eq!(names(&locked), ["old"]);
    assert_eq!(std::fs::read(locked.join("old")).expect("a file"), b"old");
}

/// No descriptor is left for the file: 503, and the next upload is stored when there is one again.
#[test]
fn a_server_without_descriptors_says_so_and_goes_on() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "prlimit");
    let lab = laboratory();
    for way in Receive::ALL {
        let tree = Tree::new().expect("a folder");
        let mut server = Engine::start(&lab, Method::Sendfile, &tree, &["--upload", way.name()]);
        let pid = server.process().pid().to_string();
        let limit = |files: usize| -> Outcome<()> {
            let mut command = Command::new("prlimit");
            let status = command.args(["--pid", &pid, &format!("--nofile={files}:")]).status()?;
            if status.success() { Ok(()) } else { Err("prlimit failed".into()) }
        };
        let story = || -> Outcome<()> {
            let mut stream = connect()?;
            // Accepted, and so in the table, once it has been answered.
            stream.write_all(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert_eq!(response(&mut stream)?.status, 404, "{way}");
            // The limit is on the number: a new descriptor takes the lowest that is free.
            let numbers = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
            let numbers: Vec<usize> =
                numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
            let free = (0..).find(|number| !numbers.contains(number)).ok_or("a number")?;
            limit(free)?;
            stream.write_all(&put("/new", "", b"x"))?;
            let reply = response(&mut stream)?;
            limit(1024)?;
            assert_eq!(reply.status, 503, "{way}: {}", reply.head);
            assert_eq!(ask(&put("/next", "", b"x"))?.status, 201, "{way}");
            Ok(())
        };
        left(&lab, story);
        assert_eq!(names(tree.path()), ["next"], "{way}");
        let _ = server.finish();
    }
}

/// A file system in a file in memory, unmounted with the test.
struct Disk {
    below: SmallDisk,
    root: PathBuf,
}

impl Disk {
    /// `mkfs` makes it: a command and its arguments.
    fn mount(mkfs: &[&str]) -> Self {
        let below = SmallDisk::of(MountFlags::empty(), c"size=64m");
        let (image, root) = (below.0.join("image"), below.0.join("root"));
        std::fs::create_dir(&root).expect("a folder");
        let file = std::fs::File::create(&image).expect("a file");
        file.set_len(160 << 20).expect("a length");
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root));
        Self { below, root }
    }

    /// From now on ext4 fails, as on a disk that is gone: EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h), without what is in its journal.
    fn fail(&self) {
        let script = "import fcntl, os, struct, sys\n\
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run(Command::new("python3").args(["-c", script]).arg(&self.root));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_file(self.below.0.join("image"));
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Beyond a quota: 507 as from a full disk, whether the length is known or not; nothing is left, and what fits is stored.
#[test]
fn a_quota_is_told() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "mkfs.btrfs", "btrfs", "mount");
    if !std::fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("\tbtrfs\n")) {
        return needs::skip("a_quota_is_told", &["btrfs in this kernel".to_owned()]);
    }
    let lab = laboratory();
    for way in Receive::ALL {
        let disk = Disk::mount(&["mkfs.btrfs", "-q"]);
        run(Command::new("btrfs").args(["quota", "enable"]).arg(&disk.root));
        run(Command::new("btrfs").args(["qgroup", "limit", "4m"]).arg(&disk.root));
        let server = Engine::at(&lab, Method::Sendfile, &disk.root, &["--upload", way.name()]);
        let large = vec![7; 8 << 20];
        let story = || -> Outcome<[u16; 3]> {
            let known = ask(&put("/known", "", &large))?.status;
            let unknown = ask(&chunked("/chunks", &large, 60_000))?.status;
            Ok([known, unknown, ask(&put("/small", "", b"small"))?.status])
        };
        assert_eq!(left(&lab, story), [507, 507, 201], "{way}");
        assert_eq!(names(&disk.root), ["small"], "{way}");
        let _ = server.finish();
    }
}

/// A disk that fails: 500 for the upload that has begun and for the next one, a line in the log, and the server goes on.
#[test]
fn a_disk_that_fails_is_told() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool", "mkfs.ext4", "mount", "python3");
    let lab = laboratory();
    for way in Receive::ALL {
        let disk = Disk::mount(&["mkfs.ext4", "-q", "-F"]);
        let listen = format!("{SERVER}:{PORT}");
        let mut server = lab.middle().command(Ringway::program().expect("a program"));
        server.args(["serve", "--engine", "sendfile", "--listen", &listen, "--duration", "6"]);
        server.args(["--upload", way.name(), "--root"]).arg(&disk.root);
        let mut server = server.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a process");
        std::thread::sleep(Duration::from_millis(500));
        let story = || -> Outcome<()> {
            assert_eq!(ask(&put("/before", "", b"x"))?.status, 201, "{way}");
            let bytes = put("/half", "", &vec![1; 1 << 20]);
            let mut stream = begin(&bytes[..500_000])?;
            std::thread::sleep(Duration::from_millis(200));
            disk.fail();
            // It may have answered, and closed, before all was sent.
            let _ = stream.write_all(&bytes[500_000..]);
            assert_eq!(response(&mut stream)?.status, 500, "{way}: begun before");
            assert_eq!(ask(&put("/after", "", b"x"))?.status, 500, "{way}: begun afterwards");
            Ok(())
        };
        left(&lab, story);
        let mut errors = String::new();
        server.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
        assert!(server.wait().expect("an end").success(), "{way}: {errors}");
        assert!(errors.contains("storing an upload: Input/output error"), "{way}: {errors}");
    }
}

/// Many at once, on several threads of the server: all are stored; a reader finds one of them whole, or the end of the one
/// before it.
#[test]
fn readers_find_one_or_the_other() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for way in Receive::ALL {
        let tree = Tree::new().expect("a folder");
        let bodies: Vec<Vec<u8>> = (0..6u8).map(|number| vec![b'a' + number; 400_000]).collect();
        std::fs::write(tree.path().join("shared"), &bodies[0]).expect("a file");
        let server = Engine::start(&lab, Method::Sendfile, &tree, &["--upload", way.name(), "--cpu", "0,1"]);
        let write = |number: usize| -> Outcome<()> {
            for round in 0..15 {
                let mut stream = begin(&put("/shared", "", &bodies[number]))?;
                assert_eq!(response(&mut stream)?.status, 204, "{way}");
                let own = format!("/own-{number}");
                stream.write_all(&put(&own, "", &bodies[number][round..]))?;
                let status = response(&mut stream)?.status;
                assert_eq!(status, if round == 0 { 201 } else { 204 }, "{way}");
                // By another connection, so perhaps by the other thread.
                let reply = ask(format!("GET {own} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())?;
                assert_eq!(reply.body.len(), 400_000 - round, "{way}: what was stored is read");
            }
            Ok(())
        };
        let read = || -> Outcome<usize> {
            let mut whole = 0;
            for _ in 0..100 {
                let mut stream = begin(b"GET /shared HTTP/1.1\r\nHost: a\r\n\r\n")?;
                // A body whose file is replaced under it ends early, and is not mixed.
                if let Ok(reply) = response(&mut stream) {
                    assert_eq!(reply.status, 200, "{way}");
                    assert!(bodies.contains(&reply.body), "{way}: a body that nobody sent");
                    whole += 1;
                }
            }
            Ok(whole)
        };
        let story = || -> Outcome<usize> {
            std::thread::scope(|scope| {
                let write = &write;
                let writers: Vec<_> = (0..6).map(|number| scope.spawn(move || write(number))).collect();
                let whole = read()?;
                for writer in writers {
                    writer.join().expect("no panic")?;
                }
                Ok(whole)
            })
        };
        assert!(left(&lab, story) > 10, "{way}: most are whole");
        assert_eq!(names(tree.path()).len(), 7, "{way}");
        assert_eq!(number(&server.finish(), "uploads_stored"), 6 * 15 * 2, "{way}");
    }
}

/// Who uploads much keeps nobody waiting.
#[test]
fn uploads_have_their_turns() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    for way in Receive::ALL {
        let tree = Tree::in_memory().expect("a folder");
        tree.file("file", 1000).expect("a file");
        let turns = ["--upload", way.name(), "--quantum", "65536"];
        let server = Engine::start(&lab, Method::Sendfile, &tree, &turns);
        let story = || -> Outcome<(Duration, usize)> {
            std::thread::scope(|scope| {
                let large = vec![1; 48 << 20];
                let uploads: Vec<_> = (0..3)
                    .map(|number| {
                        let bytes = put(&format!("/{number}"), "", &large);
                        scope.spawn(move || -> Outcome<u16> { Ok(response(&mut begin(&bytes)?)?.status) })
                    })
                    .collect();
                let (mut worst, mut asked) = (Duration::ZERO, 0);
                while uploads.iter().any(|upload| !upload.is_finished()) {
                    let begun = Instant::now();
                    assert_eq!(ask(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")?.status, 200);
                    worst = worst.max(begun.elapsed());
                    asked += 1;
                }
                for upload in uploads {
                    assert_eq!(upload.join().expect("no panic")?, 201);
                }
                Ok((worst, asked))
            })
        };
        let (worst, asked) = left(&lab, story);
        assert!(asked > 3 && worst < Duration::from_secs(1), "{way}: {worst:?} of {asked}");
        let _ = server.finish();
    }
}

/// SIGTERM: a body that comes is awaited and answered; one that does not is given up after --drain, and leaves nothing.
#[test]
fn an_end_awaits_bodies() {
    needs!(NET_ADMIN, SYS_ADMIN; tools: "ip", "ethtool");
    let lab = laboratory();
    let tree = Tree::new().expect("a folder");
    let mut server = Engine::start(&lab, Method::Sendfile, &tree, &["--upload", "--drain", "2"]);
    let body = vec![3; 1 << 20];
    let request = |path| put(path, "", &body);
    let story = || -> Outcome<Reply> {
        let mut stream = begin(&request("/whole")[..600_000])?;
        let stopped = begin(&request("/half")[..600_000])?;
        std::thread::sleep(Duration::from_millis(300));
        server.process().terminate()?;
        std::thread::sleep(Duration::from_millis(300));
        assert!(connect().is_err(), "nobody new comes in");
        stream.write_all(&request("/whole")[600_000..])?;
        let reply = response(&mut stream)?;
        assert_eq!(stream.read_to_end(&mut Vec::new())?, 0);
        drop(stopped);
        Ok(reply)
    };
    let reply = left(&lab, story);
    assert_eq!((reply.status, reply.field("Connection")), (201, Some("close")));
    let serve = server.ended();
    assert_eq!((number(&serve, "uploads_stored"), number(&serve, "uploads_failed")), (1, 1), "{serve}");
    assert_eq!(names(tree.path()), ["whole"]);
    assert!(std::fs::read(tree.path().join("whole")).expect("a file") == body);
}

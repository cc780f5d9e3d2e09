use super::*;
use ringbuf::{Arena, ArenaPlan, Pool};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const EXTENT: usize = 16 * 4096;

fn pool(extents: usize) -> Pool {
    let plan = ArenaPlan { frames: 2, frame_size: 2048, content_bytes: extents * EXTENT, huge_pages: false };
    Pool::new(Arena::new(&plan).expect("small"))
}

/// A file without a name, in the build directory: a disk where there is one, not a tmpfs.
fn file(bytes: &[u8]) -> (std::path::PathBuf, File) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("disk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(name);
    let mut file = File::options().create_new(true).read(true).write(true).open(&path).expect("creates");
    file.write_all(bytes).expect("writes");
    (path, file)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at / 7 % 251).expect("below 251")).collect()
}

fn readers() -> Vec<Reader<Arc<OwnedFd>>> {
    vec![Reader::new(8), Reader::without_uring(8)]
}

fn wait<F: AsFd>(reader: &mut Reader<F>) -> Done<F> {
    reader.flush();
    loop {
        if let Some(done) = reader.next_done() {
            return done;
        }
        std::thread::yield_now();
    }
}

#[test]
fn many_reads_bring_each_its_bytes() {
    let bytes = pattern(5 * EXTENT + 100);
    let (path, file) = file(&bytes);
    let file = Arc::new(OwnedFd::from(file));
    for mut reader in readers() {
        let pool = pool(6);
        for extent in 0..6 {
            let offset = extent * EXTENT;
            let grant = pool.lend_content(offset..offset + EXTENT).expect("free");
            let want = EXTENT.min(bytes.len() - offset);
            let read = Read { file: Arc::clone(&file), offset: offset as u64, grant, len: EXTENT, want };
            reader.submit(read).expect("room");
        }
        assert_eq!(reader.under_way(), 6);
        for _ in 0..6 {
            let Done { read, result } = wait(&mut reader);
            assert_eq!(result.expect("reads"), read.want);
            let offset = usize::try_from(read.offset).expect("small");
            assert!(read.grant[..read.want] == bytes[offset..offset + read.want], "extent at {offset}");
            pool.take_content(read.grant).expect("ours");
        }
        assert_eq!((reader.under_way(), pool.content_lent()), (0, 0));
    }
    std::fs::remove_file(path).expect("removes");
}

/// A file that is shorter than thought gives what it has.
#[test]
fn the_end_of_the_file_is_told() {
    let (path, file) = file(&pattern(5000));
    let file = Arc::new(OwnedFd::from(file));
    for mut reader in readers() {
        let pool = pool(1);
        let grant = pool.lend_content(0..EXTENT).expect("free");
        let read = Read { file: Arc::clone(&file), offset: 4096, grant, len: EXTENT, want: EXTENT };
        reader.submit(read).expect("room");
        let done = wait(&mut reader);
        assert_eq!(done.result.expect("reads"), 5000 - 4096);
    }
    std::fs::remove_file(path).expect("removes");
}

#[test]
fn errors_come_back_with_the_grant() {
    let directory = Arc::new(OwnedFd::from(File::open("/").expect("opens")));
    for mut reader in readers() {
        let pool = pool(1);
        let grant = pool.lend_content(0..EXTENT).expect("free");
        let read = Read { file: Arc::clone(&directory), offset: 0, grant, len: EXTENT, want: EXTENT };
        reader.submit(read).expect("room");
        let done = wait(&mut reader);
        assert_eq!(done.result.expect_err("a directory").raw_os_error(), Some(libc::EISDIR));
        assert!(pool.take_content(done.read.grant).is_ok());
    }
}

#[test]
fn more_than_fits_is_refused() {
    let (path, file) = file(b"x");
    let file = Arc::new(OwnedFd::from(file));
    let pool = pool(3);
    let mut reader = Reader::new(1);
    let read = |start: usize, len| {
        let grant = pool.lend_content(start..start + EXTENT).expect("free");
        Read { file: Arc::clone(&file), offset: 0, grant, len, want: 1 }
    };
    assert!(reader.submit(read(0, EXTENT + 1)).is_err(), "more than the grant");
    assert!(reader.submit(read(EXTENT, EXTENT)).is_ok());
    assert!(reader.submit(read(2 * EXTENT, EXTENT)).is_err(), "one at a time");
    std::fs::remove_file(path).expect("removes");
}

/// The reader goes, and waits for the kernel to be done with the memory first.
#[test]
fn a_reader_dropped_in_the_middle_leaves_no_write_behind() {
    let (path, file) = file(&pattern(4 * EXTENT));
    let file = Arc::new(OwnedFd::from(file));
    let pool = pool(4);
    let mut reader = Reader::new(4);
    for extent in 0..4 {
        let grant = pool.lend_content(extent * EXTENT..(extent + 1) * EXTENT).expect("free");
        let offset = (extent * EXTENT) as u64;
        let read = Read { file: Arc::clone(&file), offset, grant, len: EXTENT, want: EXTENT };
        reader.submit(read).expect("room");
    }
    reader.flush();
    drop(reader);
    assert_eq!(Arc::strong_count(&file), 1, "every read is over");
    assert_eq!(pool.content_lent(), 4 * EXTENT, "and what nobody gave back stays lent");
    std::fs::remove_file(path).expect("removes");
}

/// Where the file system can: the disk's DMA goes to the arena.
#[test]
fn direct_reads_bring_the_same_bytes() {
    let bytes = pattern(3 * EXTENT + 1000);
    let (path, file) = file(&bytes);
    file.sync_all().expect("syncs");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::CLOEXEC;
    let direct = match rustix::fs::open(&path, flags, rustix::fs::Mode::empty()) {
        Ok(direct) => Arc::new(direct),
        Err(error) => return eprintln!("SKIPPED: O_DIRECT in the build directory: {error}"),
    };
    for mut reader in readers() {
        let pool = pool(4);
        for extent in 0..4 {
            let offset = extent * EXTENT;
            let grant = pool.lend_content(offset..offset + EXTENT).expect("free");
            let want = EXTENT.min(bytes.len() - offset);
            let len = want.next_multiple_of(DIRECT_ALIGN);
            let read = Read { file: Arc::clone(&direct), offset: offset as u64, grant, len, want };
            reader.submit(read).expect("room");
        }
        for _ in 0..4 {
            let Done { read, result } = wait(&mut reader);
            assert_eq!(result.expect("reads"), read.want);
            let offset = usize::try_from(read.offset).expect("small");
            assert!(read.grant[..read.want] == bytes[offset..offset + read.want], "extent at {offset}");
        }
    }
    std::fs::remove_file(path).expect("removes");
}

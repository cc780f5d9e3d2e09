//! Noticing that an answer is no longer true.

use super::answer::Answer;
use super::resolve::Trail;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

/// Watches on the directories that answers depend on.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Option<OwnedFd>,
    directories: HashMap<i32, Directory>,
}

/// The answers that depend on a directory.
#[derive(Debug, Default)]
struct Directory {
    by_name: HashMap<Vec<u8>, Vec<Weak<Answer>>>,
    listed: Vec<Weak<Answer>>,
}

/// The watches of one trail.
#[derive(Debug, Default)]
pub(super) struct Watched {
    names: Vec<(i32, Vec<u8>)>,
    listed: Vec<i32>,
    /// Whether every change will be noticed.
    pub(super) complete: bool,
    /// Whether a directory came under watch only now: what was looked up before may have changed unseen.
    pub(super) is_new: bool,
}

impl Watches {
    /// Without inotify (too many instances: `fs.inotify.max_user_instances`) nothing is watched, and answers are asked
    /// for anew all the time.
    pub(super) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .inspect_err(|error| tracing::warn!("no inotify ({error}): files are looked up every second"));
        Self { inotify: inotify.ok(), directories: HashMap::new() }
    }

    /// Becomes readable when something has changed.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Watches all directories of a trail.
    pub(super) fn watch(&mut self, trail: &Trail) -> Watched {
        let mut watched = Watched { complete: !trail.unsure, ..Watched::default() };
        let mut last: Option<(i32, i32)> = None;
        for step in &trail.steps {
            let number = step.directory.as_raw_fd();
            let watch = match last {
                Some((directory, watch)) if directory == number => Some(watch),
                _ => self.add(&step.directory, &mut watched.is_new),
            };
            let Some(watch) = watch else {
                watched.complete = false;
                continue;
            };
            last = Some((number, watch));
            let name = (watch, step.name.clone());
            if !watched.names.contains(&name) {
                watched.names.push(name);
            }
        }
        for directory in &trail.listed {
            match self.add(directory, &mut watched.is_new) {
                Some(watch) => watched.listed.push(watch),
                None => watched.complete = false,
            }
        }
        watched
    }

    fn add(&mut self, directory: &OwnedFd, is_new: &mut bool) -> Option<i32> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        let inotify = self.inotify.as_ref()?;
        // The directory itself, not what has its name by now.
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        match inotify::add_watch(inotify, path, flags) {
            Ok(watch) => {
                self.directories.entry(watch).or_insert_with(|| {
                    *is_new = true;
                    Directory::default()
                });
                Some(watch)
            }
            Err(error) => {
                tracing::debug!("watching a directory: {error}");
                None
            }
        }
    }

    /// From now on changes of what was watched make this answer stale.
    pub(super) fn register(&mut self, watched: &Watched, answer: &Arc<Answer>) {
        for (watch, name) in &watched.names {
            if let Some(directory) = self.directories.get_mut(watch) {
                let answers = directory.by_name.entry(name.clone()).or_default();
                // Grown to where it would move: the dead are let go first.
                if answers.len() == answers.capacity() {
                    answers.retain(|answer| answer.strong_count() > 0);
                }
                answers.push(Arc::downgrade(answer));
            }
        }
        for watch in &watched.listed {
            if let Some(directory) = self.directories.get_mut(watch) {
                directory.listed.push(Arc::downgrade(answer));
            }
        }
    }

    /// Marks what has changed since the last time.
    pub(super) fn drain(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    self.directories.values().for_each(Directory::doubt);
                }
                Ok(event) => {
                    let watch = event.wd();
                    let name = event.file_name().map(|name| name.to_bytes());
                    if let Some(directory) = self.directories.get(&watch) {
                        directory.note(event.events(), name);
                    }
                    // The kernel has taken the watch away: the directory is gone.
                    if event.events().contains(ReadFlags::IGNORED) {
                        self.directories.remove(&watch);
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Gives up watches that no answer needs any more.
    pub(super) fn purge(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        self.directories.retain(|watch, directory| {
            let needed = directory.purge();
            if !needed {
                // Gone already is gone, too.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            needed
        });
    }

    /// Directories watched.
    pub(super) fn len(&self) -> usize {
        self.directories.len()
    }
}

impl Directory {
    fn note(&self, events: ReadFlags, name: Option<&[u8]>) {
        // Without a name it is about the directory itself.
        let Some(name) = name else { return self.doubt() };
        let written = events.contains(ReadFlags::MODIFY);
        // Rights, times, a second name: the bytes are what they were.
        let same_bytes = events.difference(ReadFlags::ATTRIB | ReadFlags::ISDIR).is_empty();
        for answer in self.by_name.get(name).into_iter().flatten().filter_map(Weak::upgrade) {
            if same_bytes {
                answer.rights_changed();
            } else {
                answer.changed(name, written);
            }
        }
        self.listed.iter().filter_map(Weak::upgrade).for_each(|answer| answer.set_stale());
    }

    fn doubt(&self) {
        let answers = self.by_name.values().flatten().chain(&self.listed);
        answers.filter_map(Weak::upgrade).for_each(|answer| answer.doubt());
    }

    /// Whether anybody still depends on it.
    fn purge(&mut self) -> bool {
        self.by_name.retain(|_, answers| {
            answers.retain(|answer| answer.strong_count() > 0);
            !answers.is_empty()
        });
        self.listed.retain(|answer| answer.strong_count() > 0);
        !self.by_name.is_empty() || !self.listed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Found, HostId, Tree, TreePlan};
    use super::*;
    use crate::serve::testing::Scratch;

    /// More events than the kernel keeps: what happened is unknown, so nothing is believed any more, and what has really
    /// changed is gone.
    #[test]
    fn after_an_overflow_everything_is_doubted() {
        let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a number");
        let limit: usize = limit.trim().parse().expect("a number");
        if limit > 100_000 {
            return eprintln!("SKIPPED: the kernel keeps {limit} events");
        }
        let scratch = Scratch::new();
        for name in ["busy/x", "quiet/same", "quiet/lost"] {
            scratch.write(name, b"1");
        }
        let tree = Tree::open(TreePlan::new(scratch.path())).expect("opens");
        let mut watches = Watches::new();
        let answers = ["busy/x", "quiet/same", "quiet/lost"].map(|path| {
            let mut trail = Trail::default();
            let found = tree.trace(HostId::default(), path, &mut trail);
            let watched = watches.watch(&trail);
            let answer = Arc::new(Answer::new(found, true));
            watches.register(&watched, &answer);
            answer
        });
        for number in 0..=limit {
            let path = scratch.path().join(format!("busy/{number}"));
            rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU).expect("makes");
            rustix::fs::rmdir(&path).expect("removes");
        }
        std::fs::remove_file(scratch.path().join("quiet/lost")).expect("removes");
        assert!(answers.iter().all(|answer| !answer.is_stale()), "not looked yet");
        watches.drain();
        assert!(answers.iter().all(|answer| answer.is_stale()));
        let gone = answers.each_ref().map(|answer| match answer.found() {
            Found::File(forms) => forms.plain().is_gone(),
            other => panic!("{other:?}"),
        });
        assert_eq!(gone, [false, false, true]);
    }
}

//! A network namespace: a network stack of its own, entered a thread at a time.

use super::LabError;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Where iproute2 keeps named namespaces, one bind mount each (ip-netns(8)).
const NAMED: &str = "/run/netns";

/// A network namespace that this process holds open.
///
/// A namespace belongs to a *thread* (setns(2)): what [`enter`](Self::enter) changes holds for the calling thread,
/// for the threads and processes it starts from then on, and for the sockets it opens; a socket stays where it was
/// opened wherever its thread goes.
///
/// `/sys/class/net` is the exception. It shows the namespace of whoever mounted `/sys`, not that of the thread that
/// reads it: inside [`enter`](Self::enter) and [`run`](Self::run) ask the kernel by netlink or ioctl, or start a process with
/// [`command`](Self::command), which mounts a `/sys` of its own (and so sees no `/sys/fs/bpf` of the machine).
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Option<String>,
    link: Arc<File>,
}

impl Namespace {
    /// Opens the namespace that `ip netns` knows as `name`.
    ///
    /// # Errors
    /// [`LabError::Namespace`] when there is none of that name.
    pub fn named(name: &str) -> Result<Self, LabError> {
        let link = open(&Self::path_of(name), name)?;
        Ok(Self { name: Some(name.to_owned()), link })
    }

    /// Opens the namespace that the calling thread is in.
    ///
    /// # Errors
    /// [`LabError::Namespace`] when `/proc` is not mounted.
    pub fn current() -> Result<Self, LabError> {
        let link = open(Path::new("/proc/thread-self/ns/net"), "of this thread")?;
        Ok(Self { name: None, link })
    }

    /// Its name for `ip netns`; none for a namespace taken from a thread.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Moves the calling thread into this namespace until the guard is dropped.
    ///
    /// # Errors
    /// [`LabError::Namespace`] without CAP_SYS_ADMIN.
    pub fn enter(&self) -> Result<Entered, LabError> {
        let former = Self::current()?;
        self.move_here()?;
        Ok(Entered { former, stays_on_its_thread: PhantomData })
    }

    /// Runs `work` on a fresh thread inside this namespace and returns its result. A panic in it goes on in the caller.
    ///
    /// # Errors
    /// [`LabError::Namespace`] without CAP_SYS_ADMIN; `work` has then not run.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        // The thread ends here, so there is no former namespace to go back to.
        let inside = || self.move_here().map(|()| work());
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A command that will run inside this namespace.
    ///
    /// For a named one that is `ip netns exec NAME program`; `ip` then becomes the program (`execvp`), so that the
    /// child's pid is the program's own and signals reach it. For an unnamed one the command runs where its
    /// *starting* thread is: start it inside [`run`](Self::run) or [`enter`](Self::enter).
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let Some(name) = &self.name else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name]).arg(program);
        command
    }

    /// The file that keeps a named namespace.
    pub(super) fn path_of(name: &str) -> PathBuf {
        Path::new(NAMED).join(name)
    }

    /// The names of all named namespaces; none when `ip netns` was never used on this machine.
    pub(super) fn all_names() -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(NAMED) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    fn move_here(&self) -> Result<(), LabError> {
        move_into_link_name_space(self.link.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
            LabError::Namespace {
                namespace: self.shown().to_owned(),
                step: "entering it",
                source: errno.into(),
            }
        })
    }

    fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or("of the caller")
    }
}

/// Keeps a thread inside a [`Namespace`]; dropping it takes the thread back to where it was.
#[must_use = "the thread leaves the namespace when this is dropped"]
#[derive(Debug)]
pub struct Entered {
    former: Namespace,
    /// Dropped on another thread it would move that one: so it cannot be sent.
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Fails only when the thread gave up CAP_SYS_ADMIN meanwhile; a panic here would hide the one under way.
        if let Err(error) = self.former.move_here() {
            tracing::error!("this thread could not go back to its former network namespace: {error}");
        }
    }
}

fn open(path: &Path, name: &str) -> Result<Arc<File>, LabError> {
    File::open(path).map(Arc::new).map_err(|source| LabError::Namespace {
        namespace: name.to_owned(),
        step: "opening it",
        source,
    })
}

//! The same files over the kernel's sockets: the rival of our own way, in the same program.
//!
//! ```text
//!   socket ─► recv ─► HTTP ─► Finder: which file ─► response, queued as a plan        as over our own TCP
//!                                                      │
//!   socket ◄─ Engine::push: head and file, by sendfile, splice, io_uring, ...         what is compared
//! ```
//!
//! Bodies go the other way, where uploads are allowed: socket ─► `Receiver::pull` ─► a file without a name ─► its name.
//!
//! | file | |
//! |---|---|
//! | `start.rs` | from the plan to a thread for each CPU |
//! | `worker.rs` | one thread: one epoll, its connections in turn |
//! | `conn.rs` | a connection: requests in, responses out |
//! | `conn/push.rs` | the next bytes of its stream |
//! | `conn/patience.rs` | how long it is waited for |
//! | `conn/upload.rs` | a request's body into a file |
//! | `page.rs` | what other threads see of the counters |

mod conn;
mod page;
mod start;
mod worker;

pub use conn::UploadPlan;
pub use page::KernelFigures;
pub use start::{KernelError, KernelPlan, KernelServers};

use super::content::open_direct;
use super::tree::Entry;
use drivers::kernel::Source;
use std::os::fd::{AsFd, BorrowedFd};

impl Source for Entry {
    fn id(&self) -> u64 {
        Self::id(self)
    }

    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn direct(&self) -> Option<BorrowedFd<'_>> {
        Self::direct(self, open_direct)
    }

    fn is_same(&self) -> bool {
        self.check()
    }

    fn is_gone(&self) -> bool {
        Self::is_gone(self)
    }
}

//! An interrupt as a descriptor that becomes readable.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// One interrupt of a function.
#[derive(Debug)]
pub struct Interrupt {
    file: OwnedFd,
    /// Bytes of one read: a count.
    count_bytes: usize,
    /// All causes of the function come by it.
    shared: bool,
    /// The configuration space of a function whose kernel driver masks the interrupt until it is told otherwise.
    masked_by_kernel: Option<File>,
}

impl Interrupt {
    /// An eventfd, rung by a message of its own among several (MSI-X).
    pub(super) const fn event(file: OwnedFd) -> Self {
        Self { file, count_bytes: 8, shared: false, masked_by_kernel: None }
    }

    /// An eventfd, rung by the one message that a function has without MSI-X (MSI).
    pub(super) const fn only_event(file: OwnedFd) -> Self {
        Self { file, count_bytes: 8, shared: true, masked_by_kernel: None }
    }

    /// `/dev/uioN`, whose driver masks INTx in the command register before it tells of one.
    pub(super) const fn line(file: OwnedFd, config: File) -> Self {
        Self { file, count_bytes: 4, shared: true, masked_by_kernel: Some(config) }
    }

    /// Whether all causes of the function share it: its line, or its only message. What is set for messages of MSI-X has no
    /// effect then, and causes stay until the function is asked for them.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.shared
    }

    /// Takes note of those that have come, and lets further ones come.
    ///
    /// # Errors
    /// What the kernel says: the function is gone, mostly.
    pub fn calm(&self) -> io::Result<()> {
        let mut count = [0; 8];
        match rustix::io::read(&self.file, &mut count[..self.count_bytes]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(config) = &self.masked_by_kernel {
            // The whole word: nobody else writes it while the function is ours (PCI 3.0 §6.2.2, bit 10).
            let mut command = [0; 2];
            config.read_exact_at(&mut command, 4)?;
            let word = u16::from_le_bytes(command) & !(1 << 10);
            config.write_all_at(&word.to_le_bytes(), 4)?;
        }
        Ok(())
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

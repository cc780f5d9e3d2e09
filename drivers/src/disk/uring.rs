//! Reads by io_uring.

use super::{Done, Read, resume_at};
use io_uring::{IoUring, opcode, types};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// One ring, and what the kernel has of ours.
///
/// Invariant **in flight**: from the push of an entry until its completion, its [`Read`] is in `slots` under the number
/// in the entry. So the file stays open and nobody else reaches the memory that the kernel writes.
pub(super) struct Uring<F> {
    ring: IoUring,
    slots: ManuallyDrop<Box<[Option<Flight<F>>]>>,
    free: Vec<usize>,
}

struct Flight<F> {
    read: Read<F>,
    /// Bytes that earlier tries brought.
    got: usize,
}

impl<F: AsFd> Uring<F> {
    pub(super) fn new(depth: u32) -> io::Result<Self> {
        let ring = IoUring::new(depth)?;
        let slots: Box<[_]> = (0..depth).map(|_| None).collect();
        let free = (0..slots.len()).rev().collect();
        Ok(Self { ring, slots: ManuallyDrop::new(slots), free })
    }

    /// Puts a read on the ring, `got` bytes of which are there already.
    pub(super) fn push(&mut self, read: Read<F>, got: usize) -> Result<(), Read<F>> {
        let Some(slot) = self.free.pop() else { return Err(read) };
        let flight = self.slots[slot].insert(Flight { read, got });
        let from = resume_at(got);
        let Read { file, offset, grant, len, .. } = &mut flight.read;
        let target = grant[from..*len].as_mut_ptr();
        let bytes = u32::try_from(*len - from).unwrap_or(u32::MAX);
        let entry = opcode::Read::new(types::Fd(file.as_fd().as_raw_fd()), target, bytes)
            .offset(*offset + from as u64)
            .build()
            .user_data(slot as u64);
        // SAFETY: *in flight*: the file is open and the bytes behind `target` are ours alone until the completion.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            // As many entries as slots: never full unless submitting failed.
            self.free.push(slot);
            if let Some(flight) = self.slots[slot].take() {
                return Err(flight.read);
            }
        }
        Ok(())
    }

    /// Tells the kernel. What it would not take now stays on the ring for the next time.
    pub(super) fn submit(&mut self) {
        if self.ring.submission().is_empty() {
            return;
        }
        if let Err(error) = self.ring.submit() {
            tracing::debug!("io_uring submit: {error}");
        }
    }

    pub(super) fn next_done(&mut self) -> Option<Done<F>> {
        loop {
            let completion = self.ring.completion().next()?;
            let slot = usize::try_from(completion.user_data()).ok();
            let flight = slot.and_then(|slot| Some((slot, self.slots.get_mut(slot)?.take()?)));
            // A number that we did not give: not ours to answer.
            let Some((slot, Flight { read, got })) = flight else { continue };
            self.free.push(slot);
            if let Some(done) = self.judge(read, got, completion.result()) {
                return Some(done);
            }
        }
    }

    /// Over, or to be gone on with.
    fn judge(&mut self, read: Read<F>, got: usize, result: i32) -> Option<Done<F>> {
        let result = match usize::try_from(result) {
            Ok(bytes) => {
                let now = (resume_at(got) + bytes).max(got);
                if now < read.want && now > got {
                    return self.again(read, now);
                }
                Ok(now)
            }
            Err(_) => match io::Error::from_raw_os_error(-result) {
                error if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                    return self.again(read, got);
                }
                error => Err(error),
            },
        };
        Some(Done { read, result })
    }

    fn again(&mut self, read: Read<F>, got: usize) -> Option<Done<F>> {
        match self.push(read, got) {
            Ok(()) => {
                self.submit();
                None
            }
            // Its own slot was freed just before, so there is one; if not, the caller may ask again.
            Err(read) => Some(Done { read, result: Err(io::ErrorKind::Interrupted.into()) }),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl<F> Uring<F> {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring keeps its descriptor open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl<F> Drop for Uring<F> {
    /// Waits for what is under way: reads of files end. Should the ring itself fail, what the kernel may still write to
    /// is forgotten, not freed.
    fn drop(&mut self) {
        while self.free.len() < self.slots.len() {
            if self.ring.submit_and_wait(1).is_err_and(|error| error.raw_os_error() != Some(libc::EINTR)) {
                return;
            }
            for completion in self.ring.completion() {
                let slot = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
                if let Some(flight) = self.slots.get_mut(slot).and_then(Option::take) {
                    drop(flight);
                    self.free.push(slot);
                }
            }
        }
        // SAFETY: dropped here and nowhere else, and not used after; no read is in flight.
        unsafe { ManuallyDrop::drop(&mut self.slots) };
    }
}

impl<F> std::fmt::Debug for Uring<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("in_flight", &(self.slots.len() - self.free.len()))
            .finish_non_exhaustive()
    }
}

//! Buffers for reads that the kernel does in its own time, aligned for `O_DIRECT`.
//!
//! ```text
//!   │ lead: room for a head │ data: chunk bytes, and an alignment more │
//!                    head ──┘└── the file's bytes, behind up to an alignment of others
//! ```

use crate::disk::DIRECT_ALIGN;
use memmap2::MmapMut;
use std::collections::VecDeque;
use std::io;

/// Where data begins: behind room for a head.
pub(super) const LEAD: usize = DIRECT_ALIGN;
const _: () = assert!(LEAD >= super::HEAD_MAX);

/// One buffer's read: what to ask of a file for a stretch of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Where to begin in the file.
    pub(super) offset: u64,
    /// Bytes to ask for.
    pub(super) bytes: usize,
    /// Bytes of these in front of those that are wanted.
    pub(super) skip: usize,
}

impl Reach {
    /// For `bytes` bytes from `offset` on; with `aligned`, as `O_DIRECT` wants it.
    pub(super) fn new(offset: u64, bytes: usize, aligned: bool) -> Self {
        if !aligned {
            return Self { offset, bytes, skip: 0 };
        }
        let skip = usize::try_from(offset % DIRECT_ALIGN as u64).unwrap_or(0);
        let bytes = (skip + bytes).next_multiple_of(DIRECT_ALIGN);
        Self { offset: offset - skip as u64, bytes, skip }
    }
}

/// Some buffers, which of them are free, and who waits for one.
#[derive(Debug)]
pub(super) struct Buffers {
    maps: Vec<MmapMut>,
    free: Vec<u16>,
    /// How many use each of them.
    users: Vec<u32>,
    /// Flows, each with its generation when it came.
    waiting: VecDeque<(u32, u32)>,
}

impl Buffers {
    /// So many buffers for reads of at most `chunk` bytes.
    pub(super) fn new(count: u16, chunk: usize) -> io::Result<Self> {
        let bytes = LEAD + chunk.next_multiple_of(DIRECT_ALIGN) + DIRECT_ALIGN;
        let maps = (0..count).map(|_| MmapMut::map_anon(bytes)).collect::<io::Result<_>>()?;
        let users = vec![0; count.into()];
        Ok(Self { maps, free: (0..count).rev().collect(), users, waiting: VecDeque::new() })
    }

    pub(super) fn take(&mut self) -> Option<u16> {
        let buffer = self.free.pop()?;
        self.users[usize::from(buffer)] = 1;
        Some(buffer)
    }

    /// One more uses it: each [gives](Self::give) it back.
    pub(super) fn share(&mut self, buffer: u16) {
        self.users[usize::from(buffer)] += 1;
    }

    /// This flow waits for one.
    pub(super) fn wait(&mut self, flow: u32, generation: u32) {
        self.waiting.push_back((flow, generation));
    }

    /// Wakes as many of those who wait as there are free buffers; `wake` says whether the flow is there still. To be called in each
    /// turn, not when one becomes free: whoever is woken may be gone before he takes it, and would take the news along.
    pub(super) fn wake_waiters(&mut self, mut wake: impl FnMut(u32, u32) -> bool) {
        let mut left = self.free.len();
        while left > 0
            && let Some((flow, generation)) = self.waiting.pop_front()
        {
            left -= usize::from(wake(flow, generation));
        }
    }

    /// Whether a quarter of them is free: then one may be kept for a while.
    pub(super) fn are_plenty(&self) -> bool {
        self.free.len() * 4 > self.maps.len()
    }

    /// One less uses it; after the last it is free.
    pub(super) fn give(&mut self, buffer: u16) {
        let users = &mut self.users[usize::from(buffer)];
        *users -= 1;
        if *users == 0 {
            self.free.push(buffer);
        }
    }

    /// The whole buffer. Not while the kernel works in it.
    pub(super) fn bytes(&mut self, buffer: u16) -> &mut [u8] {
        &mut self.maps[usize::from(buffer)]
    }

    /// The same, to be sent from: also while the kernel does.
    pub(super) fn content(&self, buffer: u16) -> &[u8] {
        &self.maps[usize::from(buffer)]
    }

    /// Where data begins.
    pub(super) fn data(&mut self, buffer: u16) -> *mut u8 {
        self.maps[usize::from(buffer)][LEAD..].as_mut_ptr()
    }

    /// Address and length of each.
    pub(super) fn vectors(&mut self) -> Vec<libc::iovec> {
        let vector =
            |map: &mut MmapMut| libc::iovec { iov_base: map.as_mut_ptr().cast(), iov_len: map.len() };
        self.maps.iter_mut().map(vector).collect()
    }

    /// Moves a head of `head` bytes, which was put at the beginning, to right before the data behind `skip`; returns
    /// where it is.
    pub(super) fn join(&mut self, buffer: u16, head: usize, skip: usize) -> usize {
        let at = LEAD + skip - head;
        self.bytes(buffer).copy_within(..head, at);
        at
    }
}

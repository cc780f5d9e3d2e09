//! Atomics and cells: the standard library's, or loom's when its model checker runs the tests.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};

/// One slot of a ring: written by one side, read by the other, never both at a time.
#[cfg(not(loom))]
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct SlotCell<T>(core::cell::UnsafeCell<T>);

/// The same under loom, which reports a read and a write that no happens-before separates.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct SlotCell<T>(loom::cell::UnsafeCell<T>);

impl<T: Copy> SlotCell<T> {
    #[cfg(not(loom))]
    pub(crate) fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    #[cfg(loom)]
    pub(crate) fn new(value: T) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    /// # Safety
    /// The peer does not write this slot now.
    pub(crate) unsafe fn read(&self) -> T {
        #[cfg(not(loom))]
        // SAFETY: the pointer is the cell's own, and our caller promises that nobody writes.
        let value = unsafe { self.0.get().read() };
        #[cfg(loom)]
        // SAFETY: as above; loom checks the promise.
        let value = self.0.with(|slot| unsafe { slot.read() });
        value
    }

    /// # Safety
    /// The peer neither reads nor writes this slot now.
    pub(crate) unsafe fn write(&self, value: T) {
        #[cfg(not(loom))]
        // SAFETY: the pointer is the cell's own, and our caller promises that nobody else touches it.
        unsafe {
            self.0.get().write(value);
        };
        #[cfg(loom)]
        // SAFETY: as above; loom checks the promise.
        self.0.with_mut(|slot| unsafe { slot.write(value) });
    }
}

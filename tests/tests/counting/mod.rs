//! The system's allocator, which tells the test's own `count` of each allocation: whose are counted differs from test to test.
#![expect(
    unsafe_code,
    reason = "an allocator can only be replaced by an unsafe trait; each call is handed on as it came"
)]

use super::count;
use std::alloc::{GlobalAlloc, Layout, System};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: *system*: each method does what the system's allocator does, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: *system*: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: *system*: `at` came from `alloc` above, so from the system, with this `layout`.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: *system*: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

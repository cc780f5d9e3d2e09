//! Registers of a device: a window of its address space, or a model of one.
//!
//! Invariants: **map**: a mapped window is valid for reads and writes of its bytes while its keeper lives, whatever
//! becomes of the device (see `mapping.rs`); **inside**: every access was seen to lie in the window, aligned to its size.

use super::Function;
use super::mapping::Mapping;
use core::fmt::Debug;
use core::sync::atomic::{Ordering, fence};
use std::sync::Arc;

/// A device made of code: what its registers do when they are read and written.
pub trait Model: Debug + Send + Sync {
    /// The value of `bytes` bytes at an offset of a BAR.
    fn read(&self, bar: u8, offset: usize, bytes: usize) -> u64;
    /// `bytes` bytes are written there.
    fn write(&self, bar: u8, offset: usize, bytes: usize, value: u64);
}

/// A window of registers.
///
/// Reads and writes are volatile and little-endian, as PCI is. Their order among each other is the program's; what was
/// written to *memory* before is visible to the device only after a [`Doorbell`].
#[derive(Clone, Debug)]
pub struct Registers {
    place: Place,
    start: usize,
    bytes: usize,
    /// Behind the mapping: a function is not given back while somebody has its registers mapped.
    _function: Option<Arc<Function>>,
}

#[derive(Clone, Debug)]
enum Place {
    Mapped(Arc<Mapping>),
    Model(Arc<dyn Model>, u8),
}

impl Registers {
    /// All of a mapping.
    pub(super) fn mapped(mapping: Mapping) -> Self {
        let bytes = mapping.bytes();
        Self { place: Place::Mapped(Arc::new(mapping)), start: 0, bytes, _function: None }
    }

    /// A BAR of a model.
    pub(super) fn model(model: Arc<dyn Model>, bar: u8, bytes: usize) -> Self {
        Self { place: Place::Model(model, bar), start: 0, bytes, _function: None }
    }

    /// Keeps the function until the last of these is gone.
    pub(super) fn of(self, function: &Arc<Function>) -> Self {
        Self { _function: Some(Arc::clone(function)), ..self }
    }

    /// How many bytes there are.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A part, such as a capability of the device names one; `None` when it lies outside.
    #[must_use]
    pub fn part(&self, offset: usize, bytes: usize) -> Option<Self> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then(|| Self { start: self.start + offset, bytes, ..self.clone() })
    }

    /// Reads a register.
    ///
    /// # Panics
    /// If it does not lie inside, aligned: programs choose offsets, devices don't. What a device names, [`part`](Self::part)
    /// looks at first.
    #[inline]
    #[must_use]
    pub fn read<T: Width>(&self, offset: usize) -> T {
        let at = self.inside::<T>(offset);
        match &self.place {
            Place::Mapped(mapping) => {
                let place = mapping.base().as_ptr().wrapping_add(at).cast::<T>();
                // SAFETY: *map* and *inside*; every bit pattern is a value of the sealed integers.
                T::of_device(unsafe { place.read_volatile() })
            }
            Place::Model(model, bar) => T::narrowed(model.read(*bar, at, size_of::<T>())),
        }
    }

    /// Writes a register.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    #[inline]
    pub fn write<T: Width>(&self, offset: usize, value: T) {
        let at = self.inside::<T>(offset);
        match &self.place {
            Place::Mapped(mapping) => {
                let place = mapping.base().as_ptr().wrapping_add(at).cast::<T>();
                // SAFETY: *map* and *inside*.
                unsafe { place.write_volatile(value.for_device()) };
            }
            Place::Model(model, bar) => model.write(*bar, at, size_of::<T>(), value.widened()),
        }
    }

    /// Changes the bits of a register that `mask` names to those of `value`.
    pub fn change(&self, offset: usize, mask: u32, value: u32) {
        let old: u32 = self.read(offset);
        self.write(offset, (old & !mask) | (value & mask));
    }

    /// A register that is written to tell the device of something in memory.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    #[must_use]
    pub fn doorbell<T: Width>(&self, offset: usize) -> Doorbell<T> {
        let _ = self.inside::<T>(offset);
        Doorbell { registers: self.clone(), offset, _width: core::marker::PhantomData }
    }

    #[inline]
    fn inside<T: Width>(&self, offset: usize) -> usize {
        let end = offset.checked_add(size_of::<T>());
        assert!(
            end.is_some_and(|end| end <= self.bytes) && offset.is_multiple_of(size_of::<T>()),
            "a register outside of its window"
        );
        self.start + offset
    }
}

/// A register that tells the device to look into memory. It owns its fence: nobody can forget it.
#[derive(Clone, Debug)]
pub struct Doorbell<T> {
    registers: Registers,
    offset: usize,
    _width: core::marker::PhantomData<T>,
}

impl<T: Width> Doorbell<T> {
    /// Makes everything that was written to memory before visible to the device, and then writes the register.
    #[inline]
    pub fn ring(&self, value: T) {
        before_device();
        self.registers.write(self.offset, value);
    }
}

/// What was written to memory before comes before every register that is written behind.
#[inline]
fn before_device() {
    // x86 keeps stores in order, those to registers among them; only the compiler must be kept from moving them.
    #[cfg(target_arch = "x86_64")]
    fence(Ordering::Release);
    // Arm keeps no order between the two kinds of memory: `dma_wmb` of arch/arm64/include/asm/barrier.h.
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier reads and writes nothing.
    unsafe {
        core::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fence(Ordering::SeqCst);
    #[cfg(target_arch = "aarch64")]
    fence(Ordering::Release);
}

/// An integer that a register can be read and written as.
pub trait Width: Copy + sealed::Sealed {
    #[doc(hidden)]
    fn of_device(self) -> Self;
    #[doc(hidden)]
    fn for_device(self) -> Self;
    #[doc(hidden)]
    fn widened(self) -> u64;
    #[doc(hidden)]
    fn narrowed(value: u64) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! width {
    ($($number:ty),*) => {$(
        impl sealed::Sealed for $number {}
        impl Width for $number {
            #[inline]
            fn of_device(self) -> Self {
                Self::from_le(self)
            }
            #[inline]
            fn for_device(self) -> Self {
                self.to_le()
            }
            fn widened(self) -> u64 {
                self.into()
            }
            #[expect(clippy::allow_attributes, reason = "the widest is not narrowed")]
            #[allow(clippy::cast_possible_truncation, reason = "the lower part is what was asked for")]
            fn narrowed(value: u64) -> Self {
                value as Self
            }
        }
    )*};
}
width!(u8, u16, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Registers that keep what is written.
    #[derive(Debug, Default)]
    struct Cells(Mutex<std::collections::BTreeMap<(u8, usize), u64>>);

    impl Model for Cells {
        fn read(&self, bar: u8, offset: usize, _bytes: usize) -> u64 {
            self.0.lock().expect("no panic").get(&(bar, offset)).copied().unwrap_or(u64::MAX)
        }
        fn write(&self, bar: u8, offset: usize, _bytes: usize, value: u64) {
            self.0.lock().expect("no panic").insert((bar, offset), value);
        }
    }

    #[test]
    fn widths_parts_and_bits() {
        let registers = Registers::model(Arc::new(Cells::default()), 4, 64);
        registers.write(8, 0xdead_beef_u32);
        assert_eq!((registers.read::<u32>(8), registers.read::<u8>(8)), (0xdead_beef, 0xef));
        assert_eq!(registers.read::<u16>(12), 0xffff);
        registers.change(8, 0xff, 0x01);
        let part = registers.part(8, 8).expect("inside");
        assert_eq!((part.read::<u32>(0), part.bytes()), (0xdead_be01, 8));
        part.doorbell::<u16>(4).ring(7);
        assert_eq!(registers.read::<u16>(12), 7);
        assert!(registers.part(60, 8).is_none() && registers.part(usize::MAX, 2).is_none());
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn what_is_outside_a_part_is_not_touched() {
        let registers = Registers::model(Arc::new(Cells::default()), 0, 64);
        let _: u32 = registers.part(0, 4).expect("inside").read(4);
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn what_is_not_aligned_is_not_touched() {
        Registers::model(Arc::new(Cells::default()), 0, 64).write(2, 1u32);
    }
}

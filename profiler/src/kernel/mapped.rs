//! Array maps seen as memory: read, and zeroed, where the kernel programs write them.

use std::{
    marker::PhantomData,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
};

use rustix::mm::{MapFlags, ProtFlags};

use super::KernelError;

/// An array map of `T`, mapped shared. `T` must be a contract type: plain integers, for which any bits are a value.
pub struct MappedArray<T> {
    base: NonNull<T>,
    length: usize,
    bytes: usize,
    of: PhantomData<T>,
}

// SAFETY: the mapping is owned and every access goes through volatile reads and writes of plain integers.
unsafe impl<T: Send> Send for MappedArray<T> {}

impl<T> MappedArray<T> {
    /// Maps the array behind `fd`, which must have `length` elements of `T` (rounded up to eight bytes each by the kernel;
    /// contract types that are mapped are multiples of eight, or single bytes are handled by [`Self::stride`]).
    pub fn map(name: &'static str, fd: BorrowedFd<'_>, length: usize) -> Result<Self, KernelError> {
        let bytes = length * Self::stride();
        let bytes = bytes.next_multiple_of(rustix::param::page_size());
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; it aliases nothing of ours.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        }
        .map_err(|error| KernelError::Map { map: name, source: error.into() })?;
        let base = NonNull::new(base.cast::<T>())
            .ok_or(KernelError::Map { map: name, source: std::io::Error::other("mapped at address 0") })?;
        Ok(Self { base, length, bytes, of: PhantomData })
    }

    /// Bytes from one element to the next.
    pub const fn stride() -> usize {
        size_of::<T>().next_multiple_of(8)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Address of an element, or none beyond the end.
    pub fn at(&self, index: usize) -> Option<*mut T> {
        // SAFETY: the element lies inside the mapping.
        (index < self.length).then(|| unsafe { self.base.as_ptr().byte_add(index * Self::stride()) })
    }

    /// A copy of an element. What a kernel program writes meanwhile may be half in it.
    pub fn read(&self, index: usize) -> Option<T>
    where
        T: Copy,
    {
        // SAFETY: inside the mapping and aligned; contract types hold plain integers, so any bits are a value.
        self.at(index).map(|place| unsafe { ptr::read_volatile(place) })
    }

    /// Stores an element.
    pub fn write(&self, index: usize, value: T) {
        if let Some(place) = self.at(index) {
            // SAFETY: inside the mapping and aligned.
            unsafe { ptr::write_volatile(place, value) };
        }
    }

    /// Zeroes an element.
    pub fn zero(&self, index: usize) {
        if let Some(place) = self.at(index) {
            // SAFETY: inside the mapping; zero is a value of every contract type.
            unsafe { ptr::write_bytes(place.cast::<u8>(), 0, Self::stride()) };
        }
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, with the length it was made with; nothing points into it any more, since
        // addresses are only used within calls. An error would mean a bad address, which it is not.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(result.is_ok(), "{result:?}");
    }
}

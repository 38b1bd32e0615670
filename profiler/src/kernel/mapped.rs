//! Array maps seen as memory: read, and zeroed, where the kernel programs write them.

use std::{
    marker::PhantomData,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
};

use rustix::mm::{MapFlags, ProtFlags};

use super::KernelError;

/// Words of 32 bits in a cache line.
const LINE: usize = 16;

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

    /// Takes out what an element holds, 32 bits each, and leaves zeros. `take` is given one cache line after another that holds
    /// anything, with the position of its first word in the element: of a large element that holds little, most is neither
    /// copied nor written.
    pub fn take_lines(&self, index: usize, mut take: impl FnMut(usize, [u32; LINE])) {
        const { assert!(size_of::<T>().is_multiple_of(size_of::<[u32; LINE]>()), "whole lines") };
        let Some(place) = self.at(index) else { return };
        let first = place.cast::<[u32; LINE]>();
        for line in 0..size_of::<T>() / size_of::<[u32; LINE]>() {
            // SAFETY: inside the element, by the bound of the loop, and as aligned as words are. Any bits are a value.
            let words = unsafe { first.add(line).read_volatile() };
            if words.iter().fold(0, |any, word| any | word) != 0 {
                // SAFETY: as above; zero is a value of every contract type.
                unsafe { first.add(line).write_volatile([0; LINE]) };
                take(line * LINE, words);
            }
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

#[cfg(test)]
pub(super) mod testing {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::MappedArray;
    use crate::kernel::KernelError;

    /// An array in memory of our own, as the kernel would lay it out, with the file behind it.
    pub fn in_memory<T>(length: usize) -> Result<(OwnedFd, MappedArray<T>), Box<dyn std::error::Error>> {
        let file = memfd_create("array", MemfdFlags::CLOEXEC)?;
        let bytes = (length * MappedArray::<T>::stride()).next_multiple_of(rustix::param::page_size());
        ftruncate(&file, bytes as u64)?;
        let array = map(&file, length)?;
        Ok((file, array))
    }

    /// Maps the file once more.
    pub fn map<T>(file: &OwnedFd, length: usize) -> Result<MappedArray<T>, KernelError> {
        MappedArray::map("ARRAY", file.as_fd(), length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn what_one_side_writes_the_other_reads() -> TestResult {
        let (file, ours) = testing::in_memory::<[u64; 3]>(100)?;
        let theirs = testing::map::<[u64; 3]>(&file, 100)?;
        ours.write(7, [1, 2, 3]);
        ours.write(99, [4, 5, 6]);
        assert_eq!(theirs.read(7), Some([1, 2, 3]));
        assert_eq!(theirs.read(99), Some([4, 5, 6]));
        assert_eq!(theirs.read(8), Some([0; 3]));
        theirs.zero(7);
        assert_eq!(ours.read(7), Some([0; 3]));
        assert_eq!(ours.read(99), Some([4, 5, 6]));
        Ok(())
    }

    #[test]
    fn single_bytes_lie_eight_apart_as_in_the_kernel() -> TestResult {
        let (file, bytes) = testing::in_memory::<u8>(16)?;
        let words = testing::map::<u64>(&file, 16)?;
        bytes.write(3, 0xab);
        assert_eq!(words.read(3), Some(u64::from_ne_bytes([0xab, 0, 0, 0, 0, 0, 0, 0])));
        assert_eq!(words.read(2), Some(0));
        words.write(4, u64::MAX);
        bytes.zero(4);
        assert_eq!(words.read(4), Some(0));
        Ok(())
    }

    #[test]
    fn there_is_nothing_beyond_the_end() -> TestResult {
        let (_file, array) = testing::in_memory::<u32>(5)?;
        assert_eq!(array.len(), 5);
        array.write(5, 1);
        array.zero(usize::MAX);
        assert_eq!(array.read(5), None);
        assert!(array.at(4).is_some() && array.at(5).is_none());
        Ok(())
    }

    #[test]
    fn a_map_that_cannot_be_mapped_is_named() -> TestResult {
        let (nobody_reads, _) = std::io::pipe()?;
        let error = MappedArray::<u64>::map("LEDGER", std::os::fd::AsFd::as_fd(&nobody_reads), 1);
        let Err(error) = error else { return Err("a pipe was mapped".into()) };
        assert!(error.to_string().contains("LEDGER"), "{error}");
        Ok(())
    }
}

//! Who waited behind whom: a sum for each pair of containers. In: the map. Out: its entries, some hundreds at each call.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use aya::maps::{HashMap, MapData, MapError};
use aya_obj::generated::bpf_cmd::BPF_MAP_LOOKUP_BATCH;

use super::sys;

/// The map of sums.
pub struct Pairs {
    map: HashMap<MapData, u64, u64>,
    /// The same map.
    fd: OwnedFd,
    capacity: usize,
}

impl Pairs {
    /// `fd` leads to the same map, which has room for `capacity` pairs.
    pub fn new(map: HashMap<MapData, u64, u64>, fd: OwnedFd, capacity: u32) -> Self {
        Self { map, fd, capacity: capacity as usize }
    }

    /// All pairs with their sums. One that is being added or removed may be missing.
    pub fn read(&self) -> Vec<(u64, u64)> {
        self.read_in_batches().unwrap_or_else(|error| {
            tracing::debug!("pairs are read one by one: {error}");
            self.map.iter().filter_map(Result::ok).collect()
        })
    }

    /// Removes a pair.
    pub fn remove(&mut self, key: u64) -> Result<(), MapError> {
        self.map.remove(&key)
    }

    /// One by one, with two calls each, they were a tenth of the daemon's work on a node of two hundred containers.
    fn read_in_batches(&self) -> io::Result<Vec<(u64, u64)>> {
        let (mut keys, mut sums) = (vec![0_u64; self.capacity], vec![0_u64; self.capacity]);
        // Where the kernel has got to: the number of a bucket.
        let mut cursor = 0_u32;
        let mut filled = 0;
        while filled < self.capacity {
            let mut attr = sys::empty_attr();
            // SAFETY: a batch look-up reads this member of the union; plain integers, zero before.
            let batch = unsafe { &mut attr.batch };
            batch.map_fd = self.fd.as_raw_fd() as u32;
            batch.in_batch = if filled == 0 { 0 } else { (&raw const cursor) as u64 };
            batch.out_batch = (&raw mut cursor) as u64;
            batch.keys = keys[filled..].as_mut_ptr() as u64;
            batch.values = sums[filled..].as_mut_ptr() as u64;
            batch.count = (self.capacity - filled) as u32;
            let result = sys::bpf(BPF_MAP_LOOKUP_BATCH as u32, &mut attr);
            let is_last = match result {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) => return Err(error),
            };
            // SAFETY: written by the call, before it by us; any value is a number.
            filled += unsafe { attr.batch.count } as usize;
            if is_last {
                break;
            }
        }
        Ok(keys.into_iter().zip(sums).take(filled).collect())
    }
}

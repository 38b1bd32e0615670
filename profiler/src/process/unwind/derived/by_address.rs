//! What is known of each instruction. In: addresses of one image's code. Out: values, found without hashing, in memory that grows
//! with the code that was reached.

/// Addresses of one page.
const PAGE: usize = 4096;

/// Values by address. Addresses below the first or beyond the last hold nothing.
#[derive(Debug)]
pub(super) struct ByAddress<T> {
    first: u64,
    /// For each address of a page, one more than the place of its value; 0 where there is none.
    pages: Vec<Option<Box<[u32; PAGE]>>>,
    values: Vec<(u64, T)>,
}

impl<T> ByAddress<T> {
    /// For addresses from `first` to before `end`.
    pub fn new(first: u64, end: u64) -> Self {
        let pages = end.saturating_sub(first).div_ceil(PAGE as u64);
        Self { first, pages: (0..pages).map(|_| None).collect(), values: Vec::new() }
    }

    fn place(&self, address: u64) -> Option<usize> {
        let at = usize::try_from(address.checked_sub(self.first)?).ok()?;
        let slot = self.pages.get(at / PAGE)?.as_ref()?.get(at % PAGE)?;
        (*slot as usize).checked_sub(1)
    }

    /// The value at an address.
    pub fn get(&self, address: u64) -> Option<&T> {
        self.values.get(self.place(address)?).map(|(_, value)| value)
    }

    /// As above, to be changed.
    pub fn get_mut(&mut self, address: u64) -> Option<&mut T> {
        let place = self.place(address)?;
        self.values.get_mut(place).map(|(_, value)| value)
    }

    /// Sets the value at an address.
    pub fn insert(&mut self, address: u64, value: T) {
        if let Some(known) = self.get_mut(address) {
            *known = value;
            return;
        }
        let at = address.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some((at, page)) = at.and_then(|at| Some((at, self.pages.get_mut(at / PAGE)?))) else { return };
        let page = page.get_or_insert_with(|| Box::new([0; PAGE]));
        if let Some(slot) = page.get_mut(at % PAGE) {
            self.values.push((address, value));
            *slot = self.values.len() as u32;
        }
    }

    /// Every value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.values.iter().map(|(address, value)| (*address, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_where_they_were_put_and_nowhere_else() {
        let mut map = ByAddress::new(0x1000, 0x3001);
        for address in [0x1000, 0x1fff, 0x2000, 0x3000] {
            assert!(map.get(address).is_none());
            map.insert(address, address * 2);
        }
        for outside in [0, 0xfff, 0x4000, u64::MAX] {
            map.insert(outside, 7);
            assert!(map.get(outside).is_none(), "{outside:#x}");
        }
        map.insert(0x2000, 1);
        assert_eq!((map.get(0x1fff), map.get(0x2000), map.get(0x2001)), (Some(&0x3ffe), Some(&1), None));
        assert_eq!(map.iter().count(), 4);
    }
}

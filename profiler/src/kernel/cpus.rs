//! The machine's CPUs, as sysfs lists them.

use std::{collections::BTreeSet, io};

/// CPUs that are online.
pub fn online() -> io::Result<BTreeSet<u32>> {
    list("/sys/devices/system/cpu/online")
}

/// Number of possible CPUs: one more than the highest number that any may get.
pub fn possible() -> io::Result<u32> {
    Ok(list("/sys/devices/system/cpu/possible")?.last().map_or(1, |last| last + 1))
}

fn list(path: &str) -> io::Result<BTreeSet<u32>> {
    parse(&std::fs::read_to_string(path)?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not a list of CPUs")))
}

/// `0-3,8,10-11`
fn parse(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last > 65_535 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_single_cpus_are_read() {
        assert_eq!(parse("0-2,5\n"), Some([0, 1, 2, 5].into()));
        assert_eq!(parse(""), Some(BTreeSet::new()));
        assert_eq!(parse("0-x"), None);
        assert_eq!(parse("0-4000000000"), None);
    }

    #[test]
    fn this_machine_has_a_cpu() -> io::Result<()> {
        assert!(online()?.len() as u32 <= possible()?);
        assert!(!online()?.is_empty());
        Ok(())
    }
}

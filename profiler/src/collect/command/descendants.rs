//! The processes that descend from one. In: /proc. Out: their ids.

use std::fs;

/// Processes that descend from `ancestor`, children before theirs; those whose parent has ended are not found.
pub(super) fn of(ancestor: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parents: Vec<(i32, i32)> = pids
        .filter_map(|pid| Some((pid, parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    below(ancestor, &parents)
}

/// `PID (NAME) STATE PARENT …`, and a name may hold anything.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn below(ancestor: i32, parents: &[(i32, i32)]) -> Vec<i32> {
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        for (pid, _) in parents.iter().filter(|(_, of)| *of == parent) {
            if !found.contains(pid) {
                found.push(*pid);
            }
        }
        next += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_behind_any_name() {
        assert_eq!(parent_in("12 (a) S 3) R 7 12 12 0"), Some(7));
        assert_eq!(parent_in("12 (sh"), None);
    }

    #[test]
    fn grandchildren_descend_and_siblings_do_not() {
        let parents = [(10, 1), (11, 10), (12, 11), (20, 1), (13, 10), (1, 0)];
        assert_eq!(below(10, &parents), [11, 13, 12]);
        assert!(below(12, &parents).is_empty());
    }
}

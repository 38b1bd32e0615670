//! How recordings keep containers: each by itself, and the system calls of all in columns.
//!
//! System calls are most of a recording of many containers. Where each figure stands beside its like, and the calls of one
//! name beside one another, half of their bytes are enough: no field's name is repeated, and neighbours resemble one another.
//! Up to version 2 of the format containers are a list, and each holds its calls itself; that is read as well.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        Error as _, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
    ser::{Error as _, SerializeStruct},
};

use super::{Container, Errno, Histogram, SyscallStats};

/// Rows that are read or written at most: twenty thousand containers with two hundred kinds of call each. It bounds what few
/// bytes of a file become in memory.
const MOST_ROWS: usize = 4 << 20;

/// Writes them.
pub fn serialize<S: Serializer>(containers: &[Container], serializer: S) -> Result<S::Ok, S::Error> {
    let mut rows: Vec<Row<'_>> = (0_u32..)
        .zip(containers)
        .flat_map(|(container, of)| of.syscalls.iter().map(move |stats| Row { name: 0, container, stats }))
        .collect();
    if rows.len() > MOST_ROWS {
        return Err(S::Error::custom(format_args!("{} kinds of system call, more than {MOST_ROWS}", rows.len())));
    }
    rows.sort_by(|a, b| (&a.stats.name, a.container).cmp(&(&b.stats.name, b.container)));
    let mut names: Vec<&str> = Vec::new();
    for row in &mut rows {
        if names.last() != Some(&row.stats.name.as_str()) {
            names.push(&row.stats.name);
        }
        row.name = names.len() - 1;
    }
    let mut stored = serializer.serialize_struct("Containers", 2)?;
    stored.serialize_field("list", containers)?;
    stored.serialize_field("syscalls", &Columns { names: &names, rows: &rows })?;
    stored.end()
}

/// One system call of one container.
struct Row<'p> {
    /// Place of its name among the names.
    name: usize,
    container: u32,
    stats: &'p SyscallStats,
}

struct Columns<'p> {
    names: &'p [&'p str],
    rows: &'p [Row<'p>],
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = self.rows;
        let mut stored = serializer.serialize_struct("Syscalls", 13)?;
        stored.serialize_field("names", self.names)?;
        stored.serialize_field("name", &column(rows, |row| [row.name]))?;
        stored.serialize_field("container", &column(rows, |row| [row.container]))?;
        stored.serialize_field("count", &column(rows, |row| [row.stats.count]))?;
        stored.serialize_field("bytes", &column(rows, |row| [row.stats.bytes]))?;
        stored.serialize_field("total_ns", &column(rows, |row| [row.stats.total_ns]))?;
        stored.serialize_field("max_ns", &column(rows, |row| [row.stats.max_ns]))?;
        stored.serialize_field("errnos", &column(rows, |row| [row.stats.errors.len()]))?;
        stored.serialize_field("errno", &column(rows, |row| row.stats.errors.keys().copied()))?;
        stored.serialize_field("errno_count", &column(rows, |row| row.stats.errors.values().copied()))?;
        stored.serialize_field("bucket", &column(rows, |row| [row.stats.latency.parts().0]))?;
        stored.serialize_field("buckets", &column(rows, |row| [row.stats.latency.parts().1.len()]))?;
        stored.serialize_field("bucket_count", &column(rows, |row| row.stats.latency.parts().1.iter().copied()))?;
        stored.end()
    }
}

/// What each row has for a column, one after the other.
struct Column<'p, F> {
    rows: &'p [Row<'p>],
    values: F,
}

fn column<'p, F, V>(rows: &'p [Row<'p>], values: F) -> Column<'p, F>
where
    F: Fn(&'p Row<'p>) -> V,
    V: IntoIterator<Item: Serialize>,
{
    Column { rows, values }
}

impl<'p, F, V> Serialize for Column<'p, F>
where
    F: Fn(&'p Row<'p>) -> V,
    V: IntoIterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.iter().flat_map(&self.values))
    }
}

/// Reads them.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Container>, D::Error> {
    deserializer.deserialize_any(EitherForm)
}

struct EitherForm;

impl<'de> Visitor<'de> for EitherForm {
    type Value = Vec<Container>;

    fn expecting(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        into.write_str("containers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        let containers: Vec<Container> = Vec::deserialize(SeqAccessDeserializer::new(list))?;
        // Columns could not hold them, and what was read must be writable.
        match containers.iter().find_map(call_told_twice) {
            Some(name) => Err(A::Error::custom(format_args!("a container has {name} twice"))),
            None => Ok(containers),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let Stored { mut list, syscalls } = Stored::deserialize(MapAccessDeserializer::new(map))?;
        if list.iter().any(|container| !container.syscalls.is_empty()) {
            return Err(A::Error::custom("a container has its system calls itself where they stand in columns"));
        }
        syscalls.give_to(&mut list).map_err(A::Error::custom)?;
        Ok(list)
    }
}

fn call_told_twice(container: &Container) -> Option<&str> {
    let mut names: Vec<&str> = container.syscalls.iter().map(|call| call.name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

#[derive(Deserialize)]
struct Stored {
    list: Vec<Container>,
    #[serde(default)]
    syscalls: StoredSyscalls,
}

/// The columns. All have one number for each row, but `errno` and `errno_count`, which have as many as `errnos` says, and
/// `bucket_count`, which has as many as `buckets` says, the first of bucket number `bucket`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredSyscalls {
    names: Vec<String>,
    name: Vec<u32>,
    container: Vec<u32>,
    count: Vec<u64>,
    bytes: Vec<u64>,
    total_ns: Vec<u64>,
    max_ns: Vec<u64>,
    errnos: Vec<u32>,
    errno: Vec<Errno>,
    errno_count: Vec<u64>,
    bucket: Vec<u32>,
    buckets: Vec<u32>,
    bucket_count: Vec<u64>,
}

impl StoredSyscalls {
    /// Gives each container its own, the largest total time first.
    fn give_to(self, containers: &mut [Container]) -> Result<(), String> {
        let rows = self.name.len();
        if rows > MOST_ROWS {
            return Err(format!("{rows} kinds of system call, more than {MOST_ROWS}"));
        }
        let lengths = [
            self.container.len(),
            self.count.len(),
            self.bytes.len(),
            self.total_ns.len(),
            self.max_ns.len(),
            self.errnos.len(),
            self.bucket.len(),
            self.buckets.len(),
        ];
        if lengths.iter().any(|length| *length != rows) {
            return Err(format!("the columns of {rows} system calls have {lengths:?} rows"));
        }
        let sum = |lengths: &[u32]| lengths.iter().map(|length| u64::from(*length)).sum::<u64>();
        let (errors, counts) = (self.errno_count.len() as u64, self.bucket_count.len() as u64);
        if sum(&self.errnos) != errors || self.errno.len() as u64 != errors || sum(&self.buckets) != counts {
            return Err("the columns of system calls have more or fewer errors or buckets than they say".to_owned());
        }
        if !self.names.is_sorted_by(|a, b| a < b) {
            return Err("the names of system calls are not in order".to_owned());
        }
        let mut errors = self.errno.into_iter().zip(self.errno_count);
        let mut counts = self.bucket_count.into_iter();
        let mut before = None;
        for row in 0..rows {
            let at = (self.name[row], self.container[row]);
            let (Some(name), Some(container)) = (self.names.get(at.0 as usize), containers.get_mut(at.1 as usize))
            else {
                return Err(format!(
                    "a system call has name {} and container {}, of which there are fewer",
                    at.0, at.1
                ));
            };
            if before.is_some_and(|before| before >= at) {
                return Err(format!("system call {} of container {} is not in order", at.0, at.1));
            }
            before = Some(at);
            let (errnos, buckets) = (self.errnos[row] as usize, self.buckets[row] as usize);
            let (errors, counts) = (errors.by_ref().take(errnos), counts.by_ref().take(buckets));
            let stats = SyscallStats {
                name: name.clone(),
                count: self.count[row],
                errors: errors.collect::<BTreeMap<_, _>>(),
                bytes: self.bytes[row],
                total_ns: self.total_ns[row],
                max_ns: self.max_ns[row],
                latency: Histogram::from_first(self.bucket[row], counts.collect()),
            };
            container.syscalls.push(stats);
        }
        for container in containers {
            container.sort_syscalls();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::profile::{Profile, testing};

    type Changes = fn(&mut Value);

    #[test]
    fn calls_of_one_name_stand_beside_one_another_and_come_back_to_whom_they_belong() -> Result<(), serde_json::Error> {
        let profile = testing::profile();
        let stored = serde_json::to_value(&profile)?;
        let syscalls = &stored["containers"]["syscalls"];
        assert_eq!(stored["containers"]["list"][0]["syscalls"], Value::Null);
        let names: Vec<&str> = syscalls["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(names.is_sorted() && !names.is_empty(), "{names:?}");
        let rows: usize = profile.containers.iter().map(|container| container.syscalls.len()).sum();
        assert_eq!(syscalls["total_ns"].as_array().map(Vec::len), Some(rows));
        assert_eq!(serde_json::from_value::<Profile>(stored)?, profile);
        Ok(())
    }

    #[test]
    fn calls_that_columns_could_not_hold_are_refused() -> Result<(), serde_json::Error> {
        let call =
            json!({"name": "read", "count": 1, "errors": {}, "bytes": 0, "total_ns": 1, "max_ns": 1, "latency": {}});
        let stored = serde_json::to_value(testing::profile())?;
        let mut listed = stored.clone();
        listed["containers"] = stored["containers"]["list"].clone();
        listed["containers"][0]["syscalls"] = json!([call.clone()]);
        assert!(serde_json::from_value::<Profile>(listed.clone()).is_ok(), "as earlier versions had them");
        listed["containers"][0]["syscalls"] = json!([call.clone(), call.clone()]);
        let mut both = stored;
        both["containers"]["list"][0]["syscalls"] = json!([call]);
        for (wrong, expected) in [(listed, "has read twice"), (both, "where they stand in columns")] {
            let error = serde_json::from_value::<Profile>(wrong).map(drop).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains(expected)), "{error:?} should say {expected}");
        }
        Ok(())
    }

    #[test]
    fn columns_that_do_not_fit_one_another_are_refused() -> Result<(), serde_json::Error> {
        let wrong: [(Changes, &str); 7] = [
            (|calls| calls["count"] = json!([1]), "rows"),
            (|calls| calls["container"][0] = json!(99), "of which there are fewer"),
            (|calls| calls["name"][0] = json!(99), "of which there are fewer"),
            (|calls| calls["name"][2] = json!(0), "not in order"),
            (|calls| calls["bucket_count"] = json!([1]), "more or fewer errors or buckets"),
            (|calls| calls["names"][1] = calls["names"][0].clone(), "names of system calls are not in order"),
            (|calls| calls["errnos"][0] = json!(-1), "invalid value"),
        ];
        for (change, expected) in wrong {
            let mut stored = serde_json::to_value(testing::profile())?;
            change(&mut stored["containers"]["syscalls"]);
            let error = serde_json::from_value::<Profile>(stored).map(drop).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains(expected)), "{error:?} should say {expected}");
        }
        Ok(())
    }
}

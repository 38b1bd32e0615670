//! Reads a pprof file without the code that wrote it: the few protobuf fields that the tests look at.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;

/// A pprof profile with its tables resolved.
#[derive(Debug, Clone, Default)]
pub struct Pprof {
    /// `type/unit` of each value, in order.
    pub types: Vec<String>,
    /// All samples.
    pub samples: Vec<Sample>,
}

/// One sample.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// One value a type.
    pub values: Vec<i64>,
    /// Function names, root first.
    pub frames: Vec<String>,
    /// The binary, library or part of the kernel that the leaf lies in; empty if it is not known.
    pub module: String,
    /// Text labels.
    pub labels: BTreeMap<String, String>,
}

impl Sample {
    /// Whether these functions follow one another in the stack, root first.
    pub fn goes_through(&self, path: &[&str]) -> bool {
        self.frames.windows(path.len()).any(|window| window.iter().zip(path).all(|(frame, name)| frame == name))
    }

    /// Whether a label has this value.
    pub fn is(&self, label: &str, value: &str) -> bool {
        self.labels.get(label).is_some_and(|found| found == value)
    }
}

impl Pprof {
    /// Reads a `.pb.gz` file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Self::read_from(file).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Reads gzipped pprof.
    pub fn read_from(gzipped: impl Read) -> Result<Self> {
        let mut bytes = Vec::new();
        GzDecoder::new(gzipped).read_to_end(&mut bytes).context("not gzip")?;
        Self::parse(&bytes).context("not pprof")
    }

    /// Sum of one value type (`off_cpu/nanoseconds`) over the samples that `wanted` picks.
    pub fn sum(&self, value_type: &str, wanted: impl Fn(&Sample) -> bool) -> Result<f64> {
        let index = self
            .types
            .iter()
            .position(|name| name == value_type)
            .with_context(|| format!("no value type {value_type} among {:?}", self.types))?;
        Ok(self
            .samples
            .iter()
            .filter(|sample| wanted(sample))
            .filter_map(|sample| sample.values.get(index))
            .sum::<i64>() as f64)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut raw = Raw::default();
        for field in fields(bytes) {
            let (number, value) = field?;
            match (number, value) {
                (1, Field::Bytes(bytes)) => raw.types.push(numbers(bytes)?),
                (2, Field::Bytes(bytes)) => raw.samples.push(RawSample::parse(bytes)?),
                (3, Field::Bytes(bytes)) => {
                    let mapping = numbers(bytes)?;
                    raw.mappings.insert(single(&mapping, 1), single(&mapping, 5));
                }
                (4, Field::Bytes(bytes)) => raw.location(bytes)?,
                (5, Field::Bytes(bytes)) => {
                    let function = numbers(bytes)?;
                    raw.functions.insert(single(&function, 1), single(&function, 2));
                }
                (6, Field::Bytes(bytes)) => raw.strings.push(String::from_utf8_lossy(bytes).into_owned()),
                _ => {}
            }
        }
        Ok(raw.resolve())
    }
}

#[derive(Default)]
struct Raw {
    types: Vec<HashMap<u64, Vec<u64>>>,
    samples: Vec<RawSample>,
    /// Function ids of each location, leaf first: inlined ones come before what they are inlined into.
    locations: HashMap<u64, Vec<u64>>,
    /// Mapping id of each location.
    lies_in: HashMap<u64, u64>,
    /// File name of each mapping.
    mappings: HashMap<u64, u64>,
    functions: HashMap<u64, u64>,
    strings: Vec<String>,
}

#[derive(Default)]
struct RawSample {
    locations: Vec<u64>,
    values: Vec<u64>,
    labels: Vec<(u64, u64)>,
}

impl RawSample {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut sample = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, value) => value.append_numbers(&mut sample.locations)?,
                (2, value) => value.append_numbers(&mut sample.values)?,
                (3, Field::Bytes(bytes)) => {
                    let label = numbers(bytes)?;
                    sample.labels.push((single(&label, 1), single(&label, 2)));
                }
                _ => {}
            }
        }
        Ok(sample)
    }
}

impl Raw {
    fn location(&mut self, bytes: &[u8]) -> Result<()> {
        let mut functions = Vec::new();
        for field in fields(bytes) {
            if let (4, Field::Bytes(line)) = field? {
                functions.push(single(&numbers(line)?, 1));
            }
        }
        let location = numbers(bytes)?;
        self.lies_in.insert(single(&location, 1), single(&location, 2));
        self.locations.insert(single(&location, 1), functions);
        Ok(())
    }

    fn text(&self, index: u64) -> String {
        self.strings.get(index as usize).cloned().unwrap_or_default()
    }

    fn resolve(self) -> Pprof {
        let types =
            self.types.iter().map(|of| format!("{}/{}", self.text(single(of, 1)), self.text(single(of, 2)))).collect();
        let samples = self
            .samples
            .iter()
            .map(|sample| Sample {
                values: sample.values.iter().map(|value| *value as i64).collect(),
                frames: sample
                    .locations
                    .iter()
                    .filter_map(|location| self.locations.get(location))
                    .flatten()
                    .rev()
                    .map(|function| self.text(self.functions.get(function).copied().unwrap_or(0)))
                    .collect(),
                module: sample
                    .locations
                    .first()
                    .and_then(|leaf| self.mappings.get(self.lies_in.get(leaf)?))
                    .map_or_else(String::new, |name| self.text(*name)),
                labels: sample.labels.iter().map(|(key, text)| (self.text(*key), self.text(*text))).collect(),
            })
            .collect();
        Pprof { types, samples }
    }
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Field<'_> {
    /// A repeated number comes packed or one at a time.
    fn append_numbers(self, to: &mut Vec<u64>) -> Result<()> {
        match self {
            Field::Number(number) => to.push(number),
            Field::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    to.push(varint(&mut bytes)?);
                }
            }
        }
        Ok(())
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (first, rest) = bytes.split_first().context("a number breaks off")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number has more than ten bytes")
}

fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u64, Field<'_>)>> {
    let mut next = move || -> Result<Option<(u64, Field<'_>)>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut bytes)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            2 => {
                let length = varint(&mut bytes)? as usize;
                let (field, rest) = bytes.split_at_checked(length).context("a field breaks off")?;
                bytes = rest;
                Field::Bytes(field)
            }
            wire => bail!("wire type {wire} does not occur in pprof"),
        };
        Ok(Some((tag >> 3, field)))
    };
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let field = next().transpose();
        failed = matches!(field, Some(Err(_)));
        field
    })
}

/// The number fields of a message.
fn numbers(bytes: &[u8]) -> Result<HashMap<u64, Vec<u64>>> {
    let mut found: HashMap<u64, Vec<u64>> = HashMap::new();
    for field in fields(bytes) {
        if let (number, Field::Number(value)) = field? {
            found.entry(number).or_default().push(value);
        }
    }
    Ok(found)
}

fn single(message: &HashMap<u64, Vec<u64>>, field: u64) -> u64 {
    message.get(&field).and_then(|values| values.last()).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_made_by_hand_is_read_back() -> Result<()> {
        let mut bytes = Vec::new();
        for text in ["", "samples", "count", "main", "work", "container", "web"] {
            bytes.extend([6 << 3 | 2, text.len() as u8]);
            bytes.extend(text.as_bytes());
        }
        bytes.extend([1 << 3 | 2, 4, 1 << 3, 1, 2 << 3, 2]);
        for (id, name) in [(1, 3), (2, 4)] {
            bytes.extend([5 << 3 | 2, 4, 1 << 3, id, 2 << 3, name]);
            bytes.extend([4 << 3 | 2, 6, 1 << 3, id, 4 << 3 | 2, 2, 1 << 3, id]);
        }
        bytes.extend([2 << 3 | 2, 13, 1 << 3 | 2, 2, 2, 1, 2 << 3 | 2, 1, 7, 3 << 3 | 2, 4, 1 << 3, 5, 2 << 3, 6]);
        let profile = Pprof::parse(&bytes)?;
        assert_eq!(profile.types, ["samples/count"]);
        assert_eq!(profile.samples.len(), 1);
        assert!(profile.samples[0].goes_through(&["main", "work"]));
        assert!(profile.samples[0].is("container", "web"));
        assert!((profile.sum("samples/count", |_| true)? - 7.0).abs() < f64::EPSILON);
        assert!(Pprof::parse(&bytes[..bytes.len() - 1]).is_err(), "half a profile is none");
        Ok(())
    }
}

//! A recording comes back as it was, and nothing else is ever taken for one.

use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{HEADER_BYTES, Header, MAX_PAYLOAD_BYTES, RecordingError, VERSION, checksum, read, read_from, write_to};
use crate::profile::testing::profile;
use crate::profile::{ContainerIndex, Histogram, Inconsistency, ProcessIndex, Profile, StackId, TextId};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn recorded(profile: &Profile) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write_to(profile, &mut bytes)?;
    Ok(bytes)
}

/// A file with a correct header around any payload.
fn wrapped(version: u32, payload: &[u8]) -> Result<Vec<u8>> {
    let stored = zstd::bulk::compress(payload, 1)?;
    let payload_bytes = payload.len() as u64;
    let header = Header {
        version,
        checksum: checksum(version, payload_bytes, &stored),
        stored_bytes: stored.len() as u64,
        payload_bytes,
    };
    Ok([&header.to_bytes()[..], &stored].concat())
}

#[test]
fn a_profile_comes_back_as_it_was() -> Result {
    assert_eq!(read_from(recorded(&profile())?.as_slice())?, profile());
    assert_eq!(read_from(recorded(&Profile::default())?.as_slice())?, Profile::default());
    Ok(())
}

#[test]
fn a_profile_that_was_read_can_be_added_to() -> Result {
    let mut read = read_from(recorded(&profile())?.as_slice())?;
    let texts = read.stacks.text_count();
    read.stacks.text("nginx");
    assert_eq!(read.stacks.text_count(), texts);
    Ok(())
}

#[test]
fn recordings_of_earlier_versions_stay_readable() -> Result {
    for version in ["v1", "v2"] {
        assert_eq!(read(&golden(version))?, profile(), "{version}");
    }
    Ok(())
}

#[test]
fn a_recording_of_this_version_stays_readable() -> Result {
    let path = golden("v3");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, recorded(&profile())?)?;
    }
    assert_eq!(read(&path)?, profile());
    Ok(())
}

fn golden(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{version}.profile"))
}

#[test]
fn fields_that_are_missing_or_unknown_do_no_harm() -> Result {
    let read =
        read_from(wrapped(VERSION, br#"{"window":{"duration_ns":5},"invented_later":[1,{"a":2}]}"#)?.as_slice())?;
    assert_eq!(read.window.duration_ns, 5);
    assert!(read.containers.is_empty());
    Ok(())
}

#[test]
fn what_is_no_recording_is_told_so() {
    for bytes in [&b"{\"schema\":1}"[..], b"\x7fELF", b"\x89PNG\r\n\x1a\n and more", b"x", b"\x89PRF\n\x1a\n"] {
        let error = read_from(bytes);
        assert!(matches!(error, Err(RecordingError::NotARecording)), "{error:?}");
    }
}

#[test]
fn a_file_that_ends_early_is_told_so() -> Result {
    let bytes = recorded(&profile())?;
    for length in [0, 1, 7, 8, HEADER_BYTES - 1, HEADER_BYTES, bytes.len() - 1] {
        let error = read_from(&bytes[..length]);
        assert!(matches!(error, Err(RecordingError::Truncated { have, .. }) if have == length as u64), "{error:?}");
    }
    Ok(())
}

#[test]
fn a_newer_version_is_named() -> Result {
    let error = read_from(wrapped(VERSION + 1, b"{}")?.as_slice()).map_err(|error| error.to_string());
    let expected = "the recording has format version 4, this program reads up to 3; use a newer `profiler`";
    assert_eq!(error.map(drop), Err(expected.to_owned()));
    assert!(matches!(read_from(wrapped(0, b"{}")?.as_slice()), Err(RecordingError::Corrupt(_))));
    Ok(())
}

#[test]
fn damage_is_told_apart_by_what_it_is() -> Result {
    let corrupt = |bytes: &[u8], what: &str| {
        let error = read_from(bytes).map(drop).map_err(|error| error.to_string());
        assert!(error.as_ref().is_err_and(|error| error.contains(what)), "{error:?} should say {what}");
    };
    let mut bytes = recorded(&profile())?;
    bytes.push(0);
    corrupt(&bytes, "bytes after its end");
    bytes.pop();
    *bytes.last_mut().ok_or("empty")? ^= 1;
    corrupt(&bytes, "checksum");
    corrupt(&wrapped(VERSION, b"{\"on_cpu\":3}")?, "invalid type");
    // An item of few bytes must not become one of many.
    corrupt(&wrapped(VERSION, b"{\"containers\":[{},{}]}")?, "missing field");
    corrupt(&wrapped(VERSION, &vec![b'['; 100_000])?, "corrupt");

    let header = |stored: &[u8], payload_bytes| {
        let checksum = checksum(VERSION, payload_bytes, stored);
        let header = Header { version: VERSION, checksum, stored_bytes: stored.len() as u64, payload_bytes };
        [&header.to_bytes()[..], stored].concat()
    };
    corrupt(&header(b"no zstd at all", 10), "corrupt");
    corrupt(&header(&zstd::bulk::compress(b"{}", 1)?, 1), "another length");
    corrupt(&header(&zstd::bulk::compress(b"{}", 1)?, 3), "another length");
    Ok(())
}

#[test]
fn a_bomb_is_refused_before_it_goes_off() -> Result {
    // 64 MiB of spaces in a few KiB, declared as two bytes.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1)?;
    for _ in 0..64 {
        encoder.write_all(&vec![b' '; 1 << 20])?;
    }
    let stored = encoder.finish()?;
    let header = Header {
        version: VERSION,
        checksum: checksum(VERSION, 2, &stored),
        stored_bytes: stored.len() as u64,
        payload_bytes: 2,
    };
    let bytes = [&header.to_bytes()[..], &stored].concat();
    assert!(matches!(read_from(bytes.as_slice()), Err(RecordingError::Corrupt(_))));

    let huge = Header { payload_bytes: MAX_PAYLOAD_BYTES + 1, ..header };
    let error = read_from(huge.to_bytes().as_slice());
    assert!(matches!(error, Err(RecordingError::TooLarge { bytes }) if bytes == MAX_PAYLOAD_BYTES + 1));
    let huge = Header { stored_bytes: u64::MAX, ..huge };
    assert!(matches!(read_from(huge.to_bytes().as_slice()), Err(RecordingError::TooLarge { .. })));
    Ok(())
}

type Change = fn(&mut Profile);

#[test]
fn indices_that_point_nowhere_are_found() {
    let breaks: [(&str, Change); 12] = [
        ("on-CPU sample 0 points at container 99", |p| p.on_cpu[0].container = ContainerIndex(99)),
        ("on-CPU sample 1 points at process 99", |p| p.on_cpu[1].process = ProcessIndex(99)),
        ("on-CPU sample 2 points at text 9999", |p| p.on_cpu[2].thread = TextId(9999)),
        ("on-CPU sample 0 points at stack 9999", |p| p.on_cpu[0].stack = StackId(9999)),
        ("off-CPU sample 0 points at container 99", |p| p.off_cpu[0].container = ContainerIndex(99)),
        ("off-CPU sample 0 points at process 99", |p| p.off_cpu[0].process = ProcessIndex(99)),
        ("off-CPU sample 0 points at text 9999", |p| p.off_cpu[0].thread = TextId(9999)),
        ("off-CPU sample 0 points at stack 9999", |p| p.off_cpu[0].stack = StackId(9999)),
        ("off-CPU sample 3 has a weight", |p| p.off_cpu[3].weight_ns = f64::NAN),
        ("off-CPU sample 3 has a count", |p| p.off_cpu[3].count = -1.0),
        ("container 1 has a CPU limit", |p| p.containers[1].cpu_limit_cores = Some(f64::INFINITY)),
        ("container 2 has 400 buckets", |p| p.containers[2].run_queue.latency = Histogram::from_first(0, vec![1; 400])),
    ];
    for (expected, break_it) in breaks {
        let mut broken = profile();
        break_it(&mut broken);
        let error = write_to(&broken, std::io::sink()).map_err(|error| error.to_string());
        let found = error.as_ref().is_err_and(|error| error.contains(expected));
        assert!(found, "{error:?} should say {expected}");
    }
    let mut broken = profile();
    broken.processes[0].command = TextId(5000);
    let expected = Inconsistency::Dangling {
        item: "process",
        position: 0,
        table: "text",
        index: 5000,
        len: broken.stacks.text_count(),
    };
    assert_eq!(broken.check(), Err(expected));
}

#[test]
fn a_recording_whose_stacks_point_nowhere_is_refused() -> Result {
    let frame = r#"{"kind":"User","function":0,"module":0,"file":7,"line":0}"#;
    let tables = [
        format!(r#"{{"stacks":{{"texts":["a"],"frames":[{frame}],"stacks":[]}}}}"#),
        r#"{"stacks":{"texts":[],"frames":[],"stacks":[[0]]}}"#.to_owned(),
    ];
    for payload in tables {
        let error = read_from(wrapped(VERSION, payload.as_bytes())?.as_slice());
        assert!(matches!(error, Err(RecordingError::Inconsistent(_))), "{error:?}");
    }
    Ok(())
}

#[test]
fn errors_of_a_file_name_it() -> Result {
    let error = read(Path::new("/nonexistent/x.profile")).map(drop).map_err(|error| error.to_string());
    assert!(error.is_err_and(|error| error.starts_with("cannot read /nonexistent/x.profile: No such file")));
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("x.profile");
    std::fs::write(&path, "hello")?;
    let error = read(&path).map(drop).map_err(|error| error.to_string());
    assert!(error.is_err_and(|error| error.contains("x.profile: not a recording")));
    Ok(())
}

#[test]
#[ignore = "prints figures; run it in release"]
fn figures_of_a_large_recording() -> Result {
    let mut large = profile();
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let frames: Vec<_> = (0..20_000_u32)
        .map(|index| {
            let function = large.stacks.text(&format!("some::module::of_depth_{}::function_{index}", index % 90));
            let mut frame = large.stacks.frames()[index as usize % 5];
            frame.function = function;
            large.stacks.frame(frame)
        })
        .collect();
    for _ in 0..100_000 {
        // Stacks share their roots, as real ones do.
        let base = next(2_000) as usize;
        let stack: Vec<_> = (0..30 + next(10) as usize)
            .map(|depth| if depth < 25 { frames[base + depth] } else { frames[next(20_000) as usize] })
            .collect();
        let stack = large.stacks.stack(&stack);
        large.on_cpu.push(crate::profile::OnCpuSample { stack, count: 1 + next(50), ..large.on_cpu[0] });
        let weight_ns = next(1 << 30) as f64 * 1.3;
        large.off_cpu.push(crate::profile::OffCpuSample { stack, weight_ns, ..large.off_cpu[0] });
    }
    let start = std::time::Instant::now();
    let bytes = recorded(&large)?;
    let written = start.elapsed();
    let read_back = read_from(bytes.as_slice())?;
    let read = start.elapsed().saturating_sub(written);
    let json = serde_json::to_vec(&large)?.len();
    println!(
        "{} stacks: {json} bytes of JSON, {} stored, written in {written:?}, read in {read:?}",
        100_000,
        bytes.len()
    );
    assert_eq!(read_back.on_cpu, large.on_cpu);
    for format in [crate::output::Format::Svg, crate::output::Format::Pprof, crate::output::Format::Speedscope] {
        let start = std::time::Instant::now();
        crate::output::render(&large, format, &crate::output::WriteOptions::default(), &mut std::io::sink())?;
        println!("{format:?} in {:?}", start.elapsed());
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_truncation_is_taken_for_a_recording(cut in 0.0..1.0_f64) {
        let bytes = recorded(&profile()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let length = (bytes.len() as f64 * cut) as usize;
        let result = read_from(&bytes[..length]);
        let truncated = matches!(result, Err(RecordingError::Truncated { .. }));
        prop_assert!(truncated);
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed(position in 0.0..1.0_f64, bit in 0..8_u8) {
        let mut bytes = recorded(&profile()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let index = (bytes.len() as f64 * position) as usize;
        bytes[index] ^= 1 << bit;
        prop_assert!(read_from(bytes.as_slice()).is_err());
    }

    #[test]
    fn any_bytes_are_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read_from(bytes.as_slice()).is_err());
    }

    #[test]
    fn any_payload_behind_a_correct_header_does_not_panic(payload in "[\\[\\]{}\":,a-z0-9._]{0,200}") {
        let bytes = wrapped(VERSION, payload.as_bytes()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        if let Ok(profile) = read_from(bytes.as_slice()) {
            prop_assert!(profile.check().is_ok());
        }
    }

}

proptest! {
    // Each case writes five formats.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn figures_changed_at_will_are_read_or_refused_but_never_harm(
        from in prop::sample::select(vec!["960", "4101", "300", "\"count\":40", "null", "0.5", "386"]),
        to in prop::sample::select(vec!["18446744073709551615", "-1", "1e308", "0", "[]", "\"\"", "4294967295"]),
    ) {
        let payload = serde_json::to_string(&profile()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let payload = payload.replace(from, to);
        let bytes = wrapped(VERSION, payload.as_bytes()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        if let Ok(mut read) = read_from(bytes.as_slice()) {
            read.merge(profile());
            for format in [
                crate::output::Format::Svg,
                crate::output::Format::Pprof,
                crate::output::Format::Speedscope,
                crate::output::Format::ReportText,
                crate::output::Format::ReportJson,
            ] {
                let written = crate::output::render(
                    &read, format, &crate::output::WriteOptions::default(), &mut std::io::sink(),
                );
                prop_assert!(written.is_ok());
            }
        }
    }
}

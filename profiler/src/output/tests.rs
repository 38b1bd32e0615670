//! Every format against a golden file, and what all formats promise: sums are kept, nothing breaks a line.
//!
//! `UPDATE_GOLDEN=1 cargo test -p profiler` writes the golden files anew; look at the difference before committing it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use prost::Message;

use super::destination::Access;
use super::rows::{Rows, printable};
use super::{
    Format, Growth, Kind, Lines, OutputError, Scope, Style, Threads, WriteOptions, destination, render, write,
};
use crate::profile::testing::profile;
use crate::profile::{Profile, Selection, recording};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn rendered(profile: &Profile, format: Format, options: &WriteOptions) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    render(profile, format, options, &mut bytes)?;
    Ok(bytes)
}

fn text(format: Format, options: &WriteOptions) -> Result<String> {
    Ok(String::from_utf8(rendered(&profile(), format, options)?)?)
}

fn of_kind(kind: Kind) -> WriteOptions {
    WriteOptions { kind: Some(kind), ..WriteOptions::default() }
}

fn selecting(pattern: &str) -> WriteOptions {
    let selection = Selection { containers: vec![pattern.to_owned()], ..Selection::default() };
    WriteOptions { selection, ..WriteOptions::default() }
}

fn golden(name: &str, actual: &[u8]) -> Result {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual)?;
    }
    let expected = std::fs::read(&path)?;
    assert_eq!(String::from_utf8_lossy(&expected), String::from_utf8_lossy(actual), "{name} differs");
    Ok(())
}

#[test]
fn folded_lines_are_as_they_were() -> Result {
    golden("cpu.folded", &rendered(&profile(), Format::Folded, &of_kind(Kind::Cpu))?)?;
    golden("offcpu.folded", &rendered(&profile(), Format::Folded, &of_kind(Kind::OffCpu))?)?;
    let options = WriteOptions { threads: Threads::Named, lines: Lines::Shown, ..of_kind(Kind::Wall) };
    golden("wall-threads-lines.folded", &rendered(&profile(), Format::Folded, &options)?)
}

#[test]
fn flamegraphs_are_as_they_were() -> Result {
    golden("cpu.svg", &rendered(&profile(), Format::Svg, &of_kind(Kind::Cpu))?)?;
    let options = WriteOptions { growth: Growth::Icicle, kind: Some(Kind::Wall), ..selecting("db") };
    golden("wall-icicle-db.svg", &rendered(&profile(), Format::Svg, &options)?)
}

#[test]
fn speedscope_and_json_are_as_they_were() -> Result {
    golden("all.speedscope.json", &rendered(&profile(), Format::Speedscope, &WriteOptions::default())?)?;
    golden("stacks.json", &rendered(&profile(), Format::StacksJson, &WriteOptions::default())?)?;
    golden("report.json", &rendered(&profile(), Format::ReportJson, &WriteOptions::default())?)
}

#[test]
fn readable_reports_are_as_they_were() -> Result {
    golden("report.txt", &rendered(&profile(), Format::ReportText, &WriteOptions::default())?)?;
    golden("report.md", &rendered(&profile(), Format::ReportMarkdown, &WriteOptions::default())?)
}

#[test]
fn a_report_has_escape_sequences_only_where_they_are_wanted() -> Result {
    assert!(!text(Format::ReportText, &WriteOptions::default())?.contains('\x1b'));
    let options = WriteOptions { style: Style::Terminal, ..WriteOptions::default() };
    assert!(text(Format::ReportText, &options)?.contains("\x1b[1mProfile\x1b[0m"));
    Ok(())
}

fn folded_total(folded: &str) -> Result<u64> {
    let mut total = 0;
    for line in folded.lines() {
        let (_, count) = line.rsplit_once(' ').ok_or("a line without a count")?;
        total += count.parse::<u64>()?;
    }
    Ok(total)
}

#[test]
fn folded_totals_are_the_totals_of_the_samples() -> Result {
    let source = profile();
    let samples: u64 = source.on_cpu.iter().map(|sample| sample.count).sum();
    let off_cpu_us = source.off_cpu.iter().map(|sample| sample.weight_ns).sum::<f64>() / 1e3;
    assert_eq!(folded_total(&text(Format::Folded, &of_kind(Kind::Cpu))?)?, samples);
    assert_eq!(folded_total(&text(Format::Folded, &of_kind(Kind::OffCpu))?)?, off_cpu_us.round() as u64);
    let wall_us = samples as f64 * 1e6 / 99.0 + off_cpu_us;
    assert_eq!(folded_total(&text(Format::Folded, &of_kind(Kind::Wall))?)?, wall_us.round() as u64);
    Ok(())
}

#[test]
fn pprof_totals_are_the_totals_of_the_samples_and_every_id_exists() -> Result {
    let source = profile();
    let mut bytes = Vec::new();
    let packed = rendered(&source, Format::Pprof, &WriteOptions::default())?;
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes)?;
    let pprof = super::pprof::proto::Profile::decode(bytes.as_slice())?;
    let sum = |index: usize| pprof.sample.iter().map(|sample| sample.value[index]).sum::<i64>();
    let samples: u64 = source.on_cpu.iter().map(|sample| sample.count).sum();
    assert_eq!(sum(0), samples as i64);
    assert_eq!(sum(1), (samples * source.settings.sample_period_ns()) as i64);
    assert_eq!(sum(2), source.off_cpu.iter().map(|sample| sample.count).sum::<f64>().round() as i64);
    assert_eq!(sum(3), source.off_cpu.iter().map(|sample| sample.weight_ns).sum::<f64>().round() as i64);

    let string = |index: i64| pprof.string_table[index as usize].as_str();
    assert_eq!(string(0), "");
    let types: Vec<_> = pprof.sample_type.iter().map(|t| (string(t.r#type), string(t.unit))).collect();
    assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds"), ("waits", "count"), ("off_cpu", "nanoseconds")]);
    for id in pprof.sample.iter().flat_map(|sample| &sample.location_id) {
        assert_eq!(pprof.location[*id as usize - 1].id, *id);
    }
    for location in &pprof.location {
        assert!(location.mapping_id as usize <= pprof.mapping.len());
        assert!(location.line.iter().all(|line| pprof.function[line.function_id as usize - 1].id == line.function_id));
    }
    assert!(string(pprof.comment[0]).contains("20 lost (map_busy 20)"), "comments carry the coverage");
    Ok(())
}

#[test]
fn pprof_puts_inlined_functions_into_the_location_of_their_caller_innermost_first() {
    let source = profile();
    let options = WriteOptions::default();
    let selected = options.selection.resolve(&source).unwrap_or_else(|error| panic!("{error}"));
    let pprof = super::pprof::build(&Scope { profile: &source, selected, options: &options });
    let leaf = &pprof.location[pprof.sample[0].location_id[0] as usize - 1];
    let names: Vec<&str> = leaf
        .line
        .iter()
        .map(|line| pprof.string_table[pprof.function[line.function_id as usize - 1].name as usize].as_str())
        .collect();
    assert_eq!(names, ["compare258", "longest_match", "deflate"]);
    let labels: BTreeMap<&str, &str> = pprof.sample[0]
        .label
        .iter()
        .map(|label| (pprof.string_table[label.key as usize].as_str(), pprof.string_table[label.str as usize].as_str()))
        .collect();
    let expected = [
        ("container", "shop/web-7d4b9/nginx"),
        ("namespace", "shop"),
        ("pod", "web-7d4b9"),
        ("process", "nginx"),
        ("thread", "nginx"),
    ];
    assert_eq!(labels, BTreeMap::from(expected));
}

#[test]
fn a_selection_leaves_only_the_containers_meant() -> Result {
    let folded = text(Format::Folded, &selecting("db"))?;
    assert!(folded.lines().all(|line| line.starts_with("db;")) && !folded.is_empty());
    let report = text(Format::ReportJson, &selecting("3fa9c1"))?;
    assert!(report.contains("\"name\": \"shop/web-7d4b9/nginx\"") && !report.contains("postgres:18"));
    let stacks = text(Format::StacksJson, &selecting("*.service"))?;
    assert!(stacks.contains("docker.service") && !stacks.contains("\"container\":\"db\""));
    let svg = text(Format::Svg, &selecting("db"))?;
    assert!(svg.contains("On-CPU: db, 10.0 s"));
    Ok(())
}

#[test]
fn an_unknown_pattern_is_an_error_that_lists_what_exists() {
    let error = rendered(&profile(), Format::Folded, &selecting("cache")).map(drop).map_err(|e| e.to_string());
    let expected = "no container matches 'cache'; there are db, docker.service, host, shop/web-7d4b9/nginx";
    assert_eq!(error, Err(expected.to_owned()));
}

#[test]
fn the_ledgers_parts_in_the_json_report_add_up() -> Result {
    let report: serde_json::Value = serde_json::from_str(&text(Format::ReportJson, &WriteOptions::default())?)?;
    for container in report["containers"].as_array().ok_or("no containers")? {
        let ledger = container["ledger"].as_object().ok_or("no ledger")?;
        let thread_s = ledger["thread_s"].as_f64().ok_or("no thread_s")?;
        let parts: f64 = ledger.iter().filter(|(name, _)| *name != "thread_s").filter_map(|(_, s)| s.as_f64()).sum();
        assert!((parts - thread_s).abs() < 1e-6, "{container}");
    }
    let calls = &report["containers"][0]["syscalls"][1];
    assert_eq!(calls["errors"]["EAGAIN"], 21_000);
    let buckets = calls["buckets"].as_array().ok_or("no buckets")?;
    assert_eq!(buckets.iter().filter_map(|bucket| bucket[1].as_u64()).sum::<u64>(), 60_000);
    Ok(())
}

#[test]
fn speedscope_weights_add_up_for_each_kind() -> Result {
    let file: serde_json::Value = serde_json::from_str(&text(Format::Speedscope, &WriteOptions::default())?)?;
    let profiles = file["profiles"].as_array().ok_or("no profiles")?;
    let names: Vec<_> = profiles.iter().map(|profile| (&profile["name"], &profile["unit"])).collect();
    assert_eq!(names[0], (&"on-CPU".into(), &"none".into()));
    assert_eq!(names[1], (&"off-CPU".into(), &"microseconds".into()));
    assert_eq!(names[2], (&"wall-clock".into(), &"microseconds".into()));
    for profile in profiles {
        let weights: u64 =
            profile["weights"].as_array().ok_or("no weights")?.iter().filter_map(serde_json::Value::as_u64).sum();
        assert_eq!(Some(weights), profile["endValue"].as_u64());
    }
    let one: serde_json::Value = serde_json::from_str(&text(Format::Speedscope, &of_kind(Kind::OffCpu))?)?;
    assert_eq!(one["profiles"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn the_format_follows_from_the_extension() -> Result {
    let formats = [
        ("x.profile", Format::Recording),
        ("x.svg", Format::Svg),
        ("dir.d/X.FOLDED", Format::Folded),
        ("x.pb.gz", Format::Pprof),
        ("x.speedscope.json", Format::Speedscope),
        ("x.stacks.json", Format::StacksJson),
        ("x.json", Format::ReportJson),
        ("x.txt", Format::ReportText),
        ("x.md", Format::ReportMarkdown),
        ("-", Format::Recording),
    ];
    for (path, format) in formats {
        assert_eq!(Format::from_path(Path::new(path))?, format, "{path}");
        assert!(path == "-" || path.to_lowercase().ends_with(format.extension()));
    }
    for path in ["x.png", "profile", "", "svg"] {
        let error = Format::from_path(Path::new(path));
        assert!(matches!(error, Err(OutputError::UnknownExtension { .. })), "{path}");
    }
    Ok(())
}

#[test]
fn without_a_wish_the_kind_is_what_was_recorded() -> Result {
    let mut source = profile();
    assert_eq!(Kind::choose(None, &source)?, Kind::Cpu);
    source.settings.on_cpu = false;
    source.on_cpu.clear();
    assert_eq!(Kind::choose(None, &source)?, Kind::OffCpu);
    for (wish, remedy) in [(Kind::Cpu, "record with --cpu"), (Kind::Wall, "record with --cpu --offcpu")] {
        let error = Kind::choose(Some(wish), &source).map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains(remedy)));
    }
    source.off_cpu.clear();
    source.settings.off_cpu = false;
    let error = Kind::choose(Some(Kind::OffCpu), &source).map_err(|error| error.to_string());
    assert!(error.is_err_and(|error| error.contains("no off-CPU stacks")));
    Ok(())
}

#[test]
fn a_window_without_samples_is_drawn_as_such() -> Result {
    let mut source = profile();
    source.on_cpu.clear();
    source.host.node = "a<b&c".to_owned();
    let svg = String::from_utf8(rendered(&source, Format::Svg, &of_kind(Kind::Cpu))?)?;
    assert!(svg.contains("No stacks were found") && svg.contains("a&lt;b&amp;c"));
    assert_eq!(rendered(&source, Format::Folded, &of_kind(Kind::Cpu))?, b"");
    let empty = Profile::default();
    for format in [Format::Pprof, Format::Speedscope, Format::StacksJson, Format::ReportJson, Format::ReportText] {
        assert!(!rendered(&empty, format, &WriteOptions::default())?.is_empty());
    }
    Ok(())
}

#[test]
fn names_never_break_a_folded_line() {
    let cases = [
        ("[u8; 4]", "[u8: 4]"),
        ("two\nlines", "two lines"),
        ("heap_getnext 42", "heap_getnext_42"),
        ("load 0.5", "load_0.5"),
        ("  ", "[unnamed]"),
        ("# comment", "#_comment"),
        ("operator new(unsigned long)", "operator new(unsigned long)"),
        ("42", "42"),
        ("looks_like_kernel_[k]", "looks_like_kernel_(k)"),
        ("looks_inlined_[i]", "looks_inlined_(i)"),
        ("looks_made_[j]", "looks_made_(j)"),
        ("array_[k]_of", "array_[k]_of"),
    ];
    for (name, expected) in cases {
        assert_eq!(printable(name), expected);
    }
}

#[test]
fn rows_of_a_foreign_index_have_empty_names_rather_than_none() -> Result {
    let mut source = profile();
    source.processes.clear();
    let options = of_kind(Kind::Cpu);
    let selected = options.selection.resolve(&source)?;
    let rows = Rows::collect(&Scope { profile: &source, selected, options: &options }, Kind::Cpu)?;
    assert_eq!(rows.total(), 960);
    assert!(rows.labels.iter().any(|label| label.text == "[unnamed]"));
    Ok(())
}

#[test]
fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() -> Result {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("out.profile");
    std::fs::write(&path, "old")?;
    write(&profile(), &path, &WriteOptions::default())?;
    assert_eq!(recording::read(&path)?, profile());
    let failed = write(&profile(), &directory.path().join("out.folded"), &selecting("nobody"));
    assert!(matches!(failed, Err(OutputError::Selection(_))));
    let names: Vec<_> = std::fs::read_dir(directory.path())?.filter_map(std::result::Result::ok).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    Ok(())
}

#[test]
fn what_an_earlier_run_left_is_replaced_and_permissions_stay() -> Result {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("out.folded");
    let elsewhere = directory.path().join("elsewhere");
    std::fs::write(&path, "old")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    std::fs::write(&elsewhere, "untouched")?;
    let draft = directory.path().join(format!(".out.folded.{}.partial", std::process::id()));
    std::os::unix::fs::symlink(&elsewhere, &draft)?;
    write(&profile(), &path, &WriteOptions::default())?;
    assert_eq!(std::fs::read_to_string(&elsewhere)?, "untouched");
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    assert!(!draft.exists());
    Ok(())
}

#[test]
fn shares_and_durations_read_well() {
    use super::coverage::{percent, seconds};
    let shares = [(0.0, "0 %"), (0.0004, "<0.1 %"), (0.123, "12.3 %"), (0.9999, ">99.9 %"), (1.0, "100 %")];
    for (share, expected) in shares {
        assert_eq!(percent(share), expected);
    }
    let durations = [(0.0, "0 s"), (812.0, "812 ns"), (1_500.0, "1.50 µs"), (12e6, "12.0 ms"), (61e9, "61.0 s")];
    for (ns, expected) in durations {
        assert_eq!(seconds(ns), expected);
    }
}

#[test]
fn numbers_without_an_errno_name_keep_their_number() {
    use crate::profile::Errno;
    use crate::profile::errno::name;
    assert_eq!(
        ["ENOENT", "EAGAIN", "ERESTARTSYS", "errno_4000"],
        [2, 11, 512, 4000].map(|n| name(Errno(n))).as_slice()
    );
}

#[test]
fn a_subtitle_that_would_not_fit_leaves_out_the_reasons() -> Result {
    let mut source = profile();
    source.coverage.cpu_samples.lost.insert("a_reason_with_a_very_long_name".repeat(5), 1);
    let svg = String::from_utf8(rendered(&source, Format::Svg, &of_kind(Kind::Cpu))?)?;
    assert!(svg.contains(">960 of 1980 samples kept, 21 lost · 96.9 % of stacks complete · 97.9 % of frames named<"));
    assert!(svg.contains("a_reason_with_a_very_long_name"), "the whole story is in the notes");
    Ok(())
}

#[test]
fn a_link_is_followed_and_a_device_is_written_in_place() -> Result {
    let directory = tempfile::tempdir()?;
    let target = directory.path().join("target.folded");
    std::fs::write(&target, "old")?;
    let link = directory.path().join("link.folded");
    std::os::unix::fs::symlink(&target, &link)?;
    write(&profile(), &link, &WriteOptions::default())?;
    assert!(std::fs::symlink_metadata(&link)?.is_symlink());
    assert!(std::fs::read_to_string(&target)?.starts_with("db;"));
    destination::check(Path::new("/dev/null"))?;
    destination::write(Path::new("/dev/null"), Access::Usual, |writer| Ok(writer.write_all(b"x")?))?;
    assert!(!destination::is_terminal(&target));
    Ok(())
}

#[test]
fn a_recording_is_its_owners_alone_whatever_was_there() -> Result {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| Ok::<u32, std::io::Error>(std::fs::metadata(path)?.permissions().mode() & 0o7777);
    let directory = tempfile::tempdir()?;
    let recording = directory.path().join("a.profile");
    write(&profile(), &recording, &WriteOptions::default())?;
    assert_eq!(mode(&recording)?, 0o600);
    std::fs::set_permissions(&recording, std::fs::Permissions::from_mode(0o666))?;
    write(&profile(), &recording, &WriteOptions::default())?;
    assert_eq!(mode(&recording)?, 0o600);
    let report = directory.path().join("a.txt");
    std::fs::write(&report, "old")?;
    std::fs::set_permissions(&report, std::fs::Permissions::from_mode(0o4644))?;
    write(&profile(), &report, &WriteOptions::default())?;
    assert_eq!(mode(&report)?, 0o644, "what was let in before still is, and nothing else");
    write(&profile(), &report, &WriteOptions { access: Access::Private, ..WriteOptions::default() })?;
    assert_eq!(mode(&report)?, 0o600);
    Ok(())
}

#[test]
fn nothing_is_written_through_what_another_user_put_into_a_shared_directory() -> Result {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
    let directory = tempfile::tempdir()?;
    let shared = directory.path().join("shared");
    std::fs::create_dir(&shared)?;
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777))?;
    let victim = directory.path().join("victim");
    std::fs::write(&victim, "precious")?;
    let (mine, planted) = (shared.join("mine.txt"), shared.join("planted.txt"));
    symlink(&victim, &planted)?;
    symlink(directory.path().join("other"), &mine)?;
    // Only root can play two users.
    if lchown(&planted, Some(12_345), None).is_err() {
        return Ok(());
    }
    for result in [write(&profile(), &planted, &WriteOptions::default()), destination::check(&planted)] {
        assert!(result.is_err_and(|error| error.to_string().contains("user 12345")));
    }
    assert_eq!(std::fs::read_to_string(&victim)?, "precious");
    write(&profile(), &mine, &WriteOptions::default())?;
    Ok(())
}

#[test]
fn an_unwritable_output_is_an_error_that_names_it_and_the_remedy() -> Result {
    let directory = tempfile::tempdir()?;
    let missing = directory.path().join("missing/out.svg");
    let error = destination::check(&missing).map_err(|error| error.to_string());
    let expected = format!("make the directory {} first", directory.path().join("missing").display());
    assert!(error.is_err_and(|error| error.contains(&missing.display().to_string()) && error.contains(&expected)));
    let error = destination::check(directory.path()).map_err(|error| error.to_string());
    assert!(error.is_err_and(|error| error.contains("name a file in it with -o")));
    let full =
        destination::write(Path::new("/dev/full"), Access::Usual, |writer| Ok(writer.write_all(&vec![0; 1 << 17])?));
    assert!(full.is_err_and(|error| error.to_string().contains("free some space")));
    let error = destination::check(Path::new("/proc/out.svg")).map_err(|error| error.to_string());
    assert!(error.is_err());
    destination::check(&directory.path().join("fine.svg"))?;
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 0, "checking leaves nothing");
    Ok(())
}

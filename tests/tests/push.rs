//! Profiles pushed to servers of this test: what they decode is what happened, and whatever they do the daemon goes on and counts.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::profiles::v1development::{Profile, ProfilesDictionary, ResourceProfiles, Sample};
use prost::Message;
use tests::cgroup::Cgroup;
use tests::daemon::{Daemon, sample};
use tests::pprof::Pprof;
use tests::receiver::{Behaviour, Received, Receiver};
use tests::requirement::kernel;
use tests::workload::Workload;

/// The daemon with a `push:` of its own.
fn pushing(push: &str) -> Result<(Daemon, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("profiler.yml");
    fs::write(&file, format!("node: node-a\npush:\n  interval: 1s\n{push}"))?;
    Ok((Daemon::start(["--config.file".as_ref(), file.as_os_str()])?, directory))
}

/// What a family says of a destination.
fn pushed(daemon: &Daemon, family: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let text = daemon.get("/metrics")?.text();
    sample(&text, family, labels).with_context(|| format!("{family} is not in /metrics"))
}

fn until(daemon: &Daemon, family: &str, labels: &[(&str, &str)], enough: impl Fn(f64) -> bool) -> Result<f64> {
    daemon.until("/metrics", |answer| sample(&answer.text(), family, labels).filter(|value| enough(*value)))
}

// ---- OTLP ----

/// An OTLP request with its tables at hand.
struct Otlp(ExportProfilesServiceRequest, ProfilesDictionary);

impl Otlp {
    fn read(received: &Received) -> Result<Self> {
        let request = ExportProfilesServiceRequest::decode(&*received.body).context("no OTLP request")?;
        let dictionary = request.dictionary.clone().context("no dictionary")?;
        Ok(Self(request, dictionary))
    }

    fn attributes(resource: &ResourceProfiles) -> BTreeMap<&str, &str> {
        let pairs = resource.resource.iter().flat_map(|resource| &resource.attributes);
        pairs
            .filter_map(|pair| match pair.value.as_ref()?.value.as_ref()? {
                Value::StringValue(text) => Some((pair.key.as_str(), text.as_str())),
                _ => None,
            })
            .collect()
    }

    fn text(&self, at: i32) -> &str {
        self.1.string_table.get(at as usize).map_or("?", String::as_str)
    }

    /// Function names, root first.
    fn frames(&self, sample: &Sample) -> Vec<&str> {
        let stack = self.1.stack_table.get(sample.stack_index as usize);
        let locations = stack.iter().flat_map(|stack| &stack.location_indices);
        let lines = locations.filter_map(|at| self.1.location_table.get(*at as usize)).flat_map(|at| &at.lines);
        let mut names: Vec<&str> = lines
            .filter_map(|line| self.1.function_table.get(line.function_index as usize))
            .map(|function| self.text(function.name_strindex))
            .collect();
        names.reverse();
        names
    }

    /// Nanoseconds of CPU that a container used below a function.
    fn cpu_ns(&self, container: &str, function: &str) -> i64 {
        let of = |resource: &&ResourceProfiles| Self::attributes(resource).get("service.name") == Some(&container);
        let is_cpu = |profile: &&Profile| {
            profile.sample_type.is_some_and(|kind| {
                self.text(kind.type_strindex) == "cpu" && self.text(kind.unit_strindex) == "nanoseconds"
            })
        };
        let resources = self.0.resource_profiles.iter().filter(of);
        let profiles = resources.flat_map(|resource| &resource.scope_profiles).flat_map(|scope| &scope.profiles);
        let samples = profiles.filter(is_cpu).flat_map(|profile| &profile.samples);
        samples.filter(|sample| self.frames(sample).contains(&function)).flat_map(|sample| &sample.values).sum()
    }
}

// ---- Pyroscope ----

#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<Series>,
}

#[derive(Clone, PartialEq, Message)]
struct Series {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Raw>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Raw {
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
    #[prost(string, tag = "2")]
    id: String,
}

/// The profiles of a container in all requests.
fn series_of(requests: &[Received], service: &str) -> Result<Vec<(BTreeMap<String, String>, Pprof)>> {
    let mut found = Vec::new();
    for received in requests {
        for series in PushRequest::decode(&*received.body).context("no push.v1 request")?.series {
            let labels: BTreeMap<String, String> =
                series.labels.into_iter().map(|label| (label.name, label.value)).collect();
            if labels.get("service_name").is_some_and(|name| name == service) {
                for raw in series.samples {
                    ensure!(!raw.id.is_empty(), "a profile without an id");
                    found.push((labels.clone(), Pprof::read_from(&*raw.raw_profile)?));
                }
            }
        }
    }
    Ok(found)
}

// ---- tests ----

#[test]
fn what_pyroscope_and_a_collector_decode_is_what_a_container_did() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let (pyroscope, collector) = (Receiver::start(Behaviour::Accept)?, Receiver::start(Behaviour::Accept)?);
    let secrets = tempfile::tempdir()?;
    let password = secrets.path().join("password");
    fs::write(&password, "secret\n")?;
    let (daemon, _directory) = pushing(&format!(
        "  pyroscope:\n    url: {}\n    headers: {{X-Scope-OrgID: team-a}}\n    labels: {{cluster: test}}\n    \
         basic_auth: {{username: alice, password_file: {}}}\n  otlp:\n    url: {}\n",
        pyroscope.url(),
        password.display(),
        collector.url()
    ))?;
    daemon.ready()?;
    let cgroup = Cgroup::new()?;
    let name = cgroup.name().to_owned();
    let arguments = ["--threads", "1", "--duty", "100", "--seconds", "4"];
    let mut spinner = Workload::start_in(&cgroup, "spinner", &arguments)?;
    spinner.begin()?;
    spinner.wait_ended()?;
    // What the scheduler says of it, less what a hundred samples a second may be off.
    let truth_ns = spinner.truth()?.seconds("/exec_ns")? * 1e9;
    let (most_of_it, least_too_much) = (truth_ns * 0.8, truth_ns * 1.2);
    let cpu_ns = collector.until("the collector gets the container's CPU time", |requests| {
        let mut sum = 0;
        for received in requests {
            sum += Otlp::read(received)?.cpu_ns(&name, "spinner_enter");
        }
        Ok((sum as f64 >= most_of_it).then_some(sum as f64))
    })?;
    ensure!(cpu_ns < least_too_much, "the collector is told of {cpu_ns} ns, and it was {truth_ns}");
    let sum = |series: &[(BTreeMap<String, String>, Pprof)]| -> Result<f64> {
        let sums = series.iter().map(|(_, pprof)| {
            pprof.sum("cpu/nanoseconds", |sample| sample.frames.iter().any(|frame| frame == "spinner_enter"))
        });
        sums.sum()
    };
    let series = pyroscope.until("Pyroscope gets the container's CPU time", |requests| {
        let series = series_of(requests, &name)?;
        Ok((sum(&series)? >= most_of_it).then_some(series))
    })?;
    ensure!(sum(&series)? < least_too_much, "Pyroscope is told of {} ns, and it was {truth_ns}", sum(&series)?);
    for (labels, pprof) in &series {
        ensure!(labels["__name__"] == "process_cpu" && labels["cluster"] == "test", "{labels:?}");
        ensure!(labels["node"] == "node-a" && labels["container"] == name, "{labels:?}");
        let others = pprof.samples.iter().flat_map(|sample| sample.labels.keys()).find(|key| *key != "reason");
        ensure!(others.is_none(), "{others:?} would make series of its own");
    }
    let asked = &pyroscope.requests()[0];
    ensure!(asked.path == "/push.v1.PusherService/Push", "{}", asked.path);
    ensure!(asked.headers["content-type"] == "application/proto", "{:?}", asked.headers);
    ensure!(asked.headers["x-scope-orgid"] == "team-a", "{:?}", asked.headers);
    ensure!(asked.headers["authorization"] == "Basic YWxpY2U6c2VjcmV0", "{:?}", asked.headers);
    let asked = &collector.requests()[0];
    ensure!(asked.path == "/v1development/profiles", "{}", asked.path);
    ensure!(asked.headers["content-type"] == "application/x-protobuf", "{:?}", asked.headers);
    for destination in ["pyroscope", "otlp"] {
        let of = [("destination", destination)];
        until(&daemon, "profiler_push_windows_sent_total", &of, |sent| sent >= 4.0)?;
        ensure!(pushed(&daemon, "profiler_push_failures_total", &of)? < 0.5, "{destination} failed: {}", daemon.log());
    }
    ensure!(!daemon.log().contains("secret"), "the password is in the log");
    Ok(())
}

#[test]
fn what_is_not_taken_now_is_sent_again_and_nothing_is_lost() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let collector = Receiver::start(Behaviour::Refuse(503))?;
    let (daemon, _directory) = pushing(&format!("  otlp: {{url: '{}'}}\n", collector.url()))?;
    let of = [("destination", "otlp")];
    until(&daemon, "profiler_push_failures_total", &of, |failures| failures >= 2.0)?;
    let refused = collector.requests();
    ensure!(refused[0].body == refused[1].body, "what was refused is not what is sent again");
    collector.behave(Behaviour::Accept);
    until(&daemon, "profiler_push_windows_sent_total", &of, |sent| sent >= 4.0)?;
    let accepted = collector.requests();
    let first = accepted.iter().rposition(|received| received.body == refused[0].body);
    ensure!(first >= Some(refused.len()), "the first batch never came again");
    for reason in ["queue_full", "refused", "unreadable", "ended"] {
        let of = [("destination", "otlp"), ("reason", reason)];
        ensure!(pushed(&daemon, "profiler_push_windows_dropped_total", &of)? < 0.5, "windows are dropped: {reason}");
    }
    daemon.says("503")?;
    daemon.says("not now")?;
    Ok(())
}

#[test]
fn what_will_never_be_taken_is_dropped_and_counted() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let pyroscope = Receiver::start(Behaviour::Refuse(400))?;
    let (daemon, _directory) = pushing(&format!("  pyroscope: {{url: '{}'}}\n", pyroscope.url()))?;
    let refused = [("destination", "pyroscope"), ("reason", "refused")];
    until(&daemon, "profiler_push_windows_dropped_total", &refused, |windows| windows >= 3.0)?;
    let of = [("destination", "pyroscope")];
    ensure!(pushed(&daemon, "profiler_push_windows_sent_total", &of)? < 0.5, "what was refused counts as sent");
    let bodies: Vec<_> = pyroscope.requests().into_iter().map(|received| received.body).collect();
    ensure!(bodies.windows(2).all(|two| two[0] != two[1]), "what was refused for good is sent again");
    let said = daemon.get("/api/v1/status")?.json()?["push"][0]["last_error"].clone();
    ensure!(said.as_str().is_some_and(|said| said.contains("400")), "the status says {said}");
    daemon.ready()
}

#[test]
fn a_server_that_hangs_holds_nobody_up_and_what_finds_no_room_is_counted() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let (hanging, well) = (Receiver::start(Behaviour::Hang)?, Receiver::start(Behaviour::Accept)?);
    let (daemon, _directory) = pushing(&format!(
        "  timeout: 500ms\n  max_bytes: 1KiB\n  pyroscope: {{url: '{}'}}\n  otlp: {{url: '{}'}}\n",
        hanging.url(),
        well.url()
    ))?;
    let of = [("destination", "pyroscope")];
    // A window of a busy host is larger than a kibibyte, so every one leaves at once.
    let full = [("destination", "pyroscope"), ("reason", "queue_full")];
    until(&daemon, "profiler_push_windows_dropped_total", &full, |windows| windows >= 3.0)?;
    ensure!(pushed(&daemon, "profiler_push_waiting_bytes", &of)? <= 1024.0, "more waits than may");
    drop(daemon);
    let (daemon, _directory) = pushing(&format!(
        "  timeout: 500ms\n  pyroscope: {{url: '{}'}}\n  otlp: {{url: '{}'}}\n",
        hanging.url(),
        well.url()
    ))?;
    until(&daemon, "profiler_push_failures_total", &of, |failures| failures >= 2.0)?;
    let sent = [("destination", "otlp")];
    until(&daemon, "profiler_push_windows_sent_total", &sent, |windows| windows >= 3.0)?;
    ensure!(pushed(&daemon, "profiler_push_windows_sent_total", &of)? < 0.5, "what hangs counts as sent");
    ensure!(daemon.get("/readyz")?.status == 200, "it is ill");
    daemon.says("does not answer")?;
    // With a request under way and more waiting it ends all the same.
    ensure!(daemon.end()?.success(), "it does not end");
    Ok(())
}

#[test]
fn a_destination_that_makes_no_sense_is_refused_at_the_start() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("profiler.yml");
    for (push, named) in [
        ("otlp: {url: 'collector:4318'}", "http"),
        ("otlp: {url: 'http://user:secret@collector'}", "file"),
        ("pyroscope: {headers: {A: b}}", "url"),
        ("pyroscope: {url: 'http://x', header: {}}", "line 2"),
        ("pyroscope: {url: 'http://x', ca_file: /nowhere/ca.pem}", "/nowhere/ca.pem"),
        ("pyroscope: {url: 'http://x', bearer_token_file: /nowhere/token}", "/nowhere/token"),
        ("interval: 1h", "push.interval"),
    ] {
        fs::write(&file, format!("push:\n  {push}\n"))?;
        let finished = tests::program::run(["daemon", "--config.file", &file.display().to_string()])?;
        ensure!(finished.code() != 0 && finished.stderr.contains(named), "{push}: {}", finished.stderr);
        ensure!(!finished.stderr.contains("secret"), "a password is shown: {}", finished.stderr);
    }
    Ok(())
}

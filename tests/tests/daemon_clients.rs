//! Clients that ask too much of a daemon, or what they should not: everybody else is answered all the same.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::daemon::{Answer, Daemon, PATIENCE, sample};
use tests::requirement::kernel;

/// More than there are connections for everything.
const MANY: usize = 140;

/// Longer than a kubelet waits for a probe, with room for a busy machine.
const SOON: Duration = Duration::from_secs(5);

fn begin(daemon: &Daemon, request: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(daemon.address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A connection that is closed at once is an answer too.
    drop(stream.write_all(request.as_bytes()));
    Ok(stream)
}

/// Probes and a scrape, from the address that everybody else has too.
fn is_answered_soon(daemon: &Daemon, while_what: &str) -> Result<()> {
    for path in ["/healthz", "/readyz", "/metrics"] {
        let began = Instant::now();
        let answer = daemon.get(path).with_context(|| format!("{path} while {while_what}"))?;
        ensure!(answer.status == 200, "{path} while {while_what}: {} {}", answer.status, answer.text());
        ensure!(began.elapsed() < SOON, "{path} takes {:?} while {while_what}", began.elapsed());
    }
    Ok(())
}

fn refused(answer: &Answer, reason: &str) -> Option<f64> {
    sample(&answer.text(), "profiler_http_requests_refused_total", &[("reason", reason)])
}

#[test]
fn probes_and_scrapes_are_answered_whoever_holds_the_connections() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    for (what, request) in [
        ("connections say nothing", String::new()),
        ("heads come slowly", "GET /healthz HTTP/1.1\r\nHost: loc".to_owned()),
        ("pulls of five minutes wait", pull(300)),
    ] {
        let held = (0..MANY).map(|_| begin(&daemon, &request)).collect::<Result<Vec<_>>>()?;
        is_answered_soon(&daemon, what)?;
        ensure!(daemon.get("/api/v1/status")?.status == 200, "the API is shut while {what}");
        drop(held);
    }
    let metrics = daemon.get("/metrics")?;
    for reason in ["evicted", "pulls"] {
        ensure!(refused(&metrics, reason).is_some_and(|n| n > 0.0), "{reason}: {}", metrics.text());
    }
    Ok(())
}

fn pull(seconds: u32) -> String {
    format!("GET /debug/pprof/profile?seconds={seconds} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

#[test]
fn requests_that_are_hung_up_on_keep_nobody_waiting() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start([""; 0])?;
    daemon.ready()?;
    for number in 0..200 {
        let path = match number % 4 {
            0 => "flame?min_share=0&from=",
            1 => "timeline?from=",
            2 => "profile?format=svg&from=",
            _ => "containers?from=",
        };
        let request = format!("GET /api/v1/{path}-{}s HTTP/1.1\r\nHost: localhost\r\n\r\n", 3600 + number);
        drop(begin(&daemon, &request)?);
    }
    is_answered_soon(&daemon, "requests are hung up on")?;
    // What needs a turn gets one: nobody who is gone waits for it.
    let answer = daemon.get("/api/v1/report?from=-1h")?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(())
}

#[test]
fn a_name_that_is_not_this_hosts_is_not_served_on_loopback() -> Result<()> {
    let Some(_kernel) = kernel()? else { return Ok(()) };
    let daemon = Daemon::start(["--web.allowed-host", "*.profiles.example,proxy"])?;
    daemon.ready()?;
    let asked =
        |target: &str, host: &str| daemon.ask(&format!("GET {target} HTTP/1.1\r\n{host}Connection: close\r\n\r\n"));
    for target in ["/", "/healthz", "/metrics", "/api/v1/report", "/flamegraph.svg", "/nowhere"] {
        let answer = asked(target, "Host: evil.example:9590\r\n")?;
        ensure!(answer.status == 403 && answer.text().contains("--web.allowed-host"), "{target}: {}", answer.text());
    }
    let port = daemon.address().port();
    for ours in ["localhost", "LOCALHOST.", "127.0.0.1", "[::1]", "node.profiles.example", "proxy"] {
        let answer = asked("/metrics", &format!("Host: {ours}:{port}\r\n"))?;
        ensure!(answer.status == 200, "{ours}: {} {}", answer.status, answer.text());
    }
    for (target, host, status) in [
        ("/metrics", "", 400),
        ("/metrics", "Host: localhost\r\nHost: localhost\r\n", 400),
        ("http://evil.example/metrics", "Host: localhost\r\n", 403),
        ("http://localhost/metrics", "Host: localhost\r\n", 200),
        ("/metrics", "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n", 403),
        ("/metrics", "Host: localhost\r\nOrigin: https://evil.example\r\n", 403),
    ] {
        let answer = asked(target, host)?;
        ensure!(answer.status == status, "{target} {host}: {} {}", answer.status, answer.text());
    }
    ensure!(refused(&daemon.get("/metrics")?, "host").is_some_and(|n| n >= 6.0), "nobody counts them");
    let reload =
        "POST /-/reload HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n";
    ensure!(daemon.ask(reload)?.status == 403, "a page of another site makes it read its configuration");
    // Programs older than HTTP/1.1 do not say whom they ask.
    let mut old = begin(&daemon, "GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    old.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.0 200"), "{text}");
    Ok(())
}

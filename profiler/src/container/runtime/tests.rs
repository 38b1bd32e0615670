//! Runtimes that misbehave, played by Unix sockets in a temporary directory: each is a named warning, in bounded time,
//! and every lookup is answered.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant as StdInstant;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A socket at which `answer` is given each connection on a thread of its own.
fn fake(name: &str, answer: impl Fn(UnixStream) + Send + Sync + Clone + 'static) -> (tempfile::TempDir, RuntimeSocket) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || answer(stream));
        }
    });
    (directory, RuntimeSocket { path, origin: Origin::Named })
}

/// What came of one lookup: everything learnt, every fault, and how long it took until all sources had reported.
fn look_up_once(socket: RuntimeSocket) -> (Vec<Metadata>, Vec<Fault>, Duration) {
    let started = StdInstant::now();
    let thread = MetadataThread::start(vec![socket], StateRoots::none(), KeptLabels::default()).unwrap();
    let mut sources = thread.ask(Lookup { id: Arc::from(ID), age: Age::Old }).unwrap();
    assert_eq!(sources, 2);
    let (mut learnt, mut faults) = (Vec::new(), Vec::new());
    while sources > 0 {
        match thread.updates.recv_timeout(Duration::from_secs(10)).unwrap() {
            Update::Learnt(metadata) => learnt.push(*metadata),
            Update::Finished(id) => {
                assert_eq!(&*id, ID);
                sources -= 1;
            }
            Update::Warning { fault, .. } => faults.push(fault),
        }
    }
    let took = started.elapsed();
    while let Ok(update) = thread.updates.recv_timeout(Duration::from_millis(50)) {
        if let Update::Warning { fault, .. } = update {
            faults.push(fault);
        }
    }
    (learnt, faults, took)
}

fn respond(stream: &mut UnixStream, status: &str, body: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The path of one HTTP request.
fn request(stream: &mut UnixStream) -> Option<String> {
    let mut buffer = [0_u8; 8192];
    let length = stream.read(&mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    text.split(' ').nth(1).map(str::to_owned)
}

/// A Docker that knows one container, with `inspect` for an answer.
fn docker(inspect: &'static str) -> impl Fn(UnixStream) + Send + Sync + Clone + 'static {
    move |mut stream| {
        let Some(path) = request(&mut stream) else { return };
        let sent = match path.as_str() {
            "/_ping" => stream.write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.43\r\nConnection: close\r\n\r\nOK"),
            path if path.contains("/events") => {
                let sent = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                thread::sleep(Duration::from_secs(5));
                sent
            }
            path if path.contains(ID) && inspect.is_empty() => {
                respond(&mut stream, "404 Not Found", r#"{"message":"no"}"#)
            }
            path if path.contains(ID) => respond(&mut stream, "200 OK", inspect),
            _ => respond(&mut stream, "200 OK", "[]"),
        };
        // The client may have hung up.
        drop(sent);
    }
}

#[test]
fn a_runtime_that_answers_names_the_container() {
    let inspect = r#"{"Id":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","Name":"/web",
        "Config":{"Image":"box","Labels":{"proxy.users":"admin:$2y$05$hash","com.docker.compose.project":"shop"}}}"#;
    let (_directory, socket) = fake("docker.sock", docker(inspect));
    let (learnt, faults, _) = look_up_once(socket);
    assert_eq!(faults, []);
    assert_eq!(learnt.len(), 1);
    assert_eq!((learnt[0].name.as_deref(), learnt[0].runtime), (Some("web"), Runtime::Docker));
    assert_eq!(
        learnt[0].labels.keys().collect::<Vec<_>>(),
        ["com.docker.compose.project"],
        "others stay where they are"
    );
    assert_eq!(learnt[0].teller, Some(crate::container::ownership::owner(Path::new("/proc/self"))));
}

#[test]
fn a_container_that_the_runtime_does_not_know_is_no_fault() {
    let (_directory, socket) = fake("docker.sock", docker(""));
    let (learnt, faults, _) = look_up_once(socket);
    assert_eq!((learnt, faults), (vec![], vec![]));
}

#[test]
fn a_socket_that_is_not_there_is_a_fault_if_it_was_named_only() {
    let missing = |origin| RuntimeSocket { path: PathBuf::from("/nowhere/runtime.sock"), origin };
    assert_eq!(look_up_once(missing(Origin::Named)).1, [Fault::Missing]);
    assert_eq!(look_up_once(missing(Origin::WellKnown)).1, []);
}

#[test]
fn a_dead_runtime_that_left_its_socket_refuses_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker.sock");
    drop(UnixListener::bind(&path).unwrap());
    let (learnt, faults, took) = look_up_once(RuntimeSocket { path, origin: Origin::WellKnown });
    assert!(matches!(faults.as_slice(), [Fault::Unreachable(_)]), "{faults:?}");
    assert_eq!(learnt, []);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_hanging_runtime_is_given_up_in_time_under_either_protocol() {
    for name in ["docker.sock", "containerd.sock"] {
        let (_directory, socket) = fake(name, |stream| {
            thread::sleep(Duration::from_secs(20));
            drop(stream);
        });
        let (learnt, faults, took) = look_up_once(socket);
        assert_eq!((learnt, faults.as_slice()), (vec![], &[Fault::Hanging][..]), "{name}");
        assert!(took < Duration::from_secs(6), "{name}: {took:?}");
    }
}

#[test]
fn garbage_is_recognised_whichever_protocol_was_expected() {
    for name in ["docker.sock", "containerd.sock"] {
        let (_directory, socket) = fake(name, |mut stream| {
            // The client may have hung up.
            drop(stream.write_all(b"SSH-2.0-garbage\r\n\x00\xff\xfe"));
            drop(request(&mut stream));
        });
        let (learnt, faults, took) = look_up_once(socket);
        assert!(matches!(faults.as_slice(), [Fault::Garbage(_)]), "{name}: {faults:?}");
        assert_eq!(learnt, []);
        assert!(took < Duration::from_secs(4), "{name}: {took:?}");
    }
}

#[test]
fn an_answer_that_is_not_what_the_api_promises_is_a_fault_and_no_name() {
    let (_directory, socket) = fake("docker.sock", docker("[not json"));
    let (learnt, faults, _) = look_up_once(socket);
    assert!(matches!(faults.as_slice(), [Fault::Failed(_)]), "{faults:?}");
    assert_eq!(learnt, []);
    let (_directory, socket) = fake("docker.sock", |mut stream: UnixStream| {
        drop(request(&mut stream));
        drop(respond(&mut stream, "500 Internal Server Error", "{\"message\":\"broken\"}"));
    });
    let (_, faults, _) = look_up_once(socket);
    assert!(matches!(faults.as_slice(), [Fault::Garbage(_)]), "{faults:?}");
}

#[test]
fn sockets_are_read_as_addresses_and_tried_once() {
    assert_eq!(parse_socket("unix:///run/x.sock").unwrap().path, Path::new("/run/x.sock"));
    assert_eq!(parse_socket("/run/x.sock").unwrap().origin, Origin::Named);
    assert!(parse_socket("tcp://1.2.3.4:2375").unwrap_err().to_string().contains("unix:///run/docker.sock"));
    let named = [parse_socket("/run/docker.sock").unwrap(), parse_socket("/run/./docker.sock").unwrap()];
    let all = sockets(&named, true);
    let dockers = all.iter().filter(|socket| socket.path.ends_with("docker.sock")).count();
    assert_eq!(
        dockers,
        if Path::new("/var/run").canonicalize().ok() == Path::new("/run").canonicalize().ok() { 1 } else { 2 }
    );
    assert_eq!(all[0].origin, Origin::Named);
    assert_eq!(sockets(&named, false).len(), 1);
}

#[test]
fn state_files_are_looked_for_below_their_roots_only() {
    let root = tempfile::tempdir().unwrap();
    let container = root.path().join("containers/abc");
    std::fs::create_dir_all(&container).unwrap();
    std::fs::write(container.join("config.v2.json"), r#"{"ID":"abc","Name":"/web"}"#).unwrap();
    let state = StateRoots { docker: vec![root.path().to_owned()], ..StateRoots::none() };
    assert_eq!(state.read("abc").unwrap().name.as_deref(), Some("web"));
    assert_eq!(state.read("../containers/abc"), None);
    assert_eq!(state.read(""), None);
    assert!(!StateRoots::default().docker.is_empty());
}

#[test]
fn what_is_learnt_later_adds_to_what_is_known() {
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    let mut known = Metadata { id: "x".to_owned(), name: Some("old".to_owned()), labels, ..Metadata::default() };
    let labels = BTreeMap::from([("b".to_owned(), "2".to_owned())]);
    let newer = Metadata { runtime: Runtime::Podman, image: Some("i".to_owned()), labels, ..Metadata::default() };
    known.merge(newer);
    assert_eq!((known.name.as_deref(), known.image.as_deref()), (Some("old"), Some("i")));
    assert_eq!((known.labels.len(), known.runtime), (2, Runtime::Podman));
    known.merge(Metadata { name: Some("new".to_owned()), ..Metadata::default() });
    assert_eq!((known.name.as_deref(), known.runtime), (Some("new"), Runtime::Podman));
}

#[test]
fn every_socket_that_is_asked_answers_or_has_its_fault() {
    let (_directory, closing) = fake("docker.sock", drop);
    let nowhere = RuntimeSocket { path: PathBuf::from("/nonexistent/docker.sock"), origin: Origin::WellKnown };
    let answers = probe(vec![closing.clone(), nowhere.clone()]).unwrap();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0].socket, closing);
    assert!(answers[0].runtime.is_err(), "{answers:?}");
    assert_eq!(answers[1], Answer { socket: nowhere, runtime: Err(Fault::Missing) });
}

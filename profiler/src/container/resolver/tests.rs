//! Cgroups of a directory that plays the hierarchy: whose they are, what they are called, and who may say so.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::path::Path;

use super::*;

const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const B: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

/// A resolver over a directory that plays the hierarchy, with Docker's state files in another.
fn resolver(root: &Path, state: &Path) -> ContainerResolver {
    let hierarchy = Hierarchy::for_tests(&format!("31 23 0:38 / {} rw - cgroup2 cgroup2 rw\n", root.display()));
    let state = StateRoots { docker: vec![state.to_owned()], ..StateRoots::none() };
    let options = ResolverOptions {
        cgroup_root: None,
        sockets: Vec::new(),
        well_known_sockets: false,
        state,
        labels: KeptLabels::default(),
    };
    ContainerResolver::over(hierarchy, Vec::new(), options).unwrap()
}

fn make(root: &Path, path: &str) -> CgroupId {
    fs::create_dir_all(cgroup::directory(root, path)).unwrap();
    cgroup::id_of(root, path).unwrap()
}

fn name(state: &Path, id: &str, name: &str) {
    let directory = state.join("containers").join(id);
    fs::create_dir_all(&directory).unwrap();
    let text = format!(r#"{{"ID":"{id}","Name":"/{name}","Config":{{"Image":"box"}}}}"#);
    fs::write(directory.join("config.v2.json"), text).unwrap();
}

fn key(id: &str) -> ContainerKey {
    ContainerKey::Container(Arc::from(id))
}

#[test]
fn many_cgroups_lead_to_one_container_and_units_and_the_host_have_their_own() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let container = make(root.path(), &format!("/docker/{A}"));
    let nested = make(root.path(), &format!("/docker/{A}/init.scope"));
    let unit = make(root.path(), "/system.slice/nginx.service");
    let slice = make(root.path(), "/system.slice");
    name(state.path(), A, "web");
    fs::write(root.path().join(format!("docker/{A}/cpu.max")), "50000 100000").unwrap();
    let mut resolver = resolver(root.path(), state.path());
    assert_eq!(resolver.container_of(container), key(A));
    assert_eq!(resolver.container_of(nested), key(A));
    assert_eq!(resolver.container_of(unit), ContainerKey::Unit(Arc::from("/system.slice/nginx.service")));
    assert_eq!(resolver.container_of(slice), ContainerKey::Host);
    assert_eq!(resolver.cgroups_of(&key(A)).len(), 2);
    assert_eq!(resolver.cgroups().len(), 6);
    resolver.finish(Duration::from_secs(10));
    let names: Vec<String> = resolver.describe_all().into_iter().map(|found| found.name).collect();
    assert_eq!(names, ["host", "nginx.service", "web"]);
    let web = resolver.describe(&key(A));
    assert_eq!((web.image.as_deref(), web.runtime, web.cpu_limit_cores), (Some("box"), "docker", Some(0.5)));
    assert_eq!(resolver.losses(), ResolverLosses::default());
    assert_eq!(resolver.take_warnings(), Vec::<String>::new());
}

/// Gives a directory and all below it to another user; false where only root could.
fn give_away(root: &Path, path: &str) -> bool {
    let all = cgroup::walk(&cgroup::directory(root, path)).cgroups;
    all.iter().all(|below| {
        let directory = cgroup::directory(&cgroup::directory(root, path), &below.path);
        std::os::unix::fs::chown(directory, Some(1000), None).is_ok()
    })
}

const MANAGER: &str = "/user.slice/user-1000.slice/user@1000.service";

#[test]
fn a_users_cgroup_that_is_called_like_a_container_is_an_entry_of_its_own() {
    for path in [
        format!("{MANAGER}/app.slice/docker-{A}.scope"),
        format!("{MANAGER}/docker/{A}"),
        format!("{MANAGER}/kubepods/burstable/pod8f2f9b6c-3a4e-4a55-9f6b-0d1e2f3a4b5c/{A}"),
        format!("/system.slice/web.service/libpod-{A}.scope"),
    ] {
        let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let container = make(root.path(), &format!("/docker/{A}"));
        let claim = make(root.path(), &path);
        let below = make(root.path(), &format!("{path}/deeper"));
        name(state.path(), A, "payments-db");
        let theirs = if path.starts_with(MANAGER) { MANAGER } else { "/system.slice/web.service" };
        if !give_away(root.path(), theirs) {
            return;
        }
        let mut resolver = resolver(root.path(), state.path());
        resolver.finish(Duration::from_secs(10));
        assert_eq!(resolver.container_of(container), key(A));
        let own = ContainerKey::Delegated(Arc::from(path.as_str()));
        assert_eq!((resolver.container_of(claim), resolver.container_of(below)), (own.clone(), own.clone()));
        assert_eq!(resolver.describe(&key(A)).name, "payments-db");
        let found = resolver.describe(&own);
        assert!(!found.name.contains("payments") && found.id.is_empty() && found.pod.is_none(), "{found:?}");
        assert_eq!((found.cgroup.as_str(), found.container.as_deref()), (path.as_str(), Some(found.name.as_str())));
        assert_eq!(resolver.cgroups_of(&key(A)), [container]);
    }
}

#[test]
fn a_users_cgroup_does_not_take_the_name_of_a_container_that_has_ended() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let claim = make(root.path(), &format!("{MANAGER}/libpod-{A}.scope"));
    name(state.path(), A, "payments-db");
    if !give_away(root.path(), MANAGER) {
        return;
    }
    let mut resolver = resolver(root.path(), state.path());
    resolver.settle(Duration::from_secs(10));
    let own = resolver.container_of(claim);
    let found = resolver.describe(&own);
    assert_eq!((found.name.as_str(), found.runtime), (&A[..12], "podman"), "rootless containers are still told apart");
    assert_eq!(found.image, None);
    // Its user's own runtime may say what it is called.
    let metadata = Metadata {
        id: A.to_owned(),
        name: Some("web".to_owned()),
        pod: Some("p".to_owned()),
        teller: Some(1000),
        ..Metadata::default()
    };
    let mut by_user = self::resolver(root.path(), &state.path().join("none"));
    by_user.learn_metadata(metadata);
    let found = by_user.describe(&own);
    assert_eq!((found.name.as_str(), found.pod), ("web", None), "a pod is not a user's to claim");
}

#[test]
fn a_container_whose_own_cgroup_belongs_to_its_root_keeps_its_name_and_all_below() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let container = make(root.path(), &format!("/system.slice/docker-{A}.scope"));
    let nested = make(root.path(), &format!("/system.slice/docker-{A}.scope/docker/{B}"));
    name(state.path(), A, "builder");
    if !give_away(root.path(), &format!("/system.slice/docker-{A}.scope")) {
        return;
    }
    let mut resolver = resolver(root.path(), state.path());
    resolver.finish(Duration::from_secs(10));
    assert_eq!(resolver.container_of(container), key(A));
    assert_eq!(resolver.container_of(nested), key(A), "what its root makes up is its own");
    assert_eq!(resolver.describe(&key(A)).name, "builder");
}

#[test]
fn of_two_cgroups_of_roots_that_bear_one_id_the_runtimes_word_decides() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (imposter, meant) = (format!("/batch/{A}"), format!("/docker/{A}"));
    let first = make(root.path(), &imposter);
    let mut resolver = resolver(root.path(), state.path());
    let second = make(root.path(), &meant);
    let below = make(root.path(), &format!("{meant}/init"));
    resolver.cgroup_created(second, Some(&meant));
    resolver.cgroup_created(below, Some(&format!("{meant}/init")));
    assert_eq!(resolver.container_of(first), key(A), "who came first, as long as no runtime says otherwise");
    resolver.runtime_means(&Arc::from(A), "/somewhere/else");
    assert_eq!(resolver.container_of(first), key(A));
    resolver.runtime_means(&Arc::from(A), &format!("{meant}/init"));
    assert_eq!([second, below].map(|id| resolver.container_of(id)), [key(A), key(A)]);
    assert_eq!(resolver.container_of(first), ContainerKey::Delegated(Arc::from(imposter.as_str())));
    assert_eq!(resolver.describe(&key(A)).cgroup, meant);
    // A container that is made anew elsewhere takes over when the first has ended.
    resolver.cgroup_removed(second);
    let anew = make(root.path(), &format!("/again/{A}"));
    assert_eq!(resolver.cgroup_created(anew, Some(&format!("/again/{A}"))), Some(key(A)));
}

#[test]
fn labels_make_a_container_a_pods_below_kubepods_alone() {
    const POD: &str = "/kubepods/burstable/pod8f2f9b6c-3a4e-4a55-9f6b-0d1e2f3a4b5c";
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(root.path(), &format!("/docker/{A}"));
    make(root.path(), &format!("{POD}/{B}"));
    for id in [A, B] {
        name(state.path(), id, "web");
        let labels = r#"{"io.kubernetes.pod.name":"api-0","io.kubernetes.pod.namespace":"kube-system","io.kubernetes.container.name":"api"}"#;
        let text = format!(r#"{{"ID":"{id}","Name":"/web","Config":{{"Image":"box","Labels":{labels}}}}}"#);
        fs::write(state.path().join("containers").join(id).join("config.v2.json"), text).unwrap();
    }
    let mut resolver = resolver(root.path(), state.path());
    resolver.finish(Duration::from_secs(10));
    let (outside, inside) = (resolver.describe(&key(A)), resolver.describe(&key(B)));
    assert_eq!((outside.name.as_str(), outside.pod, outside.namespace), ("web", None, None));
    assert_eq!((inside.name.as_str(), inside.namespace.as_deref()), ("kube-system/api-0/api", Some("kube-system")));
    assert!(outside.labels.is_empty() && inside.labels.is_empty());
}

#[test]
fn a_container_that_comes_and_goes_is_known_by_its_hint_alone() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    name(state.path(), A, "brief");
    let mut resolver = resolver(root.path(), state.path());
    // Gone before anybody could look: only the event tells its path.
    let id = CgroupId(987_654_321);
    assert_eq!(resolver.cgroup_created(id, Some(&format!("/docker/{A}"))), Some(key(A)));
    resolver.cgroup_removed(id);
    assert!(resolver.settle(Duration::from_secs(10)));
    assert_eq!(resolver.describe(&key(A)).name, "brief");
    assert!(!resolver.is_populated(&key(A)));
    assert_eq!(resolver.container_of(id), key(A));
    resolver.forget_removed(Duration::from_mins(1));
    assert_eq!(resolver.container_of(id), key(A));
    resolver.forget_removed(Duration::ZERO);
    assert_eq!(resolver.container_of(id), ContainerKey::Host);
    // What has been forgotten still has a description.
    assert_eq!(resolver.describe(&key(A)).name, A[..12]);
}

#[test]
fn an_id_without_a_path_is_searched_for_and_an_unknown_one_is_counted_once() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut resolver = resolver(root.path(), state.path());
    let late = make(root.path(), &format!("/docker/{B}"));
    assert_eq!(resolver.cgroup_created(late, None), Some(key(B)));
    assert_eq!(resolver.cgroup_created(CgroupId(u64::MAX), None), None);
    for _ in 0..3 {
        assert_eq!(resolver.container_of(CgroupId(u64::MAX)), ContainerKey::Host);
    }
    assert_eq!(resolver.losses().unknown_cgroups, 1);
    // Without any hint a walk finds it, though not for every id anew.
    let unannounced = make(root.path(), &format!("/docker/{A}"));
    std::thread::sleep(REWALK);
    assert_eq!(resolver.container_of(unannounced), key(A));
}

#[test]
fn containers_that_nobody_names_keep_their_short_id_and_are_told_of() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(root.path(), &format!("/docker/{A}"));
    let mut resolver = resolver(root.path(), state.path());
    resolver.finish(Duration::from_secs(10));
    assert_eq!(resolver.describe(&key(A)).name, A[..12]);
    assert_eq!(resolver.losses().unnamed_containers, 1);
    let warnings = resolver.take_warnings();
    assert!(warnings[0].contains("0123456789ab (docker)"), "{warnings:?}");
    resolver.finish(Duration::ZERO);
    resolver.finish(Duration::ZERO);
    assert_eq!(resolver.take_warnings().len(), 1);
}

#[test]
fn who_has_a_process_is_populated() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(root.path(), &format!("/docker/{A}/nested"));
    make(root.path(), &format!("/docker/{B}"));
    make(root.path(), "/a.service");
    fs::write(root.path().join(format!("docker/{A}/nested/cgroup.procs")), "1\n").unwrap();
    fs::write(root.path().join(format!("docker/{B}/cgroup.procs")), "").unwrap();
    fs::write(root.path().join("a.service/cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    let resolver = resolver(root.path(), state.path());
    assert!(resolver.is_populated(&key(A)));
    assert!(!resolver.is_populated(&key(B)));
    assert!(resolver.is_populated(&ContainerKey::Unit(Arc::from("/a.service"))));
    assert!(resolver.is_populated(&ContainerKey::Host));
    assert!(!resolver.is_populated(&key("unheard-of")));
}

#[test]
fn this_process_is_found_through_proc_and_a_dead_one_is_not() {
    let mut resolver = ContainerResolver::start(ResolverOptions::default()).unwrap();
    assert!(resolver.process_seen(std::process::id()).is_some());
    assert_eq!(resolver.process_seen(u32::MAX), None);
}

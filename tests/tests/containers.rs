//! Containers of real runtimes keep their names: long-lived ones, ones that live 200 ms, and with a runtime that is dead.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use profiler::container::runtime::labels::KeptLabels;
use profiler::container::runtime::{Origin, RuntimeSocket, StateRoots};
use profiler::container::{CgroupId, ContainerKey, ContainerResolver, Description, ResolverOptions, cgroup};
use tests::containers::{CRI, Cri, DOCKER, Docker, IMAGE, PODMAN, Podman, RunOptions};
use tests::require;

/// What a recording waits for names at its end.
const FINISH: Duration = Duration::from_millis(1500);
/// What a test waits: Podman lets requests wait while another container of its storage begins or ends.
const PATIENCE: Duration = Duration::from_secs(15);

/// A resolver that knows these sockets and nothing else.
fn resolver(sockets: &[PathBuf], state: StateRoots) -> anyhow::Result<ContainerResolver> {
    let sockets = sockets.iter().map(|path| RuntimeSocket { path: path.clone(), origin: Origin::Named }).collect();
    let labels = KeptLabels::parse(&["tier".to_owned()])?;
    let options = ResolverOptions { cgroup_root: None, sockets, well_known_sockets: false, state, labels };
    Ok(ContainerResolver::start(options)?)
}

fn key(id: &str) -> ContainerKey {
    ContainerKey::Container(Arc::from(id))
}

fn sleeper(name: &str) -> RunOptions {
    RunOptions::new(name, ["sleep", "1000"])
}

/// The cgroup id of a process, the way the kernel programs would see it.
fn cgroup_of(resolver: &ContainerResolver, pid: u32) -> anyhow::Result<CgroupId> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = resolver.hierarchy().path_of_process(&text).context("the process has no path in the hierarchy")?;
    cgroup::id_of(&resolver.hierarchy().root, path).context("the cgroup is gone")
}

fn described(resolver: &mut ContainerResolver, id: &str) -> Description {
    let answered = resolver.settle(PATIENCE);
    // Shown where a test fails.
    println!("all lookups answered: {answered}; warnings: {:?}", resolver.take_warnings());
    resolver.describe(&key(id))
}

/// Follows the hierarchy as the kernel's events would, until `done` or a few seconds have passed.
fn follow_until(resolver: &mut ContainerResolver, mut done: impl FnMut() -> bool) {
    let root = resolver.hierarchy().root.clone();
    let mut known: Vec<CgroupId> = resolver.cgroups().into_iter().map(|(id, _)| id).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() && Instant::now() < deadline {
        for cgroup in cgroup::walk(Path::new(&root)).cgroups {
            if !known.contains(&cgroup.id) {
                known.push(cgroup.id);
                resolver.cgroup_created(cgroup.id, Some(&cgroup.path));
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_docker_container_has_its_name_image_labels_and_limit() -> anyhow::Result<()> {
    require!(DOCKER[0], DOCKER[1], DOCKER[2], DOCKER[3]);
    let docker = Docker::shared()?;
    let labelled = sleeper("web").label("tier", "front").label("proxy.users", "admin:hash");
    let container = docker.run(&labelled.cpus(0.3))?;
    let mut resolver = resolver(&[docker.socket()], StateRoots::none())?;
    let id = cgroup_of(&resolver, container.pid)?;
    ensure!(resolver.container_of(id) == key(&container.id), "{:?}", resolver.container_of(id));
    let found = described(&mut resolver, &container.id);
    ensure!(found.name == "web", "{found:?}");
    ensure!(found.runtime == "docker" && found.id == container.id, "{found:?}");
    ensure!(found.image.as_deref().is_some_and(|image| IMAGE.ends_with(image)), "{found:?}");
    ensure!(found.labels.get("tier").is_some_and(|tier| tier == "front"), "{found:?}");
    ensure!(!found.labels.contains_key("proxy.users"), "nobody asked for it: {found:?}");
    ensure!(found.cpu_limit_cores == Some(0.3), "{found:?}");
    ensure!(found.cgroup == format!("/docker/{}", container.id), "{found:?}");
    ensure!(resolver.is_populated(&found.key));
    ensure!(resolver.take_warnings().iter().all(|warning| !warning.contains("runtime at")));
    Ok(())
}

#[test]
fn a_podman_container_has_its_name_by_service_and_by_storage() -> anyhow::Result<()> {
    require!(PODMAN[0], PODMAN[1], PODMAN[2], PODMAN[3]);
    let podman = Podman::shared()?;
    let container = podman.run(&sleeper("batch").label("tier", "back"))?;
    let storage = StateRoots { storage: vec![podman.storage_root()], ..StateRoots::none() };
    for (sockets, state) in [(vec![podman.socket()], StateRoots::none()), (vec![], storage)] {
        let mut resolver = resolver(&sockets, state)?;
        ensure!(resolver.process_seen(container.pid) == Some(key(&container.id)));
        let found = described(&mut resolver, &container.id);
        ensure!(found.name == "batch" && found.runtime == "podman", "{sockets:?} {found:?}");
        ensure!(found.image.as_deref() == Some(IMAGE), "{sockets:?} {found:?}");
        ensure!(found.cgroup.ends_with(&format!("libpod-{}", container.id)), "{found:?}");
    }
    Ok(())
}

#[test]
fn a_kubernetes_container_has_its_namespace_pod_and_name_by_cri_and_by_bundle() -> anyhow::Result<()> {
    require!(CRI[0], CRI[1], CRI[2], CRI[3]);
    let cri = Cri::shared()?;
    let pod = Arc::new(cri.run_pod("shop", "cart-0")?);
    let container = pod.run(&sleeper("app").cpus(0.5))?;
    let bundles = StateRoots { bundles: vec![cri.bundles()], ..StateRoots::none() };
    for (sockets, state) in [(vec![cri.socket()], StateRoots::none()), (vec![], bundles)] {
        let mut resolver = resolver(&sockets, state)?;
        let id = cgroup_of(&resolver, container.pid)?;
        ensure!(resolver.container_of(id) == key(&container.id));
        let found = described(&mut resolver, &container.id);
        ensure!(found.name == "shop/cart-0/app" && found.runtime == "containerd", "{sockets:?} {found:?}");
        ensure!(found.pod.as_deref() == Some("cart-0") && found.namespace.as_deref() == Some("shop"), "{found:?}");
        ensure!(found.container.as_deref() == Some("app"), "{found:?}");
        ensure!(found.image.as_deref() == Some(IMAGE), "{sockets:?} {found:?}");
        ensure!(found.cpu_limit_cores == Some(0.5), "{found:?}");
        ensure!(found.cgroup == format!("/kubepods/burstable/pod{}/{}", pod.uid, container.id), "{found:?}");
        let sandbox = described(&mut resolver, &pod.sandbox);
        ensure!(sandbox.name == "shop/cart-0" && sandbox.container.is_none(), "{sandbox:?}");
    }
    Ok(())
}

#[test]
fn docker_containers_that_live_200_ms_keep_their_names() -> anyhow::Result<()> {
    require!(DOCKER[0], DOCKER[1], DOCKER[2], DOCKER[3]);
    let docker = Docker::shared()?;
    let mut resolver = resolver(&[docker.socket()], StateRoots::none())?;
    let runner = std::thread::spawn(move || -> anyhow::Result<Vec<String>> {
        let ids = (0..3).map(|number| {
            let mut command = docker.command();
            command.args(["run", "--rm", "--network=none", &format!("--name=brief-{number}"), IMAGE]);
            // The id of a container is its first process's last cgroup component.
            let output = command.args(["sh", "-c", "cat /proc/self/cgroup; sleep 0.2"]).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let id = text.lines().find_map(|line| line.rsplit_once("/docker/")).map(|(_, id)| id.to_owned());
            id.with_context(|| format!("no container id in {text}{}", String::from_utf8_lossy(&output.stderr)))
        });
        ids.collect()
    });
    follow_until(&mut resolver, || runner.is_finished());
    let ids = runner.join().map_err(|_| anyhow::anyhow!("the runner panicked"))??;
    for (number, id) in ids.iter().enumerate() {
        let found = described(&mut resolver, id);
        ensure!(found.name == format!("brief-{number}") && found.image.is_some(), "{found:?}");
    }
    Ok(())
}

#[test]
fn podman_and_kubernetes_containers_that_live_200_ms_keep_their_names() -> anyhow::Result<()> {
    require!(PODMAN[0], PODMAN[1], PODMAN[2], PODMAN[3], CRI[1], CRI[2]);
    let (podman, cri) = (Podman::shared()?, Cri::shared()?);
    let mut resolver = resolver(&[podman.socket(), cri.socket()], StateRoots::none())?;
    let runner = std::thread::spawn(move || -> anyhow::Result<(String, String)> {
        let brief = |name: &str| RunOptions::new(name, ["sleep", "0.2"]);
        let by_podman = podman.run(&brief("brief-podman"))?;
        let pod = Arc::new(cri.run_pod("jobs", "job-1")?);
        let by_cri = pod.run(&brief("brief-cri"))?;
        std::thread::sleep(Duration::from_millis(400));
        Ok((by_podman.id.clone(), by_cri.id.clone()))
    });
    follow_until(&mut resolver, || runner.is_finished());
    let (by_podman, by_cri) = runner.join().map_err(|_| anyhow::anyhow!("the runner panicked"))??;
    let found = described(&mut resolver, &by_podman);
    ensure!(found.name == "brief-podman" && found.image.is_some(), "{found:?}");
    let found = described(&mut resolver, &by_cri);
    ensure!(found.name == "jobs/job-1/brief-cri" && found.image.is_some(), "{found:?}");
    Ok(())
}

#[test]
fn equal_names_in_two_runtimes_stay_apart() -> anyhow::Result<()> {
    require!(DOCKER[0], DOCKER[1], DOCKER[2], DOCKER[3], PODMAN[1], PODMAN[2]);
    let (docker, podman) = (Docker::shared()?, Podman::shared()?);
    let one = docker.run(&sleeper("twin"))?;
    let other = podman.run(&sleeper("twin"))?;
    let mut resolver = resolver(&[docker.socket(), podman.socket()], StateRoots::none())?;
    ensure!(described(&mut resolver, &one.id).name == "twin@docker");
    ensure!(described(&mut resolver, &other.id).name == "twin@podman");
    Ok(())
}

#[test]
fn a_users_cgroup_that_bears_a_containers_id_is_neither_that_container_nor_called_like_it() -> anyhow::Result<()> {
    require!(DOCKER[0], DOCKER[1], DOCKER[2], DOCKER[3]);
    let docker = Docker::shared()?;
    let container = docker.run(&sleeper("victim"))?;
    let mut resolver = resolver(&[docker.socket()], StateRoots::none())?;
    let root = resolver.hierarchy().root.clone();
    let manager = cgroup::directory(&root, &format!("/user.slice/user@{}.service", std::process::id()));
    let claim = manager.join(format!("app.slice/docker-{}.scope", container.id));
    fs::create_dir_all(&claim)?;
    let outcome = (|| -> anyhow::Result<()> {
        for directory in [&manager, &manager.join("app.slice"), &claim] {
            std::os::unix::fs::chown(directory, Some(1000), Some(1000))?;
        }
        let path = format!("/{}", claim.strip_prefix(&root)?.display());
        let id = cgroup::id_of(&root, &path).context("the cgroup is gone")?;
        ensure!(resolver.cgroup_created(id, Some(&path)) != Some(key(&container.id)), "it counts as the container");
        ensure!(described(&mut resolver, &container.id).name == "victim");
        let own = resolver.container_of(id);
        let found = resolver.describe(&own);
        ensure!(!found.name.contains("victim") && found.id.is_empty() && found.image.is_none(), "{found:?}");
        Ok(())
    })();
    for directory in [&claim, &manager.join("app.slice"), &manager] {
        fs::remove_dir(directory)?;
    }
    outcome
}

#[test]
fn a_process_that_is_moved_after_its_fork_is_found_where_it_is_now() -> anyhow::Result<()> {
    require!(DOCKER[0], DOCKER[1], DOCKER[2], DOCKER[3]);
    let docker = Docker::shared()?;
    let container = docker.run(&sleeper("mover"))?;
    let mut resolver = resolver(&[docker.socket()], StateRoots::none())?;
    let mut child = std::process::Command::new("sleep").arg("1000").spawn()?;
    let outcome = (|| -> anyhow::Result<()> {
        let before = resolver.process_seen(child.id());
        ensure!(before.is_some() && before != Some(key(&container.id)), "{before:?}");
        // As runtimes do: fork first, then join a cgroup below the container's.
        let directory = cgroup::directory(&resolver.hierarchy().root, &format!("/docker/{}", container.id));
        let below = directory.join("below");
        fs::create_dir(&below)?;
        fs::write(below.join("cgroup.procs"), child.id().to_string())?;
        ensure!(resolver.process_seen(child.id()) == Some(key(&container.id)));
        let id = cgroup_of(&resolver, child.id())?;
        ensure!(resolver.container_of(id) == key(&container.id));
        ensure!(resolver.cgroups_of(&key(&container.id)).len() == 2);
        Ok(())
    })();
    child.kill()?;
    child.wait()?;
    outcome
}

#[test]
fn a_dead_runtime_leaves_short_ids_and_a_warning_and_costs_no_time() -> anyhow::Result<()> {
    require!(DOCKER[0], DOCKER[1], DOCKER[2], DOCKER[3]);
    let docker = Docker::shared()?;
    let container = docker.run(&sleeper("orphan"))?;
    let dead = tempfile::tempdir()?;
    let socket = dead.path().join("docker.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket)?);
    let started = Instant::now();
    let mut by_socket = resolver(std::slice::from_ref(&socket), StateRoots::none())?;
    ensure!(started.elapsed() < Duration::from_millis(500), "start took {:?}", started.elapsed());
    by_socket.finish(FINISH);
    let found = by_socket.describe(&key(&container.id));
    ensure!(started.elapsed() < Duration::from_secs(2), "finish took {:?}", started.elapsed());
    ensure!(found.name == container.id[..12] && found.runtime == "docker", "{found:?}");
    let warnings = by_socket.take_warnings().join("\n");
    ensure!(warnings.contains(&socket.display().to_string()) && warnings.contains("cannot connect"), "{warnings}");
    ensure!(warnings.contains(&container.id[..12]) && warnings.contains("--runtime-socket"), "{warnings}");
    ensure!(by_socket.losses().unnamed_containers >= 1);

    // The daemon's state files know the name all the same.
    let state = StateRoots { docker: vec![docker.data_root()], ..StateRoots::none() };
    let mut by_state = resolver(&[socket], state)?;
    ensure!(described(&mut by_state, &container.id).name == "orphan");
    Ok(())
}

#[test]
fn an_ended_container_is_forgotten_only_when_asked_to() -> anyhow::Result<()> {
    require!(DOCKER[0], DOCKER[1], DOCKER[2], DOCKER[3]);
    let docker = Docker::shared()?;
    let container = docker.run(&sleeper("ephemeral"))?;
    let mut resolver = resolver(&[docker.socket()], StateRoots::none())?;
    let id = cgroup_of(&resolver, container.pid)?;
    ensure!(described(&mut resolver, &container.id).name == "ephemeral");
    let ended = container.id.clone();
    drop(container);
    resolver.cgroup_removed(id);
    ensure!(!resolver.is_populated(&key(&ended)));
    ensure!(resolver.container_of(id) == key(&ended));
    ensure!(resolver.describe(&key(&ended)).name == "ephemeral");
    resolver.forget_removed(Duration::from_mins(1));
    ensure!(resolver.container_of(id) == key(&ended));
    resolver.forget_removed(Duration::ZERO);
    ensure!(resolver.container_of(id) == ContainerKey::Host);
    ensure!(resolver.losses().unknown_cgroups == 1);
    Ok(())
}

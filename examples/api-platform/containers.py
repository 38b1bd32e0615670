"""The platform's containers, by a Docker Engine of its own without networks: each sees loopback of the host. The image is
empty but for links: programs come from the host's /usr, mounted read-only, since no registry is asked for anything."""
import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time

LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
FOLDERS = ["usr", "etc", "proc", "sys", "dev", "tmp", "work", "run", "var", "var/run", "root"]
IMAGE = "sprint/base:1"


def call(*command, **options):
    """Runs a program to its end and returns what it printed; its errors are part of ours."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-600:]}")
    return done.stdout.strip()


def wait_for(what, check, seconds=30):
    end = time.monotonic() + seconds
    while True:
        try:
            if check():
                return
        except (OSError, RuntimeError) as error:
            what = f"{what.split(' (')[0]} ({error})"
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not so within {seconds} s")
        time.sleep(0.1)


def listens(port):
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def weigh_containers(shares):
    """Sets the share of all containers beside what else runs here: a busy host is not what the sprint is about."""
    for path, value in (("/sys/fs/cgroup/cpu/docker/cpu.shares", shares), ("/sys/fs/cgroup/docker/cpu.weight", shares * 100 // 1024)):
        if os.path.exists(path):
            with open(path, "w") as weight:
                weight.write(str(min(value, 262144 if path.endswith("shares") else 10000)))


class Docker:
    """A Docker Engine and the containers it was asked for; all end with the `with` block."""

    def __init__(self, work, shared):
        self.work, self.shared = work, shared
        self.ground = tempfile.mkdtemp(prefix="sprint", dir="/tmp")
        self.socket = f"{self.ground}/docker.sock"
        self.names = []

    def __enter__(self):
        log = open(f"{self.work}/dockerd.log", "w")
        self.daemon = subprocess.Popen(
            ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs",
             "--exec-opt=native.cgroupdriver=cgroupfs", "--shutdown-timeout=2", "--log-level=warn",
             f"--data-root={self.ground}/data", f"--exec-root={self.ground}/exec", f"--pidfile={self.ground}/pid",
             f"--host=unix://{self.socket}"], stdout=log, stderr=log)
        try:
            wait_for("dockerd answers", lambda: self("version"))
            self._import()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in reversed(self.names):
            subprocess.run(self._words("rm", "--force", name), capture_output=True)
        weigh_containers(1024)
        self.daemon.terminate()
        self.daemon.wait()
        subprocess.run(["umount", "--lazy", *self._mounts()], capture_output=True)
        shutil.rmtree(self.ground, ignore_errors=True)

    def _mounts(self):
        with open("/proc/self/mounts") as mounts:
            return [line.split()[1] for line in mounts if line.split()[1].startswith(self.ground)]

    def _words(self, *words):
        return ["docker", "--host", f"unix://{self.socket}", *words]

    def __call__(self, *words):
        return call(*self._words(*words))

    def _import(self):
        path = f"{self.ground}/image.tar"
        with tarfile.open(path, "w") as image:
            for name in FOLDERS:
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
                image.addfile(entry)
            for name, to in LINKS.items():
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, to
                image.addfile(entry)
            passwd = b"root:x:0:0::/root:/bin/sh\n"
            entry = tarfile.TarInfo("etc/passwd")
            entry.size = len(passwd)
            image.addfile(entry, io.BytesIO(passwd))
        self("import", path, IMAGE)

    def run(self, name, *command, wait=False):
        """Starts a container; its command is a program of the host or a path in the checkout."""
        words = ["run", "--name", name, "--network", "host", "--volume", "/usr:/usr:ro", "--volume", "/etc:/etc:ro",
                 "--volume", f"{self.work}:/work", "--workdir", "/work"]
        for path in self.shared:
            words += ["--volume", f"{path}:{path}:ro"]
        self.names.append(name)
        weigh_containers(64 * 1024)
        return self(*words, *(["--rm"] if wait else ["--detach"]), IMAGE, *map(str, command))

    def remove(self, name):
        self("rm", "--force", name)
        self.names.remove(name)

    def cpu_seconds(self, name):
        """CPU time of a container so far, by the kernel's accounting."""
        number = self("inspect", "--format", "{{.Id}}", name)
        for path, scale in ((f"/sys/fs/cgroup/cpuacct/docker/{number}/cpuacct.usage", 1e9),
                            (f"/sys/fs/cgroup/cpu,cpuacct/docker/{number}/cpuacct.usage", 1e9)):
            if os.path.exists(path):
                with open(path) as usage:
                    return int(usage.read()) / scale
        with open(f"/sys/fs/cgroup/docker/{number}/cpu.stat") as stat:
            return int(dict(line.split() for line in stat)["usage_usec"]) / 1e6

"""The sprint: a platform of an API, a Redis Cluster and an nginx edge, each in a container, under load; the profiler says
what to change, the change is made by a flag of the API, and the next round shows what it brought.

    sprint.py rounds       three rounds and the acceptance table (`--quick`: shorter, fewer words)
    sprint.py integration  the fixed platform under JMeter; success rate
    sprint.py validate     the acceptance table of a fresh run of the first and the last round

Ends with 0 when done, 3 when a criterion is not met, 1 when something failed."""
import argparse
import json
import os
import signal
import subprocess
import sys
import urllib.request

import yaml

from containers import Docker, call, listens, wait_for
from load import JMeter, Locust, edge_hits, redis_hits

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TARGET = os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR") or "target")
RELEASE = f"{TARGET}/release"
WORK = f"{TARGET}/api-platform/work"
PROFILER = os.environ.get("PROFILER_BIN", f"{RELEASE}/profiler")
REDIS = range(7601, 7607)
# What can be changed, and which target asks for it.
FIXES = {
    "--own-clients": ("each connection has its own client of the cache, no lock",
                      lambda target: target["kind"] == "lock_contention"),
    "--rank-once": ("offers are ranked once a product, not once a request",
                    lambda target: "rank_offers" in str(target["blame"]) or target["kind"] in ("cpu_hotspot", "cpu_oversubscribed")),
    "--ask-together": ("one question to each master, not one an offer",
                       lambda target: target["kind"] in ("network_wait", "small_io", "syscall_storm", "kernel_overhead")),
}


class Platform:
    def __init__(self, docker):
        self.docker = docker

    def start_cache(self):
        for port in REDIS:
            folder = f"/work/redis-{port}"
            os.makedirs(WORK + folder.removeprefix("/work"), exist_ok=True)
            self.docker.run(f"redis-{port}", "/usr/bin/redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", folder,
                            "--cluster-enabled", "yes", "--cluster-config-file", f"{folder}/nodes.conf", "--save", "",
                            "--appendonly", "no", "--cluster-node-timeout", 5000)
        for port in REDIS:
            wait_for(f"redis listens at {port}", lambda port=port: listens(port))
        call("redis-cli", "--cluster", "create", *[f"127.0.0.1:{port}" for port in REDIS], "--cluster-replicas", "1",
             "--cluster-yes")
        wait_for("the cluster is whole", lambda: "cluster_state:ok" in self.redis(REDIS[0], "cluster", "info"))

    @staticmethod
    def redis(port, *command):
        return call("redis-cli", "-p", str(port), *command)

    def start_edge(self):
        os.makedirs(f"{WORK}/nginx", exist_ok=True)
        self.docker.run("edge", "/usr/sbin/nginx", "-c", f"{HERE}/nginx.conf", "-e", "/work/nginx/error.log")
        wait_for("the edge listens", lambda: listens(8680))

    def start_api(self, flags):
        self.docker.run("api", f"{RELEASE}/api-service", "--cache", f"127.0.0.1:{REDIS[0]}", *flags)
        wait_for("the API listens", lambda: listens(8600))

    def warm(self):
        """Fills the cache, as it is on a day like any other."""
        self.start_api(list(FIXES))
        for product in range(500):
            with urllib.request.urlopen(f"http://127.0.0.1:8600/api/v1/products/{product}", timeout=10) as answer:
                answer.read()
        self.docker.remove("api")
        for port in REDIS:
            self.redis(port, "config", "resetstat")

    def roles(self):
        nodes = self.redis(REDIS[0], "cluster", "nodes").splitlines()
        return sum("master" in node.split()[2] for node in nodes), sum("slave" in node.split()[2] for node in nodes)

    def cache_hits(self):
        pairs = [redis_hits(self.redis(port, "info", "stats")) for port in REDIS]
        hits, misses = map(sum, zip(*pairs))
        return hits, hits + misses


def next_fix(targets, done):
    """The change that the highest-ranked target asks for which one of ours serves; and why."""
    left = [flag for flag in FIXES if flag not in done]
    for target in targets:
        for flag in left:
            if FIXES[flag][1](target):
                return flag, f"target {target['rank']}, {target['kind']}, asks for it"
    return left[0], "no target asks for any of the changes left"


class Recording:
    """A recording of the API that begins before the load does and lasts as long: a busy host attaches late."""

    def __init__(self, docker, name, seconds):
        # By id, since a busy runtime may be slow to tell names.
        self.number = docker("inspect", "--format", "{{.Id}}", "api")[:12]
        self.path, self.picture = f"{WORK}/{name}.profile", f"{WORK}/{name}.svg"
        self.recorder = subprocess.Popen(
            ["nice", "-n", "-10", PROFILER, "record", "--duration", f"{seconds}s", "--container", self.number,
             "--runtime-socket", f"unix://{docker.socket}", "--output", self.path], stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.recorder.stderr:
            said.append(line)
            if line.startswith("recording"):
                return
        raise RuntimeError(f"the profiler did not begin to record: {''.join(said).strip()}")

    def finish(self):
        """The report, and the names that the API has in it."""
        said = self.recorder.communicate()[1]
        if self.recorder.returncode:
            raise RuntimeError(f"the profiler ended with {self.recorder.returncode}: {said.strip()}")
        report = json.loads(call(PROFILER, "report", "--format", "json", self.path))
        call(PROFILER, "flamegraph", "--kind", "wall", "--output", self.picture, self.path)
        return report, ("api", self.number)


def verdict(before, after, work_before, work_after):
    """What `profiler diff` says of two recordings, normalised by requests."""
    done = subprocess.run([PROFILER, "diff", before, after, "--work-a", str(work_before), "--work-b", str(work_after),
                           "--unit", "requests"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode in (0, 3) else f"no verdict: {done.stderr.strip().splitlines()[:1]}"


def describe(report, names):
    targets = [target for target in report.get("targets", []) if target["container"] in names]
    lines = [f"    {target['rank']}. {target['kind']}: {target['title']}" for target in targets[:3]]
    ledger = next((entry["ledger"] for entry in report["containers"] if entry["name"] in names), {})
    waits = {part: round(value, 2) for part, value in ledger.items() if part != "thread_s" and value > 0.05}
    return targets, lines or ["    no target is ranked"], waits


class Sprint:
    def __init__(self, options):
        self.options = options
        self.locust, self.jmeter = Locust(WORK, HERE), JMeter(WORK, HERE)

    def round(self, platform, flags, why, before=None):
        name = flags[-1].removeprefix("--") if flags else "as-it-was"
        docker, seconds = platform.docker, self.options.seconds
        platform.start_api(flags)
        recording = Recording(docker, name, seconds + 4)
        cpu = docker.cpu_seconds("api")
        figures = self.locust.run(docker, name, self.options.users, seconds)
        figures["cpu_ms"] = (docker.cpu_seconds("api") - cpu) * 1000 / max(1, figures["requests"])
        report, names = recording.finish()
        docker.remove("api")
        targets, lines, waits = describe(report, names)
        figures |= {"name": name, "recording": recording.path, "targets": targets, "ledger": waits}
        print(f"\nround {len(flags)}: {name} ({why})\n  {figures['requests']} requests, {figures['rate']:.0f} a second, "
              f"p50 {figures['p50']:.0f} ms, p95 {figures['p95']:.0f} ms, {figures['cpu_ms']:.2f} ms CPU a request")
        print(f"  ledger of the API: {waits}\n  the profiler says:", *lines, sep="\n" if lines else "")
        if before:
            figures["verdict"] = verdict(before["recording"], figures["recording"], before["requests"], figures["requests"])
            print(f"  verdict on the change: {figures['verdict']}")
        sys.stdout.flush()
        return figures

    def rounds(self, platform):
        """As it was, and then one change after the other, each the one that the profiler asks for first."""
        flags, why, done = [], "what sprint 12 found", []
        while True:
            done.append(self.round(platform, flags, why, done[-1] if done else None))
            if len(flags) == len(FIXES):
                return done
            flag, reason = next_fix(done[-1]["targets"], flags)
            flags, why = [*flags, flag], f"{FIXES[flag][0]}; {reason}"

    def ends(self, platform):
        """The first round and the last."""
        first = self.round(platform, [], "what sprint 12 found")
        return [first, self.round(platform, list(FIXES), "everything changed", first)]

    def integration(self, platform):
        self.jmeter.prepare()
        platform.start_api(list(FIXES))
        figures = self.jmeter.run(platform.docker, "integration", threads=8, loops=20 if self.options.quick else 200)
        platform.docker.remove("api")
        rate = 100 * (1 - figures["failures"] / max(1, figures["requests"]))
        print(f"integration: {figures['requests']} requests by JMeter, success rate {rate:.2f} %, p95 {figures['p95']} ms")
        return rate


def criteria():
    with open(f"{HERE}/sprint-12-config.yaml") as text:
        documents = list(yaml.safe_load_all(text))
    found = next(document for document in documents if document["metadata"]["name"] == "sprint-12-criteria")
    return {name: float(value) for name, value in found["data"].items()}


def share(pair):
    return 100 * pair[0] / pair[1] if pair[1] else 0.0


def acceptance(platform, first, last, success):
    wanted = criteria()
    saved = 100 * (1 - last["cpu_ms"] / first["cpu_ms"])
    masters, replicas = platform.roles()
    return [
        ("p95 at first, ms", ">=", wanted["p95_ms_before_at_least"], first["p95"]),
        ("p95 at last, ms", "<=", wanted["p95_ms_at_most"], last["p95"]),
        ("success rate, %", ">", wanted["success_percent_above"], success),
        ("API CPU a request saved, %", ">=", wanted["cpu_per_request_saved_percent_at_least"], saved),
        ("Redis Cluster hits, %", ">=", wanted["redis_hit_percent_at_least"], share(platform.cache_hits())),
        ("edge hits of what may be kept, %", ">=", wanted["edge_hit_percent_at_least"], share(edge_hits(WORK))),
        ("Redis masters", ">=", wanted["redis_masters"], masters),
        ("Redis replicas", ">=", wanted["redis_replicas"], replicas),
    ]


def holds(sign, wanted, measured):
    return {">=": measured >= wanted, "<=": measured <= wanted, ">": measured > wanted}[sign]


def print_table(rows):
    print(f"\n{'criterion':<34} {'wanted':>9} {'measured':>10}")
    for name, sign, wanted, measured in rows:
        print(f"{name:<34} {sign + format(wanted, 'g'):>9} {measured:>10.1f}  {'met' if holds(sign, wanted, measured) else 'NOT MET'}")
    return all(holds(sign, wanted, measured) for _, sign, wanted, measured in rows)


def run(options):
    sprint = Sprint(options)
    os.makedirs(WORK, exist_ok=True)
    call("find", WORK, "-mindepth", "1", "-delete")
    with Docker(WORK, [ROOT, os.path.realpath(TARGET)]) as docker:
        platform = Platform(docker)
        platform.start_cache()
        platform.start_edge()
        platform.warm()
        if options.what == "integration":
            return sprint.integration(platform) > criteria()["success_percent_above"]
        sprint.locust.prepare()
        done = sprint.rounds(platform) if options.what == "rounds" else sprint.ends(platform)
        success = sprint.integration(platform)
        rows = acceptance(platform, done[0], done[-1], success)
    with open(f"{WORK}/figures.json", "w") as figures:
        json.dump({"rounds": done, "criteria": [row[0] for row in rows if holds(*row[1:])]}, figures, indent=2)
    return print_table(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rounds", "integration", "validate"])
    parser.add_argument("--users", type=int, default=64, help="users of the closed loop (default 64)")
    parser.add_argument("--seconds", type=int, default=20, help="how long each round is (default 20, at least 10)")
    parser.add_argument("--quick", action="store_true", help="rounds of 10 seconds, fewer requests by JMeter")
    options = parser.parse_args()
    options.seconds = 10 if options.quick else max(10, options.seconds)
    if os.geteuid() != 0:
        sys.exit("sprint.py: starts a Docker Engine and loads kernel programs: run it as root")
    for path in (PROFILER, f"{RELEASE}/api-service"):
        if not os.path.exists(path):
            sys.exit(f"sprint.py: {path} is missing: run `make build` beside it")
    # Told to end, the containers are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        met = run(options)
    except (RuntimeError, OSError) as error:
        sys.exit(f"sprint.py: {error}")
    sys.exit(0 if met else 3)


if __name__ == "__main__":
    main()

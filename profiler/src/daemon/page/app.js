// The page: the address bar's arguments in, answers of the API drawn out. What is looked at is always in the address, so that a
// copied link shows the same.
import { el, percent, count, bytes, cores, clock, duration, weight } from "./format.js";
import { bar, legend, onCpu, wantingCpu, renderTime } from "./ledger.js";
import { Timeline } from "./timeline.js";
import { Flamegraph, matcher, pathOf } from "./flame.js";
import { renderSyscalls } from "./syscalls.js";
import { renderTargets } from "./targets.js";

const $ = (id) => document.getElementById(id);
const SPANS = [["1m", "-1m"], ["5m", "-5m"], ["15m", "-15m"], ["1h", "-1h"]];
const KINDS = [["cpu", "On-CPU"], ["offcpu", "Off-CPU"], ["wall", "Wall"]];
const VIEWS = [["flame", "Flamegraph"], ["time", "Time"], ["syscalls", "System calls"], ["targets", "Targets"]];
const DEFAULTS = { container: "", kind: "", from: "-5m", to: "", base_from: "", base_to: "", view: "flame", q: "", focus: "", invert: "", threads: "" };

const state = { ...DEFAULTS };
let containers = [];
let lastWindow = null;
let comparing = false;
let asked = 0;

function readAddress() {
  const given = new URLSearchParams(location.search);
  for (const name of Object.keys(DEFAULTS)) state[name] = given.get(name) ?? DEFAULTS[name];
  // Grafana writes milliseconds.
  for (const name of ["from", "to", "base_from", "base_to"]) if (/^\d{12,}$/.test(state[name])) state[name] = new Date(Number(state[name])).toISOString();
  // Links from dashboards join namespace, pod and container; outside of Kubernetes the first two are empty.
  state.container = state.container.replace(/^\/+/, "");
  if (state.to === "now") state.to = "";
  if (state.kind && !KINDS.some(([kind]) => kind === state.kind)) state.kind = "";
  if (!VIEWS.some(([view]) => view === state.view)) state.view = "flame";
  comparing = state.base_from !== "";
}

function writeAddress(push) {
  const kept = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
  const address = kept.length ? `?${new URLSearchParams(kept)}` : location.pathname;
  if (address !== (location.search || location.pathname)) history[push ? "pushState" : "replaceState"](null, "", address);
}

function set(changes, push = true) {
  Object.assign(state, changes);
  writeAddress(push);
  return refresh();
}

/** A path of the API with the range and the selection. */
function path(route, more = {}, selected = true) {
  const given = { from: state.from, to: state.to, ...(selected && state.container ? { container: literal(state.container) } : {}), ...more };
  return `${route}?${new URLSearchParams(Object.entries(given).filter(([, value]) => value !== "" && value != null))}`;
}

/** The API reads patterns; a name is meant as it is. */
const literal = (name) => name.replace(/[*?[\],]/g, "?");

async function ask(address) {
  const answer = await fetch(address, { headers: { accept: "application/json" } });
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw Object.assign(new Error(body?.error || `${address}: ${answer.status} ${answer.statusText}`), { status: answer.status });
  return body;
}

const live = () => state.to === "" && state.from.startsWith("-");

async function refresh() {
  const ticket = (asked += 1);
  controls();
  const settle = await Promise.allSettled([
    ask("/api/v1/status"), ask(path("/api/v1/coverage", {}, false)), ask(path("/api/v1/overhead", {}, false)), ask(path("/api/v1/containers", {}, false)),
    ask("/api/v1/timeline?from=-1h"), ask(viewPath()),
  ]);
  // An answer to an older question must not hide a newer one.
  if (ticket !== asked) return;
  const [status, coverage, overhead, list, timeline, view] = settle.map((outcome) => (outcome.status === "fulfilled" ? outcome.value : null));
  const failed = settle.filter((outcome) => outcome.status === "rejected").map((outcome) => outcome.reason);
  $("problem").hidden = !failed.length;
  $("problem").textContent = [...new Set(failed.map((error) => (error.status ? error.message : "The daemon does not answer; trying again.")))].join(" · ");
  header(status, coverage, overhead);
  if (list) { lastWindow = list.window; containers = list.containers; }
  if (timeline) graph.timeline.show(timeline, state.container);
  controls();
  renderContainers();
  try {
    show(view);
  } catch (error) {
    $("problem").hidden = false;
    $("problem").textContent = `Cannot draw the answer: ${error.message}`;
  }
  document.body.dataset.ready = String(ticket);
}

function viewPath() {
  if (state.view === "time") return path("/api/v1/report");
  if (state.view === "syscalls") return path("/api/v1/syscalls");
  if (state.view === "targets") return path("/api/v1/targets");
  return path("/api/v1/flame", { kind: state.kind, threads: state.threads && "true", base_from: state.base_from, base_to: state.base_to });
}

function show(answer) {
  for (const [view] of VIEWS) $(`${view}-panel`).hidden = view !== state.view;
  if (!answer) return;
  if (state.view === "flame") showFlame(answer);
  else if (state.view === "time") renderTime($("time-panel"), answer);
  else if (state.view === "syscalls") renderSyscalls($("syscalls-panel"), answer);
  else renderTargets($("targets-panel"), answer, (target) => set({ view: "flame", container: target.container, q: target.blame.function, focus: "" }));
}

function header(status, coverage, overhead) {
  if (status) $("node").textContent = status.node;
  document.title = status ? `${status.node} · profiler` : "profiler";
  if (!coverage || !overhead) return;
  const { cpu_samples: samples, stacks, symbols, offcpu, syscalls } = coverage.coverage;
  const lost = Object.entries(samples.lost);
  const gone = lost.reduce((sum, [, n]) => sum + n, 0);
  const due = samples.expected - samples.idle - samples.filtered;
  const seconds = overhead.window.duration_s || 1;
  const cost = overhead.overhead;
  const facts = [
    ["samples kept", samples.expected ? percent(due > 0 ? samples.kept / due : 1) : "–", `${samples.expected} expected = ${samples.kept} kept + ${samples.idle} idle + ${samples.filtered} filtered + ${gone} lost${lost.length ? ` (${lost.map(([why, n]) => `${why} ${n}`).join(", ")})` : ""}`, due > 0 && samples.kept / due < 0.95],
    ["stacks whole", percent(stacks.complete), `by time${kinds(stacks)}: ${Object.entries(stacks.incomplete_s ?? {}).map(([why, s]) => `${why} ${duration(s)}`).join(", ") || "none incomplete"}`, stacks.complete < 0.75],
    ["frames named", percent(symbols.resolved), `by time${kinds(symbols)}`, symbols.resolved < 0.75],
    ["off-CPU with stack", percent(offcpu.time_s ? offcpu.with_stack_s / offcpu.time_s : 1), `${duration(offcpu.time_s)} of thread time off-CPU`, false],
    ["syscalls", `${count(syscalls.counted)}${syscalls.lost ? `, ${count(syscalls.lost)} lost` : ""}`, "counted exactly", syscalls.lost > 0],
    ["own cost", `${percent((cost.agent_cpu_s + (cost.bpf_cpu_s || 0)) / seconds)} of a core`, `daemon ${percent(cost.agent_cpu_s / seconds)}, kernel programs ${cost.bpf_cpu_s == null ? "not known: kernel.bpf_stats_enabled is 0 and CAP_SYS_ADMIN is missing" : percent(cost.bpf_cpu_s / seconds)}`, false],
    ["memory", `${bytes(overhead.agent_resident_bytes ?? cost.agent_rss_bytes)} + ${bytes(cost.map_bytes)} maps`, "", false],
  ];
  $("coverage").replaceChildren(...facts.map(([name, value, title, bad]) => el("div", { title }, el("dt", {}, name), el("dd", { class: bad ? "bad" : null }, value))));
}

/** Shares of on-CPU and off-CPU stacks in brackets; nothing where there are none. */
function kinds({ on_cpu: on, off_cpu: off }) {
  const shares = [["on-CPU", on], ["off-CPU", off]].filter(([, share]) => share != null);
  return shares.length ? ` (${shares.map(([kind, share]) => `${kind} ${percent(share)}`).join(", ")})` : "";
}

/** An argument for a time in milliseconds; null where it is none. */
function moment(text) {
  if (!text) return Date.now();
  const back = /^-(\d+(?:\.\d+)?)(s|m|h)$/.exec(text);
  if (back) return Date.now() - Number(back[1]) * { s: 1e3, m: 6e4, h: 36e5 }[back[2]];
  const at = /^\d+(\.\d+)?$/.test(text) ? Number(text) * 1000 : Date.parse(text);
  return Number.isNaN(at) ? null : at;
}

/** A range in milliseconds: where it is live, the one that was answered. */
function chosenRange(from, to, answered) {
  if (answered && from.startsWith("-")) return [Date.parse(answered.start), Date.parse(answered.start) + answered.duration_s * 1000];
  const range = [moment(from), moment(to)];
  return range.includes(null) ? null : range;
}

function controls() {
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));
  for (const button of $("spans").children) press(button, live() && button.value === state.from);
  press($("live"), live());
  press($("compare"), comparing);
  for (const button of $("kinds").children) press(button, button.value === (state.kind || "cpu"));
  for (const button of $("tabs").children) { button.setAttribute("aria-selected", String(button.value === state.view)); button.tabIndex = button.value === state.view ? 0 : -1; }
  press($("invert"), state.invert !== "");
  press($("threads"), state.threads !== "");
  if ($("search").value !== state.q) $("search").value = state.q;
  const range = chosenRange(state.from, state.to, lastWindow);
  const base = state.base_from ? chosenRange(state.base_from, state.base_to, null) : null;
  graph.timeline.mark(range, base);
  const say = ([from, to]) => `${clock(new Date(from))} – ${clock(new Date(to))} (${duration((to - from) / 1000)})`;
  $("chosen").textContent = comparing ? (base ? `${range ? say(range) : ""} compared with ${say(base)}` : "Drag the range to compare with") : range ? say(range) : "";
  $("downloads").replaceChildren(...[["SVG", "/flamegraph.svg", {}], ["pprof", "/api/v1/profile", { format: "pprof" }], ["speedscope", "/api/v1/profile", { format: "speedscope" }]]
    .map(([text, route, more]) => el("a", { href: path(route, { kind: state.kind, ...more }), download: route === "/flamegraph.svg" ? null : "" }, text)));
}

function renderContainers() {
  const wanted = $("filter").value.trim().toLowerCase();
  const seconds = lastWindow?.duration_s || 1;
  const found = containers.filter((container) => [container.name, container.image, container.pod, container.namespace].some((text) => text && text.toLowerCase().includes(wanted)));
  $("count").textContent = wanted ? `${found.length} of ${containers.length}` : `${containers.length} · cores + waiting`;
  const entry = (name, label, right, ledger, title, gone) => el("li", {}, el("button", { "aria-pressed": String(state.container === name), "data-name": name, title,
    onclick: () => set({ container: state.container === name ? "" : name, focus: "" }) },
    el("span", { class: gone ? "name gone" : "name" }, label), el("span", { class: "num" }, right), ledger ? bar(ledger) : null));
  const focused = document.activeElement?.dataset?.name;
  const all = containers.reduce((sum, container) => sum + onCpu(container.ledger), 0) / seconds;
  const items = found.map((container) => {
    const waiting = wantingCpu(container.ledger) / seconds;
    return entry(container.name, container.name, `${cores(onCpu(container.ledger) / seconds)}${waiting >= 0.01 ? ` +${cores(waiting)}` : ""}`, container.ledger,
      [container.image, container.runtime, container.running === false ? "ended" : "", `${cores(onCpu(container.ledger) / seconds)} cores used, ${cores(waiting)} threads waiting for one`].filter(Boolean).join("\n"), container.running === false);
  });
  $("containers").replaceChildren(entry("", "all containers", `${cores(all)} cores`, null, "Cores used + threads waiting for a CPU", false), ...items);
  if (focused != null) [...$("containers").querySelectorAll("button")].find((button) => button.dataset.name === focused)?.focus();
}

function showFlame(answer) {
  const flame = graph.flame;
  flame.inverted = state.invert !== "";
  flame.match = matcher(state.q);
  flame.show(answer, focusPath());
  $("diff-note").hidden = !answer.base_window;
  if (answer.base_window) {
    const other = answer.base_window;
    $("diff-note").textContent = `Colours compare shares of the whole: red grew, blue shrank, grey stayed. Now ${weight(answer.total, answer.unit)} in ${duration(answer.window.duration_s)}, before ${weight(answer.base_total, answer.unit)} in ${duration(other.duration_s)}.`;
  }
  afterZoom();
}

/** The names down to the frame zoomed to; what a mangled link holds is no path. */
function focusPath() {
  try {
    return JSON.parse(`[${state.focus}]`);
  } catch {
    return [];
  }
}

function afterZoom() {
  const { flame } = graph;
  const { answer } = flame;
  if (!answer) return;
  const path = [];
  for (let at = flame.focus; at; at = at.parent) path.unshift(at);
  $("reset").disabled = path.length === 1;
  $("crumbs").replaceChildren(...path.flatMap((node, index) => [index ? " › " : "", el("button", { onclick: () => flame.zoom(node) }, node.name)]));
  const matched = flame.matched();
  $("matched").textContent = matched == null ? "" : `${percent(answer.total ? matched / answer.total : 0)} matched`;
  if (!answer.total) $("frame").textContent = "Nothing of this kind in the range.";
  else $("frame").textContent = answer.left_out?.nodes ? `${answer.left_out.nodes} branches too small to see are left out (${weight(answer.left_out.value, answer.unit)}).` : "";
  hottest();
}

function hottest() {
  const { flame } = graph;
  const { answer } = flame;
  const compared = answer.base_total != null;
  const share = (entry) => (answer.total ? entry.self / answer.total : 0);
  const before = (entry) => (answer.base_total ? entry.baseSelf / answer.base_total : 0);
  const entries = flame.hottest().sort((a, b) => (compared ? Math.abs(share(b) - before(b)) - Math.abs(share(a) - before(a)) : b.self - a.self)).slice(0, 20).filter((entry) => entry.self > 0 || entry.baseSelf > 0);
  $("hot-note").textContent = compared ? "by change of their own share" : flame.focus.parent ? `below ${flame.focus.name}` : "";
  const heads = ["function", "module", "self", "total", ...(compared ? ["before", "change"] : ["share"])];
  const rows = entries.map((entry) => {
    const change = share(entry) - before(entry);
    const tail = compared ? [el("td", { class: "num" }, percent(before(entry))), change === 0 || Math.abs(change) < 0.0005 ? el("td", { class: "num muted" }, "0 pp") : el("td", { class: `num ${change > 0 ? "more" : "less"}` }, `${change >= 0 ? "+" : "−"}${(100 * Math.abs(change)).toFixed(1)} pp`)]
      : [el("td", { class: "num" }, percent(share(entry)))];
    return el("tr", {}, el("td", { class: "fn", title: entry.name }, el("button", { class: "link", onclick: () => search(entry.name) }, entry.name)),
      el("td", { class: "fn muted wide", title: entry.module }, entry.module.split("/").pop()), el("td", { class: "num" }, weight(entry.self, answer.unit)), el("td", { class: "num wide" }, weight(entry.total, answer.unit)), ...tail);
  });
  $("hot").replaceChildren(el("thead", {}, el("tr", {}, ...heads.map((text, index) => el("th", { class: index > 1 ? `num${text === "total" ? " wide" : ""}` : index ? "wide" : null, scope: "col" }, text)))), el("tbody", {}, ...rows));
}

function search(text) {
  state.q = text;
  if ($("search").value !== text) $("search").value = text;
  writeAddress(false);
  graph.flame.match = matcher(text);
  graph.flame.paint();
  afterZoom();
}

function look(node, event) {
  const tip = $("tip");
  const { answer } = graph.flame;
  tip.hidden = !node || !event;
  if (!node) return;
  const { now, before } = graph.flame.shares(node);
  const parts = [`${weight(node.v, answer.unit)}, ${percent(now)}`, node.self > 0 && node.self < node.v ? `itself ${weight(node.self, answer.unit)}` : "", before == null ? "" : `before ${percent(before)}`, node.module].filter(Boolean);
  if (!event) { $("frame").textContent = `${node.name}: ${parts.join(" · ")}`; return; }
  tip.replaceChildren(el("b", {}, node.name), parts.join(" · "));
  const room = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - room.width - 8))}px`;
  tip.style.top = `${event.clientY + 18 + room.height > innerHeight ? event.clientY - room.height - 10 : event.clientY + 18}px`;
}

const graph = {
  flame: new Flamegraph($("flame"), {
    look,
    zoom: (node) => { state.focus = pathOf(node).map((name) => JSON.stringify(name)).join(","); writeAddress(true); afterZoom(); },
  }),
  timeline: new Timeline($("timeline"), (from, to, more) => {
    const range = [new Date(from).toISOString(), new Date(to).toISOString()];
    if (more || (comparing && !state.base_from)) { comparing = true; set({ base_from: range[0], base_to: range[1], view: "flame" }); } else set({ from: range[0], to: range[1] });
  }),
};

function toggleCompare() {
  comparing = !comparing;
  // Until another range is dragged: the stretch of the same length just before.
  const range = chosenRange(state.from, state.to, lastWindow);
  if (!comparing || !range) { comparing = false; set({ base_from: "", base_to: "" }); return; }
  const [from, to] = range;
  const iso = (time) => new Date(time).toISOString();
  const first = graph.timeline.windows[0]?.start ?? from;
  const start = Math.max(first, 2 * from - to);
  if (from - start >= 1000) set({ from: iso(from), to: iso(to), base_from: iso(start), base_to: iso(from - 1), view: "flame" });
  else controls();
}

const pick = (into, entries, choose, role) => $(into).replaceChildren(...entries.map(([value, text]) => el("button", { value, role, id: role ? `tab-${value}` : null, "aria-controls": role ? `${value}-panel` : null, onclick: () => choose(value) }, text)));
pick("spans", SPANS.map(([text, value]) => [value, text]), (from) => set({ from, to: "", ...(comparing ? {} : { base_from: "", base_to: "" }) }));
pick("kinds", KINDS, (kind) => set({ kind, focus: "" }));
pick("tabs", VIEWS, (view) => set({ view }), "tab");
$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const next = VIEWS[(VIEWS.findIndex(([view]) => view === state.view) + step + VIEWS.length) % VIEWS.length][0];
  set({ view: next });
  $(`tab-${next}`).focus();
});
legend($("legend"));
$("live").addEventListener("click", () => set(live() ? { from: lastWindow?.start ?? state.from, to: new Date(Date.parse(lastWindow?.start) + lastWindow?.duration_s * 1000 || Date.now()).toISOString() } : { from: "-5m", to: "" }));
$("compare").addEventListener("click", toggleCompare);
$("invert").addEventListener("click", () => { state.invert = state.invert ? "" : "1"; writeAddress(false); graph.flame.inverted = state.invert !== ""; graph.flame.paint(); controls(); });
$("threads").addEventListener("click", () => set({ threads: state.threads ? "" : "1", focus: "" }));
$("reset").addEventListener("click", () => graph.flame.zoom(null));
$("search").addEventListener("input", (event) => search(event.target.value));
$("filter").addEventListener("input", renderContainers);
addEventListener("popstate", () => { readAddress(); refresh(); });
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) { if (event.key === "Escape") event.target.blur(); return; }
  const act = { "/": () => $("search").focus(), f: () => $("filter").focus(), i: () => $("invert").click(), t: () => $("threads").click(), l: () => $("live").click(), c: toggleCompare, Escape: () => graph.flame.zoom(null) }[event.key];
  if (act) { event.preventDefault(); act(); }
});

readAddress();
refresh();
setInterval(() => { if (live() && !document.hidden) refresh(); }, 10000);

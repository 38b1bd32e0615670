// Ledgers in, stacked bars out. A ledger's parts sum to the lifetime of its threads.
import { el, duration, cores, percent } from "./format.js";

export const PARTS = [
  ["cpu_user_s", "CPU, user"], ["cpu_kernel_s", "CPU, kernel"], ["runnable_self_s", "waiting behind itself"],
  ["runnable_other_s", "waiting behind others"], ["throttled_s", "throttled"], ["blocked_lock_s", "lock"], ["blocked_disk_s", "disk"],
  ["blocked_network_s", "network"], ["blocked_other_s", "other"], ["blocked_sleep_s", "sleep"],
];
export const colour = (part) => `var(--${part.replace(/_s$/, "")})`;
/** A reason of the API, as the legend calls it. */
const reason = (name) => PARTS.find(([part]) => part === `${name}_s` || part === `blocked_${name}_s`)?.[1] ?? name;
export const onCpu = (ledger) => ledger.cpu_user_s + ledger.cpu_kernel_s;
export const wantingCpu = (ledger) => ledger.runnable_self_s + ledger.runnable_other_s + ledger.throttled_s;

export function bar(ledger, tall) {
  const total = ledger.thread_s || 1;
  const pieces = PARTS.filter(([part]) => ledger[part] > 0);
  const text = pieces.map(([part, label]) => `${label} ${percent(ledger[part] / total)}`).join(", ");
  return el("div", { class: tall ? "bar tall" : "bar", role: "img", "aria-label": text, title: text },
    ...pieces.map(([part]) => el("i", { style: { width: `${(100 * ledger[part]) / total}%`, background: colour(part) } })));
}

export function sum(ledgers) {
  const total = { thread_s: 0 };
  for (const [part] of PARTS) total[part] = 0;
  for (const ledger of ledgers) for (const part of Object.keys(total)) total[part] += ledger[part] || 0;
  return total;
}

export function legend(into) {
  into.replaceChildren(...PARTS.map(([part, label]) => el("span", {}, el("span", { class: "swatch", style: { background: colour(part) } }), label)));
}

function table(head, rows) {
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ...head.map((text, index) => el("th", { class: index ? "num" : null, scope: "col" }, text)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, index) => el("td", { class: index ? "num" : "fn" }, cell)))))));
}

/** Where the time of a report's containers went: parts, behind whom they waited, what they waited for. */
export function renderTime(into, report) {
  const containers = report.containers;
  const seconds = report.window.duration_s || 1;
  const ledger = sum(containers.map((container) => container.ledger));
  const parts = PARTS.map(([part, label]) => [el("span", {}, el("span", { class: "swatch", style: { background: colour(part) } }), label),
    duration(ledger[part]), cores(ledger[part] / seconds), percent(ledger[part] / (ledger.thread_s || 1))]);
  const many = containers.length > 1;
  const from = (container, text) => (many ? `${container.name} · ${text}` : text);
  const behind = containers.flatMap((container) => container.waited_behind.map((entry) => [from(container, entry.container), entry.s]));
  const waits = containers.flatMap((container) => container.waits.map((wait) => [from(container, `${reason(wait.reason)}${wait.peer ? ` ${wait.peer}` : ""}`), wait.s, wait.count]));
  const top = (rows) => rows.sort((a, b) => b[1] - a[1]).slice(0, 20);
  const facts = many ? [] : containers.map((container) => el("p", { class: "muted" },
    [container.image, container.runtime, container.cpu_limit == null ? "no CPU limit" : `limit ${cores(container.cpu_limit)} cores`,
      `run queue p99 ${duration(container.run_queue.p99_s)}, max ${duration(container.run_queue.max_s)}`,
      ...["cpu", "io", "memory"].filter((name) => container.pressure[name] != null).map((name) => `${name} pressure ${percent(container.pressure[name])}`)].filter(Boolean).join(" · ")));
  into.replaceChildren(...facts, bar(ledger, true),
    el("div", { class: "pair" },
      el("div", {}, el("h2", {}, "Thread time"), table(["state", "thread time", "threads on average", "share"], parts)),
      el("div", {},
        el("h2", {}, "Waited for a CPU behind"),
        behind.length ? table(["who ran", "thread time"], top(behind).map(([who, s]) => [who, duration(s)])) : el("p", { class: "muted" }, "Nobody."),
        el("h2", {}, "Longest waits"),
        waits.length ? table(["for", "thread time", "waits", "each"], top(waits).map(([what, s, n]) => [what, duration(s), String(n), duration(n ? s / n : 0)])) : el("p", { class: "muted" }, "None."))));
}

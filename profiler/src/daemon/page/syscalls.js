// System calls in, a table with the distribution of each one's latency out.
import { el, duration, count, bytes } from "./format.js";

const COLUMNS = [
  ["name", "call", (c) => c.name], ["rate", "calls/s", (c) => c.count], ["errors", "failed", (c) => failed(c)], ["p50", "p50", (c) => c.p50_s || 0],
  ["p99", "p99", (c) => c.p99_s || 0], ["max", "max", (c) => c.max_s], ["total", "total", (c) => c.total_s], ["bytes", "bytes", (c) => c.bytes],
];
const failed = (call) => Object.values(call.errors).reduce((sum, n) => sum + n, 0);
const FLOOR = Math.log2(64e-9);
let order = { column: "total", down: true };

/** Buckets are four an octave, so an octave is drawn as one bar; height is the share of calls, by its square root so that a tail shows. */
function distribution(call, ceiling) {
  const octaves = new Map();
  for (const [upper, n] of call.buckets) {
    const octave = Math.max(0, Math.ceil(Math.log2(upper) - FLOOR - 1e-9));
    octaves.set(octave, (octaves.get(octave) || 0) + n);
  }
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  const make = (tag, attributes) => {
    const element = document.createElementNS(ns, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    svg.append(element);
    return element;
  };
  const width = 190 / (ceiling + 1);
  svg.setAttribute("class", "dist");
  svg.setAttribute("viewBox", "0 0 190 24");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `median ${duration(call.p50_s)}, 99th percentile ${duration(call.p99_s)}, longest ${duration(call.max_s)}`);
  make("path", { d: "M0 23.5H190" });
  for (const [octave, n] of octaves) {
    const height = Math.max(1, 22 * Math.sqrt(n / call.count));
    const piece = make("rect", { x: (octave * width).toFixed(2), y: (23 - height).toFixed(2), width: Math.max(1, width - 1).toFixed(2), height: height.toFixed(2) });
    const title = document.createElementNS(ns, "title");
    title.textContent = `${count(n)} calls of ${duration(2 ** (FLOOR + octave - 1))} to ${duration(2 ** (FLOOR + octave))}`;
    piece.append(title);
  }
  return svg;
}

export function renderSyscalls(into, answer) {
  const calls = answer.syscalls;
  if (!calls.length) {
    into.replaceChildren(el("p", { class: "empty" }, "No system call was counted in this range. The daemon counts none with --no-syscalls."));
    return;
  }
  const seconds = answer.window.duration_s || 1;
  const ceiling = Math.max(1, ...calls.flatMap((call) => call.buckets.map(([upper]) => Math.ceil(Math.log2(upper) - FLOOR - 1e-9))));
  const key = COLUMNS.find(([id]) => id === order.column)[2];
  const sorted = [...calls].sort((a, b) => (key(a) > key(b) ? 1 : key(a) < key(b) ? -1 : 0) * (order.down ? -1 : 1));
  const head = COLUMNS.map(([id, label]) => el("th", { class: id === "name" ? null : "num", scope: "col", "aria-sort": id === order.column ? (order.down ? "descending" : "ascending") : null },
    el("button", { "data-sort": id, onclick: () => {
      order = { column: id, down: order.column === id ? !order.down : id !== "name" };
      renderSyscalls(into, answer);
      into.querySelector(`[data-sort=${id}]`).focus();
    } }, label + (id === order.column ? (order.down ? " ↓" : " ↑") : ""))));
  const rows = sorted.map((call) => {
    const errors = Object.entries(call.errors).sort((a, b) => b[1] - a[1]);
    return el("tr", {}, el("td", {}, call.name), el("td", { class: "num" }, count(call.count / seconds)),
      el("td", { class: "num", title: errors.map(([name, n]) => `${name} ${n}`).join(", ") }, errors.length ? `${count(failed(call))} ${errors[0][0]}${errors.length > 1 ? "…" : ""}` : "–"),
      ...[call.p50_s, call.p99_s, call.max_s, call.total_s].map((s) => el("td", { class: "num" }, duration(s))),
      el("td", { class: "num" }, call.bytes ? bytes(call.bytes) : "–"), el("td", {}, distribution(call, ceiling)));
  });
  into.replaceChildren(el("div", { class: "scroll" }, el("table", { id: "syscalls" },
    el("thead", {}, el("tr", {}, ...head, el("th", { scope: "col" }, `latency, ${duration(2 ** FLOOR)} to ${duration(2 ** (FLOOR + ceiling))}`))), el("tbody", {}, ...rows))));
}

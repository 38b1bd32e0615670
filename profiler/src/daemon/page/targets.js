// Optimization targets in, cards out: what to change first, why it is believed, what to try.
import { el, cores, duration, percent } from "./format.js";

const amount = ({ value, unit }) => (unit === "cores" ? `${cores(value)} cores` : `${duration(value)} each second`);

export function renderTargets(into, answer, choose) {
  if (!answer.targets.length) {
    into.replaceChildren(el("p", { class: "empty" }, "No target in this range: nothing stands out, or the analysis does not run here."));
    return;
  }
  into.replaceChildren(el("div", { class: "cards" }, ...answer.targets.map((target) => el("article", { class: "card" },
    el("span", { class: "gain", title: "At most; what is won when the cause is gone altogether" }, `≤ ${amount(target.gain_at_most)}`),
    el("h3", {}, `${target.rank}. ${target.title}`),
    el("p", { class: "muted" }, `${target.container} · ${target.kind.replaceAll("_", " ")} · ${percent(target.share)} of its time · confidence ${target.confidence}`),
    el("ul", {}, ...target.evidence.map((text) => el("li", {}, text))),
    el("p", {}, el("b", {}, "Try: "), target.remedy),
    target.blame && target.blame.function ? el("p", {}, el("button", { class: "link", onclick: () => choose(target) }, `Show ${target.blame.function} in the flamegraph`)) : null,
    target.recheck ? el("p", {}, el("code", {}, target.recheck)) : null))));
}

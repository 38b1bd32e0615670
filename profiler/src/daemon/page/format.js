// Figures in, text that a person reads out; and elements, made without markup so that no name can be taken for it.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const digits = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));

/** Seconds, as the shortest unit that keeps them above 1. */
export function duration(s) {
  if (s == null) return "–";
  if (s === 0) return "0";
  for (const [unit, factor] of [["ns", 1e9], ["µs", 1e6], ["ms", 1e3]]) if (s * factor < 1000) return `${digits(s * factor)} ${unit}`;
  return s < 600 ? `${digits(s)} s` : `${digits(s / 60)} min`;
}

export function count(n) {
  for (const [unit, factor] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (n >= 10 * factor || (n >= factor && n >= 1e4)) return `${digits(n / factor)} ${unit}`;
  return Number.isInteger(n) ? String(n) : digits(n);
}

export function bytes(n) {
  for (const [unit, factor] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 1024]]) if (n >= factor) return `${digits(n / factor)} ${unit}`;
  return `${n} B`;
}

/** A share of 1; what is not all or nothing is not rounded to it. */
export function percent(x) {
  if (x == null || Number.isNaN(x)) return "–";
  if (x > 0 && x < 0.0005) return "<0.1 %";
  if (x < 1 && x > 0.9995) return ">99.9 %";
  return `${(100 * x).toFixed(x >= 0.9995 || x === 0 ? 0 : 1)} %`;
}

export const cores = (x) => (x >= 10 ? x.toFixed(1) : x >= 0.095 ? x.toFixed(2) : x > 0 && x < 0.001 ? "<0.001" : x.toFixed(3));

export function clock(date) {
  return date.toLocaleTimeString([], { hour12: false });
}

/** A value of a stack in the unit the API names. */
export const weight = (value, unit) => (unit === "microseconds" ? duration(value / 1e6) : `${count(value)} samples`);

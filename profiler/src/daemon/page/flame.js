// A tree of stacks in (see /api/v1/flame), an interactive flamegraph on a canvas out. Canvas, since tens of thousands of
// frames as elements of the document make a page that stutters.

const ROW = 18;
const META = new Set(["root", "container", "process", "thread"]);

/** Gives every node its text, depth, parent and place: x and w are shares of the root's width. */
function lay(answer) {
  const rows = [];
  const place = (raw, parent, depth, x) => {
    const node = {
      name: answer.names[raw.n] ?? "?", module: raw.m == null ? "" : answer.modules[raw.m] ?? "", type: raw.t, v: raw.v, b: raw.b ?? 0,
      parent, depth, x, w: answer.total ? raw.v / answer.total : 0, children: [], self: raw.v, baseSelf: raw.b ?? 0,
    };
    (rows[depth] ||= []).push(node);
    let at = x;
    for (const child of raw.children || []) {
      const placed = place(child, node, depth + 1, at);
      node.self -= child.v;
      node.baseSelf -= child.b ?? 0;
      at += placed.w;
      node.children.push(placed);
    }
    return node;
  };
  return { root: place(answer.root, null, 0, 0), rows };
}

export const pathOf = (node) => {
  const names = [];
  for (let at = node; at.parent; at = at.parent) names.unshift(at.name);
  return names;
};

/** Text, or /expression/; what is not a valid expression is taken as text. */
export function matcher(text) {
  const trimmed = text.trim();
  if (!trimmed) return null;
  if (trimmed.length > 2 && trimmed.startsWith("/") && trimmed.endsWith("/")) {
    try {
      const expression = new RegExp(trimmed.slice(1, -1), "i");
      return (name) => expression.test(name);
    } catch { /* falls through */ }
  }
  const wanted = trimmed.toLowerCase();
  return (name) => name.toLowerCase().includes(wanted);
}

function hash(text) {
  let value = 2166136261;
  for (let i = 0; i < text.length; i += 1) value = Math.imul(value ^ text.charCodeAt(i), 16777619);
  return (value >>> 8) / 16777216;
}

export class Flamegraph {
  /** `on.zoom(node)`, `on.look(node|null, event|null)` tell what the reader does. */
  constructor(canvas, on) {
    Object.assign(this, { canvas, on, answer: null, rows: [], root: null, focus: null, cursor: null, hovered: null, inverted: false, match: null });
    canvas.addEventListener("click", (event) => { const node = this.at(event); if (node) this.zoom(node); });
    canvas.addEventListener("mousemove", (event) => { this.hovered = this.at(event); this.on.look(this.hovered, event); this.paint(); });
    canvas.addEventListener("mouseleave", () => { this.hovered = null; this.on.look(null, null); this.paint(); });
    canvas.addEventListener("blur", () => this.paint());
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.paint()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  /** Shows other stacks; stays zoomed where the same path is still there. */
  show(answer, path) {
    this.answer = answer;
    Object.assign(this, lay(answer));
    this.cursor = null;
    this.hovered = null;
    this.focus = this.find(path) || this.root;
    this.paint();
  }

  find(path) {
    let node = this.root;
    for (const name of path || []) {
      node = node.children.find((child) => child.name === name);
      if (!node) return null;
    }
    return node;
  }

  zoom(node) {
    this.focus = node || this.root;
    this.cursor = this.focus;
    this.paint();
    this.on.zoom(this.focus);
  }

  /** Value of all frames that match, each stack counted once; null without a search. */
  matched() {
    if (!this.match || !this.root) return null;
    const count = (node) => (!META.has(node.type) && this.match(node.name) ? node.v : node.children.reduce((sum, child) => sum + count(child), 0));
    return count(this.root);
  }

  /** Functions by the weight of stacks that end in them; recursion is counted once in `total`. */
  hottest() {
    const all = new Map();
    const walk = (node, above) => {
      const known = META.has(node.type);
      let inside = above;
      if (!known) {
        const id = `${node.type} ${node.name}`;
        const entry = all.get(id) || { name: node.name, type: node.type, module: node.module, self: 0, total: 0, baseSelf: 0 };
        entry.self += node.self;
        entry.baseSelf += node.baseSelf;
        if (!above.has(id)) { entry.total += node.v; inside = new Set(above).add(id); }
        all.set(id, entry);
      }
      for (const child of node.children) walk(child, inside);
    };
    if (this.focus) walk(this.focus, new Set());
    return [...all.values()];
  }

  /** Share of the whole, now and in the base range; the difference is what a differential graph colours. */
  shares(node) {
    const base = this.answer.base_total;
    return { now: this.answer.total ? node.v / this.answer.total : 0, before: base ? node.b / base : null };
  }

  geometry() {
    const depth = this.rows.length;
    return { width: this.canvas.clientWidth, depth, height: Math.max(1, depth) * ROW };
  }

  box(node, width) {
    const { x, w } = this.focus;
    if (node.depth < this.focus.depth) return [0, width];
    const left = ((node.x - x) / (w || 1)) * width;
    return [left, (node.w / (w || 1)) * width];
  }

  visible(node) {
    if (node.depth < this.focus.depth) {
      for (let at = this.focus; at; at = at.parent) if (at === node) return true;
      return false;
    }
    return node.x >= this.focus.x - 1e-12 && node.x + node.w <= this.focus.x + this.focus.w + 1e-9;
  }

  top(depth, height) {
    return this.inverted ? height - (depth + 1) * ROW : depth * ROW;
  }

  at(event) {
    if (!this.root) return null;
    const bounds = this.canvas.getBoundingClientRect();
    const { width, height } = this.geometry();
    const y = event.clientY - bounds.top;
    const depth = Math.floor((this.inverted ? height - y : y) / ROW);
    const x = event.clientX - bounds.left;
    return (this.rows[depth] || []).find((node) => {
      if (!this.visible(node)) return false;
      const [left, wide] = this.box(node, width);
      return x >= left && x < left + wide;
    }) || null;
  }

  fill(node, style) {
    if (this.match && !META.has(node.type) && this.match(node.name)) return style.getPropertyValue("--f-match");
    if (this.answer.base_total != null && node.parent) {
      const { now, before } = this.shares(node);
      const change = (now - (before ?? 0)) / Math.max(now, before ?? 0, 1e-9);
      const strength = Math.min(1, Math.abs(change));
      return strength < 0.02 ? `hsl(${style.getPropertyValue("--f-unresolved")})`
        : `color-mix(in oklab, ${change > 0 ? "#d8432f" : "#3b76c9"} ${(20 + 70 * strength).toFixed(0)}%, hsl(${style.getPropertyValue("--f-unresolved")}))`;
    }
    const kind = META.has(node.type) ? "meta" : ["kernel", "inlined", "unresolved", "note"].includes(node.type) ? node.type : "user";
    const [h, s, l] = style.getPropertyValue(`--f-${kind}`).trim().split(/\s+/).map(parseFloat);
    const shift = kind === "meta" ? 0 : hash(node.module || node.name) * 22 - 11;
    return `hsl(${h + shift} ${s}% ${l + (hash(node.name) * 6 - 3)}%)`;
  }

  paint() {
    cancelAnimationFrame(this.pending);
    this.pending = requestAnimationFrame(() => this.draw());
  }

  draw() {
    if (!this.root) return;
    const { width, height } = this.geometry();
    if (!width) return;
    const scale = devicePixelRatio || 1;
    // A canvas has a largest size; stacks too deep for it are drawn coarser instead of not at all.
    const density = Math.min(scale, 32000 / height);
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * density);
    this.canvas.height = Math.round(height * density);
    const pen = this.canvas.getContext("2d");
    pen.scale(density, density);
    pen.font = "11.5px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--f-ink").trim();
    const letter = pen.measureText("n").width;
    this.drawn = 0;
    for (const row of this.rows) for (const node of row) {
      if (!this.visible(node)) continue;
      const [left, wide] = this.box(node, width);
      if (wide < 0.4) continue;
      this.drawn += 1;
      const y = this.top(node.depth, height);
      pen.globalAlpha = node.depth < this.focus.depth ? 0.55 : 1;
      pen.fillStyle = this.fill(node, style);
      pen.fillRect(left, y, Math.max(0.4, wide - (wide > 3 ? 0.7 : 0)), ROW - 1);
      const room = Math.floor((wide - 8) / letter);
      if (room >= 3) {
        pen.fillStyle = this.match && !META.has(node.type) && this.match(node.name) ? "#fff" : ink;
        pen.fillText(node.name.length > room * 1.12 ? `${node.name.slice(0, room - 1)}…` : node.name, left + 4, y + ROW / 2, wide - 6);
      }
      if (node === this.hovered || (node === this.cursor && document.activeElement === this.canvas)) {
        pen.strokeStyle = style.getPropertyValue("--ink").trim();
        pen.strokeRect(left + 0.75, y + 0.75, Math.max(1, wide - 2), ROW - 2.5);
      }
    }
    pen.globalAlpha = 1;
  }

  key(event) {
    if (!this.root || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.cursor || this.focus;
    const sideways = (step) => {
      const row = at.parent ? at.parent.children : [at];
      return row[row.indexOf(at) + step];
    };
    const widest = at.children.reduce((best, child) => (!best || child.w > best.w ? child : best), null);
    const deeper = this.inverted ? "ArrowUp" : "ArrowDown";
    const moves = { [deeper]: () => widest, [deeper === "ArrowUp" ? "ArrowDown" : "ArrowUp"]: () => at.parent, ArrowLeft: () => sideways(-1), ArrowRight: () => sideways(1) };
    if (event.key === "Enter" || event.key === " ") this.zoom(at);
    else if (event.key === "Escape") this.zoom(this.root);
    else if (moves[event.key]) {
      const next = moves[event.key]();
      if (next) {
        if (!this.visible(next)) this.zoom(next);
        this.cursor = next;
        this.on.look(next, null);
        const box = this.canvas.parentElement;
        const y = this.top(next.depth, this.geometry().height);
        if (y < box.scrollTop) box.scrollTop = y;
        else if (y + ROW > box.scrollTop + box.clientHeight) box.scrollTop = y + ROW - box.clientHeight;
        this.paint();
      }
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

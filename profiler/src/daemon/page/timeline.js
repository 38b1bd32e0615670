// Ledgers of windows in, a picture of CPU use and of waiting for CPU over time out; and the range that is dragged in it.
import { PARTS, colour } from "./ledger.js";
import { clock, cores } from "./format.js";

const SHOWN = PARTS.slice(0, 5).map(([part]) => part);
const AXIS = 16;

export class Timeline {
  /** `choose(from, to, more)` with milliseconds; `more` when the reader holds Shift. */
  constructor(canvas, choose) {
    Object.assign(this, { canvas, choose, windows: [], range: null, base: null, start: 0, end: 1, drag: null });
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); const at = this.time(event); this.drag = { from: at, to: at, shift: event.shiftKey }; });
    canvas.addEventListener("pointermove", (event) => { if (this.drag) { this.drag.to = this.time(event); this.draw(); } });
    canvas.addEventListener("pointerup", () => this.drop());
    canvas.addEventListener("pointercancel", () => { this.drag = null; this.draw(); });
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** The answer of /api/v1/timeline; the bars are the sum of its containers, or of the one named. */
  show(answer, container) {
    const wanted = SHOWN.map((part) => answer.parts.indexOf(part));
    const only = container ? answer.containers.indexOf(container) : -1;
    this.windows = answer.windows.map((window) => {
      const ledgers = container ? [only < 0 ? null : window.ledgers[only]] : window.ledgers;
      const start = Date.parse(window.start);
      const seconds = window.duration_s || 1;
      return { start, end: start + seconds * 1000, values: wanted.map((index) => ledgers.reduce((sum, ledger) => sum + (ledger ? ledger[index] || 0 : 0), 0) / seconds) };
    });
    if (this.windows.length) { this.start = this.windows[0].start; this.end = this.windows[this.windows.length - 1].end; }
    this.draw();
  }

  mark(range, base) { this.range = range; this.base = base; this.draw(); }

  time(event) {
    const bounds = this.canvas.getBoundingClientRect();
    return this.start + Math.min(1, Math.max(0, (event.clientX - bounds.left) / bounds.width)) * (this.end - this.start);
  }

  drop() {
    const drag = this.drag;
    this.drag = null;
    if (!drag || !this.windows.length) return;
    let [from, to] = [Math.min(drag.from, drag.to), Math.max(drag.from, drag.to)];
    // A click chooses the window under it.
    const touched = this.windows.filter((window) => window.end > from && window.start <= to);
    if (touched.length) { from = touched[0].start; to = touched[touched.length - 1].end; }
    this.choose(from, to, drag.shift);
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.range || !this.windows.length) return;
    const window = this.windows[this.windows.length - 1];
    const move = step * (window.end - window.start);
    const from = this.range[0] + (event.shiftKey ? 0 : move);
    const to = Math.min(this.end, this.range[1] + move);
    if (to > from && from >= this.start - 1) this.choose(from, to, false);
    event.preventDefault();
  }

  /** Over the bars, which may reach the top, and legible there. */
  say(pen, text, resolve) {
    pen.textAlign = "left";
    pen.globalAlpha = 0.85; pen.fillStyle = resolve("--ground"); pen.fillRect(1, 1, pen.measureText(text).width + 8, 15); pen.globalAlpha = 1;
    pen.fillStyle = resolve("--ink"); pen.fillText(text, 5, 12);
  }

  draw() {
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (!width) return;
    const scale = devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(document.documentElement);
    const resolve = (value) => style.getPropertyValue(value.replace(/^var\(|\)$/g, "")).trim();
    const x = (time) => ((time - this.start) / (this.end - this.start || 1)) * width;
    const most = Math.max(0.01, ...this.windows.map((window) => window.values.reduce((a, b) => a + b, 0)));
    const tall = height - AXIS - 4;
    for (const window of this.windows) {
      let y = height - AXIS;
      const left = x(window.start);
      const wide = Math.max(1, x(window.end) - left - (x(window.end) - left > 4 ? 1 : 0));
      window.values.forEach((value, index) => {
        const high = (value / most) * tall;
        pen.fillStyle = resolve(colour(SHOWN[index]));
        pen.fillRect(left, y - high, wide, high);
        y -= high;
      });
    }
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = resolve("--muted");
    pen.fillRect(0, height - AXIS, width, 1);
    const ticks = Math.max(2, Math.floor(width / 130));
    for (let i = 0; this.windows.length && i <= ticks; i += 1) {
      pen.textAlign = i === 0 ? "left" : i === ticks ? "right" : "center";
      pen.fillText(clock(new Date(this.start + ((this.end - this.start) * i) / ticks)), (width * i) / ticks, height - 3);
    }
    const veil = (range, mark) => {
      const [left, right] = range.map((time) => Math.min(width, Math.max(0, x(time))));
      pen.globalAlpha = 0.16; pen.fillStyle = mark; pen.fillRect(left, 0, Math.max(2, right - left), height - AXIS); pen.globalAlpha = 1;
      pen.strokeStyle = mark; pen.strokeRect(left + 0.5, 0.5, Math.max(2, right - left) - 1, height - AXIS - 1);
    };
    if (this.base) veil(this.base, resolve("--blocked_lock"));
    if (this.range) veil(this.range, resolve("--accent"));
    if (this.drag) veil([this.drag.from, this.drag.to].sort((a, b) => a - b), resolve("--ink"));
    if (this.windows.length) { this.say(pen, `up to ${cores(most)} cores used or waited for`, resolve); }
    else { pen.textAlign = "center"; pen.fillText("no window yet", width / 2, height / 2); }
  }
}

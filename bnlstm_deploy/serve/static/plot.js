import { el, svg } from "./dom.js";
import { quantile } from "./format.js";

const LEFT = 54;
const BOTTOM = 20;
const TOP = 8;
/** Bars that there is room for at least: the first do not fill the plot. */
const LEAST = 60;

/**
 * A plot over an index: stacked bars, or lines with their names at the right. It fits its width.
 *
 * Pointer and arrow keys choose an index; what is there stands in a line of text below the plot.
 */
export class Plot {
  /**
   * @param options  label: what it shows, in words; marks: "bars" or "lines"; height in pixels;
   *     names: pixels at the right for names of curves; tick: a value of the axis as text;
   *     describe: (index) => the line of text; onPick: (index) => ...; fleeting: whether the
   *     cursor leaves with the pointer.
   */
  constructor(options) {
    this.options = { height: 170, names: 0, onPick: () => {}, ...options };
    this.data = { series: [], ends: ["", ""] };
    this.cursor = null;
    this.image = svg("svg", {
      class: "plot", tabindex: "0", role: "img", "aria-label": options.label,
      pointermove: (event) => this.#point(event), pointerdown: (event) => this.#point(event),
      pointerleave: () => this.options.fleeting && this.pick(null),
      keydown: (event) => this.#key(event),
    });
    this.readout = el("p", { class: "readout" });
    this.element = el("figure", {}, this.image, this.readout);
    new ResizeObserver(() => this.#paint()).observe(this.element);
  }

  /**
   * @param data  series: [{name, tone, values}], all of one length, tone being a class of the
   *     style sheet; ends: what stands below the first and the last index.
   */
  draw(data) {
    this.data = data;
    if (this.cursor !== null && this.cursor >= this.#length()) this.cursor = null;
    this.#paint();
  }

  /** Move the cursor to an index, or away. */
  pick(index) {
    this.cursor = index;
    this.#paint();
  }

  #length() {
    return this.data.series[0]?.values.length ?? 0;
  }

  #point(event) {
    const box = this.image.getBoundingClientRect();
    const part = (event.clientX - box.left - LEFT) / (box.width - LEFT - this.options.names);
    const length = this.#length();
    const slots = Math.max(length, LEAST);
    this.#choose(this.options.marks === "bars" ? Math.floor(part * slots) - slots + length
      : Math.round(part * (length - 1)));
  }

  #key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    this.#choose((this.cursor ?? this.#length()) + move);
  }

  #choose(index) {
    if (!this.#length()) return;
    this.pick(Math.max(0, Math.min(this.#length() - 1, index)));
    this.options.onPick(this.cursor);
  }

  #paint() {
    const { height, marks, tick, names } = this.options;
    const width = this.element.clientWidth;
    if (!width) return;
    const { series, ends } = this.data;
    const length = this.#length();
    const stacked = Array.from({ length }, (_, i) =>
      series.reduce((sum, { values }) => sum + values[i], 0));
    const all = marks === "bars" ? stacked : series.flatMap(({ values }) => values);
    const { low, high, marks: lines } = scale(all, marks === "bars");
    const count = marks === "bars" ? Math.max(length, LEAST) : Math.max(1, length - 1);
    const first = marks === "bars" ? count - length : 0;
    const x = (i) => LEFT + ((i + first) / count) * (width - LEFT - names);
    const y = (value) =>
      TOP + (1 - (Math.min(high, value) - low) / (high - low)) * (height - TOP - BOTTOM);
    const parts = lines.map((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: width - names, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, tick(value)),
    ]);
    const paths = marks === "bars" ? bars(series, x, y) : curves(series, x, y);
    const labels = names ? endLabels(series, width - names + 8, y, height - BOTTOM) : [];
    const start = marks === "bars" && first > 0 ? "" : ends[0];
    const under = [["start", LEFT, start], ["end", width - names, ends[1]]].map(
      ([anchor, at, text]) => svg("text", { x: at, y: height - 3, "text-anchor": anchor }, text));
    const cursor = this.cursor === null ? [] : svg("line", { class: "cursor", y1: TOP,
      y2: height - BOTTOM, ...both(x(this.cursor + (marks === "bars" ? 0.5 : 0))) });
    this.image.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.image.setAttribute("height", height);
    this.image.replaceChildren(...parts.flat(), ...paths, ...labels, ...under, ...[cursor].flat());
    this.readout.textContent = length ? this.options.describe(this.cursor) : "Nothing yet.";
  }
}

const both = (x) => ({ x1: x, x2: x });

/**
 * Round limits for values, and the marks between them. Of bars, which start at 0, single ones far
 * above all others are cut off, for the others to be seen.
 */
function scale(values, fromZero) {
  const finite = values.filter(Number.isFinite);
  let high = Math.max(...finite, fromZero ? 0 : -Infinity);
  const common = quantile(finite, 0.98);
  if (fromZero && common > 0 && high > 3 * common) high = 1.5 * common;
  const low = fromZero ? 0 : Math.min(...finite);
  if (!(high > low)) return { low: finite.length ? low : 0, high: (finite.length ? low : 0) + 1,
    marks: finite.length ? [low] : [] };
  const rough = (high - low) / 3.5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const [first, last] = [Math.floor(low / step + 1e-9), Math.ceil(high / step - 1e-9)];
  const marks = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { low: first * step, high: last * step, marks };
}

function bars(series, x, y) {
  const base = new Array(series[0]?.values.length ?? 0).fill(0);
  return series.map(({ tone, values }) => {
    const d = values.map((value, i) => {
      const [bottom, top] = [y(base[i]), y((base[i] += value))];
      return `M${x(i)} ${bottom}V${top}H${x(i + 1)}V${bottom}Z`;
    });
    return svg("path", { class: `area ${tone}`, d: d.join(""), "data-points": values.length });
  });
}

function curves(series, x, y) {
  return series.map(({ tone, values }) => {
    const d = values.map((value, i) => Number.isFinite(value)
      ? `${i && Number.isFinite(values[i - 1]) ? "L" : "M"}${x(i)} ${y(value)}h0` : "");
    return svg("path", { class: `line ${tone}`, d: d.join(""), "data-points": values.length });
  });
}

/** Names at the ends of curves, moved apart where they would overlap. */
function endLabels(series, x, y, bottom) {
  const labels = series.filter(({ named }) => named)
    .map(({ name, tone, values }) => ({ name, tone, at: y(values.at(-1)) + 4 }))
    .filter(({ at }) => Number.isFinite(at)).sort((a, b) => b.at - a.at);
  labels.forEach((label, i) => {
    label.at = Math.min(label.at, i ? labels[i - 1].at - 14 : bottom);
  });
  return labels.map(({ name, tone, at }) => svg("text", { x, y: at, class: `name ${tone}` }, name));
}

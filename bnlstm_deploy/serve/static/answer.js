import { softmax, take } from "./arrays.js";
import { el, table } from "./dom.js";
import { batchAxis } from "./feeds.js";
import { brief, exact, percent } from "./format.js";
import { Heat } from "./heat.js";
import { Pixels } from "./pixels.js";
import { Plot } from "./plot.js";
import { overPrefixes, timesteps } from "./prefixes.js";

const TONES = ["first", "second", "third", "fourth"];
/** Values of a timestep that are drawn as curves; more are drawn as a map. */
const CURVES = 8;
/** Rows and columns of numbers in a table. */
const SHOWN = [200, 24];

/**
 * What a model answered for one stream: an element for each of its own outputs.
 *
 * @param feeds  The stream.
 * @param results  Its outputs by name.
 * @param coverage  The drawing that the input was made of; null if it was not drawn.
 */
export async function showAnswer(model, feeds, results, coverage) {
  const parts = [];
  const own = model.outputs.filter(({ own: mine }) => mine)
    .map((output) => withTime(output, results[output.name].shape, timesteps(model, feeds)));
  for (const [i, output] of own.entries()) {
    if (own.length > 1) parts.push(el("h3", {}, output.name));
    const labels = i === 0 ? model.drawing?.labels : null;
    if (output.time_axis !== null) parts.push(overTime(model, output, results, feeds));
    else parts.push(...await overReading(model, output, results, feeds, labels, coverage));
  }
  return parts;
}

/** An output with its time axis; a file that does not pad does not tell, but the size does. */
function withTime(output, shape, time) {
  const dynamic = shape.map((_, axis) => axis).filter((axis) => output.shape[axis] === -1);
  if (output.time_axis !== null || dynamic.length < 2) return output;
  const axis = dynamic.findLast((each) => shape[each] === time);
  return { ...output, time_axis: axis ?? null };
}

/** An output at each timestep. */
function overTime(model, output, results, feeds) {
  const batch = batchAxis(output);
  const stream = take(results[output.name], batch, 0);
  const axis = output.time_axis - (output.time_axis > batch ? 1 : 0);
  const time = stream.shape[axis];
  const rows = Array.from({ length: time }, (_, t) => take(stream, axis, t).data);
  const steps = rows.map((_, t) => t + 1);
  return evolution({ rows, steps, names: rows[0].map((_, i) => `[${i}]`), format: brief,
    title: `${output.name} at each timestep`, total: timesteps(model, feeds) });
}

/** One output of a whole sequence, and what it would have been after each of its timesteps. */
async function overReading(model, output, results, feeds, labels, coverage) {
  const last = take(results[output.name], batchAxis(output), 0).data;
  const names = labels ?? last.map((_, i) => `[${i}]`);
  const view = (row) => (labels ? softmax(row) : row);
  const format = labels ? percent : brief;
  const parts = [];
  if (labels) {
    parts.push(verdict(labels, view(last)));
  }
  const found = await overPrefixes(model, feeds, output.name);
  if (found) {
    parts.push(evolution({ rows: found.rows.map(view), raw: found.rows, steps: found.steps, names,
      format, total: found.steps.at(-1), coverage, drawing: model.drawing,
      title: labels ? "Probability of each answer after each timestep"
        : `${output.name} after each timestep` }));
  } else {
    parts.push(numbers("Answer", ["value", output.name], last.map((v, i) => [names[i], exact(v)])));
  }
  return parts;
}

/** The likeliest answer, if there is one. */
function verdict(labels, probabilities) {
  if (!probabilities.every(Number.isFinite)) {
    return el("p", { class: "verdict" }, el("b", {}, "NaN"),
      el("span", {}, "The model's answer is not a number."));
  }
  const order = rank(probabilities);
  const [best, second] = order.map((i) => `${labels[i]} (${percent(probabilities[i])})`);
  return el("p", { class: "verdict" }, el("b", {}, labels[order[0]]),
    el("span", {}, `${best}, before ${second}`));
}

/** The likeliest answer at each timestep: a part of the strip for as long as it is the same. */
function strip(names, rows, tone) {
  const best = rows.map((row) => (row.every(Number.isFinite) ? rank(row)[0] : null));
  const starts = best.map((_, t) => t).filter((t) => t === 0 || best[t] !== best[t - 1]);
  return el("div", { class: "strip", role: "img", "aria-label": "Likeliest answer: " +
    starts.map((t) => `${best[t] === null ? "none" : names[best[t]]} from ${t + 1}`).join(", ") },
  starts.map((t, i) => {
    const part = el("span", { class: best[t] === null ? "faint" : tone(best[t]) },
      best[t] === null ? "NaN" : names[best[t]]);
    part.style.flexGrow = (starts[i + 1] ?? best.length) - t;
    return part;
  }));
}

/** Rows of values over timesteps: a plot, a slider, and what is there at the slider's timestep. */
function evolution({ rows, raw = rows, steps, names, format, title, total, coverage, drawing }) {
  const order = rank(rows.at(-1)).slice(0, TONES.length);
  const tone = (i) => TONES[order.indexOf(i)] ?? "faint";
  const few = names.length <= CURVES || format === percent;
  const values = el("ol", { class: "levels" });
  const pixels = coverage ? new Pixels(drawing, "What the model has read") : null;
  const slider = el("input", { type: "range", min: 0, max: steps.length - 1,
    value: steps.length - 1, "aria-label": "Timestep", input: () => show(Number(slider.value)) });
  const place = el("output", {}, "");
  const plot = few ? new Plot({ label: title, marks: "lines", names: 44,
    tick: format === percent ? (value) => `${Math.round(100 * value)} %` : format,
    describe: (i) => `After timestep ${steps[i ?? steps.length - 1]}: ${top(i)}`,
    onPick: (i) => show(i) }) : new Heat(title, rows, (i) => show(i));
  const top = (i) => rank(rows[i ?? rows.length - 1]).slice(0, 3)
    .map((k) => `${names[k]} ${format(rows[i ?? rows.length - 1][k])}`).join(", ");

  function show(i) {
    slider.value = i;
    slider.setAttribute("aria-valuetext", `timestep ${steps[i]}`);
    place.textContent = `timestep ${steps[i]} of ${total}`;
    plot.pick(i);
    pixels?.draw(coverage, Math.round((steps[i] / total) * coverage.length));
    values.replaceChildren(...levels(rows[i], names, format, format === percent, tone));
  }

  if (few) {
    plot.draw({ ends: [`timestep ${steps[0]}`, `${steps.at(-1)}`],
      series: paint(names, rows, tone) });
  }
  show(steps.length - 1);
  const head = ["timestep", ...names];
  return el("div", { class: "evolution" },
    el("h3", {}, title), plot.element, format === percent ? strip(names, rows, tone) : null,
    el("div", { class: "scrub" }, slider, place),
    el("div", { class: "moment" }, pixels?.element ?? null, few ? values : null),
    numbers(format === percent ? "Numbers (logits)" : "Numbers", head,
      raw.map((row, i) => [steps[i], ...row.map(exact)])));
}

/** Curves, those that end highest on top and by name. */
function paint(names, rows, tone) {
  const series = names.map((name, i) => ({ name, tone: tone(i), named: tone(i) !== "faint",
    values: rows.map((row) => row[i]) }));
  return series.sort((a, b) => Number(a.named) - Number(b.named));
}

/** Bars of one timestep's values: probabilities from the left, other values from the middle. */
function levels(row, names, format, probable, tone) {
  const size = probable ? 1 : 2 * Math.max(...row.map(Math.abs).filter(Number.isFinite), 1e-30);
  return row.map((value, i) => {
    const bar = el("span", { class: `level ${tone(i)}`, "aria-hidden": "true" });
    const length = Number.isFinite(value) ? value : 0;
    bar.style.setProperty("--part", Math.abs(length) / size);
    bar.style.setProperty("--start", probable ? 0 : 0.5 + Math.min(0, length) / size);
    return el("li", {}, el("b", {}, names[i]), bar, el("span", { class: "n" }, format(value)));
  });
}

function numbers(title, head, rows) {
  const [most, wide] = SHOWN;
  const hidden = [rows.length > most ? `${rows.length - most} more rows` : null,
    head.length > wide ? `${head.length - wide} more columns` : null].filter(Boolean);
  return el("details", { class: "numbers" }, el("summary", {}, title),
    table(title, head.slice(0, wide), rows.slice(0, most).map((row) => row.slice(0, wide))),
    hidden.length ? el("p", { class: "hint" }, `Not shown: ${hidden.join(" and ")}.`) : null);
}

/** Indices by falling value. */
function rank(row) {
  const key = (i) => (Number.isNaN(row[i]) ? -Infinity : row[i]);
  return row.map((_, i) => i).sort((a, b) => key(b) - key(a) || 0);
}

import { showAnswer } from "./answer.js";
import { el } from "./dom.js";
import { batchAxis, match, parse, shapeOf } from "./feeds.js";
import { readNpz } from "./npz.js";
import { Pad } from "./pad.js";
import { Pixels } from "./pixels.js";
import { oneStream } from "./prefixes.js";
import { rasterize, sequence } from "./raster.js";
import { infer } from "./server.js";

/** Timesteps of the example in the field for numbers. */
const EXAMPLE = 8;
/** Timesteps of the sample. */
const SAMPLE = 64;

/** The section that asks a model: by drawing, by a file or by numbers. */
export function askSection(model, onAnswer) {
  const status = el("p", { class: "status", role: "status" });
  const answer = el("div", { class: "answer" });
  let asked = 0;

  /** Show what `ask` finds, unless another question came in the meantime. */
  async function run(ask) {
    const turn = ++asked;
    const now = () => turn === asked;
    status.className = "status";
    status.textContent = "Asking …";
    answer.classList.add("stale");
    answer.setAttribute("aria-busy", "true");
    try {
      const { parts, note } = await ask();
      if (!now()) return;
      answer.replaceChildren(...parts);
      status.textContent = note;
    } catch (error) {
      if (!now()) return;
      answer.replaceChildren();
      status.className = "status alarm";
      status.textContent = error.message;
    }
    answer.classList.remove("stale");
    answer.removeAttribute("aria-busy");
    onAnswer();
  }

  const ways = [["file", "File (.npz)", fileForm(model, run)],
    ["numbers", "Numbers", numbersForm(model, run)]];
  if (model.drawing) ways.unshift(["draw", "Draw", drawForm(model, run)]);
  return el("section", { class: "card ask", "aria-labelledby": "ask-title" },
    el("div", { class: "ask-head" }, el("h2", { id: "ask-title" }, "Ask the model"),
      el("button", { type: "button", class: "plain",
        click: () => run(() => ask(model, sample(model), { notes: ["A sample, made up."] })) },
      "Try a sample")),
    el("div", { class: "ask-columns" },
      el("div", {}, tabs(ways)), el("div", {}, status, answer)));
}

/** Ask for whole sequences; show one of them. */
async function ask(model, feeds, { coverage = null, notes = [], stream = 0 } = {}) {
  const started = performance.now();
  const own = model.outputs.filter((output) => output.own).map((output) => output.name);
  const one = oneStream(model, feeds, stream);
  const results = await infer(model, one, own);
  const took = Math.round(performance.now() - started);
  const parts = await showAnswer(model, one, results, coverage);
  return { parts, note: [...notes, `Answered in ${took} ms.`].join(" ") };
}

function drawForm(model, run) {
  const { drawing } = model;
  const input = model.inputs[0];
  const pixels = new Pixels(drawing, "What the model gets");
  let coverage = null;
  const button = el("button", { type: "submit", disabled: true }, "Ask");
  const pad = new Pad(drawing, (strokes) => {
    coverage = strokes.length ? rasterize(strokes, drawing) : null;
    button.disabled = !coverage;
    pixels.draw(coverage ?? drawing.order.map(() => 0));
  });
  pixels.draw(drawing.order.map(() => 0));
  return el("form", { submit: (event) => {
    event.preventDefault();
    const feeds = { [input.name]: sequence(coverage, drawing, input) };
    run(() => ask(model, feeds, { coverage }));
  } },
  el("div", { class: "drawing" }, pad.canvas, pixels.element),
  el("p", { id: "pad-help", class: "hint" }, `Draw a ${drawing.subject} with the mouse or ` +
    "a finger. With the keyboard: arrows move the pen, the space bar sets it down and lifts it."),
  el("p", { class: "buttons" }, button,
    el("button", { type: "button", class: "plain", click: () => pad.clear() }, "Clear")));
}

function fileForm(model, run) {
  const needed = model.inputs.filter((input) => input.own);
  const choose = el("input", { type: "file", id: "npz", accept: ".npz", required: true,
    change: () => { which.value = 0; } });
  const which = el("input", { type: "number", id: "stream", min: 0, value: 0, step: 1 });
  return el("form", { submit: (event) => {
    event.preventDefault();
    run(async () => {
      const arrays = await readNpz(await choose.files[0].arrayBuffer(), model.limits.max_body);
      const { feeds, notes } = match(model, arrays);
      const stream = Number(which.value);
      const { shape } = feeds[needed[0].name];
      const streams = shape[batchAxis(needed[0])];
      if (!(stream < streams)) {
        throw new Error(`The file has ${streams} sequences, numbered from 0; there is no ` +
          `${stream}.`);
      }
      if (streams > 1) notes.unshift(`Sequence ${stream} of ${streams}.`);
      return ask(model, feeds, { notes, stream });
    });
  } },
  el("label", { for: "npz" }, "Arrays, written by numpy.savez"), choose,
  el("p", { class: "hint" }, `By name: ${needed.map(described).join("; ")}. ` +
    "Optional inputs, such as lengths and initial states, may be in it too."),
  el("label", { for: "stream" }, "Sequence to show, from 0"), which,
  el("p", { class: "buttons" }, el("button", { type: "submit" }, "Ask")));
}

function numbersForm(model, run) {
  const needed = model.inputs.filter((input) => input.own);
  const fields = needed.map((input, i) => el("textarea", { id: `numbers-${i}`, rows: 9,
    spellcheck: "false" }, example(input, model.metadata.length)));
  return el("form", { submit: (event) => {
    event.preventDefault();
    run(async () => ask(model, Object.fromEntries(
      needed.map((input, i) => [input.name, parse(fields[i].value, input)]))));
  } },
  needed.map((input, i) => [el("label", { for: `numbers-${i}` }, described(input)), fields[i]]),
  el("p", { class: "hint" }, "One sequence, as nested lists in JSON."),
  el("p", { class: "buttons" }, el("button", { type: "submit" }, "Ask")));
}

/** One sequence of made-up numbers. */
function sample(model) {
  const needed = model.inputs.filter((input) => input.own);
  return Object.fromEntries(needed.map((input) =>
    [input.name, parse(example(input, model.metadata.length, SAMPLE), input)]));
}

const described = (input) => `${input.name}, ${input.datatype} (${shapeOf(input)})`;

/** Nested lists of small numbers in an input's shape, without the axis of the batch. */
function example(input, length, time = EXAMPLE) {
  const sizes = input.shape.map((size, axis) =>
    (size === -1 ? (axis === input.time_axis ? length ?? time : 1) : size))
    .toSpliced(batchAxis(input), 1);
  let count = 0;
  const fill = (axis) => (axis === sizes.length
    ? (input.datatype.startsWith("FP") ? Number(Math.sin(count++).toFixed(2)) : 0)
    : Array.from({ length: sizes[axis] }, () => fill(axis + 1)));
  const lines = [].concat(fill(0)).map((line) => JSON.stringify(line)).join(",\n ");
  return sizes.length ? `[${lines}]` : lines;
}

/** Panels of which one is shown; arrow keys move between their tabs. */
function tabs(ways) {
  const panels = ways.map(([id, , content]) => el("div", { role: "tabpanel", id: `panel-${id}`,
    "aria-labelledby": `tab-${id}` }, content));
  const buttons = ways.map(([id, title], i) => el("button", { role: "tab", type: "button",
    id: `tab-${id}`, "aria-controls": `panel-${id}`, click: () => select(i), keydown: (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) select((i + move + ways.length) % ways.length).focus();
    } }, title));
  function select(chosen) {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-selected", i === chosen);
      button.tabIndex = i === chosen ? 0 : -1;
      panels[i].hidden = i !== chosen;
    });
    return buttons[chosen];
  }
  select(0);
  return [el("div", { role: "tablist", "aria-label": "How to ask" }, buttons), ...panels];
}

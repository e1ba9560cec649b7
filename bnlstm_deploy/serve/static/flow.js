import { el } from "./dom.js";
import { shapeOf } from "./feeds.js";

/** Layers that are drawn one by one; of more the first and the last. */
const DRAWN = 4;

/** The graph as boxes from inputs to outputs: layers with their sizes, and what computes them. */
export function flow({ metadata, kernel, inputs, outputs }) {
  const values = (tensors) => tensors.filter(({ own }) => own).map((tensor) =>
    [tensor.name, `${tensor.datatype} (${shapeOf(tensor)})`]);
  const stages = metadata.layers.flatMap((entry) => layers(entry));
  return el("div", { class: "flow-frame" },
    el("ol", { class: "flow", "aria-label": "From inputs to outputs" },
      el("li", { class: "value" }, ...values(inputs).map(lines)),
      stages.map((stage) => el("li", { class: "layer" }, lines(stage))),
      el("li", { class: "value" }, ...values(outputs).map(lines))),
    el("p", { class: "hint" }, `Form ${metadata.form}, ${metadata.folding}; runs as ${kernel}.`));
}

const lines = ([first, ...rest]) =>
  [el("b", {}, first), rest.map((line) => el("span", {}, line))];

/** What stands in the boxes of one BNLSTM. */
function layers({ name, input_size: D, hidden_size: H, num_layers: count, num_directions: both,
  steps, normalize }) {
  const title = name ? `${name}: BNLSTM` : "BNLSTM";
  const box = (layer) => [count > 1 ? `${title}, layer ${layer + 1}` : title,
    `${layer ? both * H : D} → ${both * H}${both > 1 ? ", both directions" : ""}`,
    `normalized: ${normalize.join(", ") || "nothing"}`, `${steps} steps of statistics`];
  const all = Array.from({ length: count }, (_, layer) => box(layer));
  return count <= DRAWN ? all
    : [all[0], [`${count - 2} layers`, `${both * H} → ${both * H}`], all.at(-1)];
}

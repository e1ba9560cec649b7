import { el, table } from "./dom.js";
import { shapeOf } from "./feeds.js";
import { flow } from "./flow.js";
import { bytes } from "./format.js";

const RECORD = {
  ratio: "largest error, as a multiple of the training model's own",
  truth_error: "largest absolute error against the float64 training model",
  algebra_error: "relative error of the fold in float64",
  providers: "execution providers", versions: "versions", date: "date",
};

/** A list of names and values, all as text. */
function list(entries) {
  return el("dl", { class: "facts" }, entries.filter(([, value]) => value !== "" && value !== null)
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
}

/** The short facts that stand below a model's name. */
export function summary({ metadata, version }) {
  const verified = Object.keys(metadata.verified).length > 0;
  const chips = [`version ${version}`, `form ${metadata.form}`, metadata.folding, metadata.dtype,
    `${metadata.steps} ${metadata.steps === 1 ? "step" : "steps"} of statistics`];
  return el("p", { class: "chips" },
    el("span", { class: verified ? "good" : "note" }, verified ? "✓ verified" : "not verified"),
    chips.map((chip) => el("span", {}, chip)));
}

/** The sections that say what a model is, and how it was checked. */
export function factSections(model) {
  const { metadata, file, limits } = model;
  const layers = metadata.layers.map((entry) => [entry.name || "–", entry.input_size,
    entry.hidden_size, entry.num_layers, entry.num_directions, entry.steps,
    entry.normalize.join(", ") || "none", entry.streams ? "yes" : "no"]);
  const values = (kind, extra, tensors) => tensors.map((tensor) =>
    [tensor.own ? kind : `${extra} ${kind}`, tensor.name, tensor.datatype, shapeOf(tensor)]);
  const graph = el("section", { class: "card", "aria-labelledby": "graph-title" },
    el("h2", { id: "graph-title" }, "Graph"), flow(model),
    list([["file", `${file.name}, ${bytes(file.bytes)}`], ["form", metadata.form],
      ["why", metadata.reason], ["folding", metadata.folding], ["dtype", metadata.dtype],
      ["weights in", metadata.weights ? metadata.weights
        + (metadata.calibrated ? ", calibrated" : "") : ""],
      ["h in", metadata.activations ?? ""],
      ["runs as", model.kernel],
      ["timesteps", metadata.length ?? "any number"], ["target", metadata.target],
      ["padded sequences", metadata.pads ? "yes: sequences of different lengths share a batch"
        : "no: only sequences of one length share a batch"],
      ["merged rows", metadata.merge_tolerance ? `tolerance ${metadata.merge_tolerance}` : ""],
      ["written by", metadata.producer], ["checkpoint", metadata.checkpoint_sha256]]),
    el("h3", {}, "Recurrent layers"),
    table("Recurrent layers", ["module", "D", "H", "layers", "directions", "S", "normalizations",
      "streams"], layers),
    el("h3", {}, "Inputs and outputs"),
    table("Inputs and outputs", ["kind", "name", "type", "shape"],
      [...values("input", "optional", model.inputs), ...values("output", "state", model.outputs)]));
  const record = Object.entries(metadata.verified);
  const rank = (name) => (Object.keys(RECORD).indexOf(name) + 99) % 99;
  record.sort(([a], [b]) => rank(a) - rank(b));
  const verified = el("section", { class: "card", "aria-labelledby": "verified-title" },
    el("h2", { id: "verified-title" }, "Verification"),
    record.length
      ? el("p", { class: "good-line" }, "This file computes what its checkpoint computes.")
      : el("p", {}, "This file carries no record of a check. bnlstm-deploy verify makes one."),
    list(record.map(([name, value]) => [RECORD[name] ?? name, value])),
    el("h3", {}, "Limits of this server"),
    list([["streams in one run", limits.max_batch], ["timesteps of a request", limits.max_time],
      ["requests waiting", limits.max_queue], ["body of a request", bytes(limits.max_body)],
      ["answer within", `${limits.timeout} s`], ["sequences held", limits.max_sequences],
      ["kept without a chunk", `${limits.sequence_idle} s`]]));
  return el("div", { class: "columns" }, graph, verified);
}

import { el } from "./dom.js";

/** Timesteps of the examples. */
const TIME = 8;

/** How to ask the model from elsewhere, with its own names and shapes. */
export function useSection(model) {
  return el("section", { class: "card", "aria-labelledby": "use-title" },
    el("h2", { id: "use-title" }, "Use it from elsewhere"),
    el("div", { class: "columns" },
      el("div", {}, el("h3", {}, "A shell"), el("pre", { tabindex: "0" }, curl(model))),
      el("div", {}, el("h3", {}, "Python"), el("pre", { tabindex: "0" }, python(model)))),
    el("p", { class: "hint" }, "With a token, add the header ", el("code", {},
      "Authorization: Bearer TOKEN"), ", or in Python ", el("code", {}, "token="), ". Every client ",
    "of the Open Inference Protocol can ask, such as tritonclient."));
}

const needed = ({ inputs }) => inputs.filter(({ own }) => own);

/** A shape of numbers: one stream, a few timesteps. */
function sizes(input, length) {
  return input.shape.map((size, axis) =>
    (size !== -1 ? size : axis === input.time_axis ? length ?? TIME : 1));
}

function curl(model) {
  const inputs = needed(model).map((input) => {
    const shape = sizes(input, model.metadata.length);
    const count = shape.reduce((all, size) => all * size, 1);
    return { name: input.name, datatype: input.datatype, shape, data: new Array(count).fill(0) };
  });
  const address = new URL(model.infer, location.href);
  return `curl ${address} \\\n  -d '${JSON.stringify({ inputs })}'`;
}

function python(model) {
  const arrays = needed(model).map((input) => {
    const type = { FP32: "float32", FP64: "float64", INT64: "int64", INT32: "int32" };
    const shape = sizes(input, model.metadata.length).join(", ");
    return `np.zeros((${shape}), np.${type[input.datatype] ?? "bool_"})`;
  });
  const address = new URL(".", location.href);
  return [
    "import numpy as np",
    "from bnlstm_deploy.client import Client",
    "",
    `with Client("${address}", ${JSON.stringify(model.name)}) as client:`,
    `    output, state = client.run(${arrays.join(", ")})`,
  ].join("\n");
}

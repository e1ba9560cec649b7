import { flatten } from "./arrays.js";

const FLOATS = ["FP32", "FP64"];
const INTEGERS = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"];

/**
 * Arrays of a file as the inputs of a model.
 *
 * @returns {{feeds: Object, notes: string[]}} Arrays by input name, and what was converted.
 * @throws {Error} A name, a type or a shape is not the model's. The server judges values.
 */
export function match(model, arrays) {
  const needed = model.inputs.filter((input) => input.own).map((input) => input.name);
  const names = model.inputs.map((input) => input.name);
  const given = Object.keys(arrays);
  let found = arrays;
  if (given.length === 1 && needed.length === 1 && !names.includes(given[0])) {
    found = { [needed[0]]: arrays[given[0]] };  // the only array is the only input, however named
  }
  const missing = needed.filter((name) => !(name in found));
  const unknown = Object.keys(found).filter((name) => !names.includes(name));
  if (missing.length || unknown.length) {
    throw new Error(`The file has the arrays ${given.join(", ")}; this model takes ` +
      `${needed.join(", ")}` + (names.length > needed.length ? ", and optionally " +
        `${names.filter((name) => !needed.includes(name)).join(", ")}.` : "."));
  }
  const feeds = {};
  const notes = [];
  for (const input of model.inputs.filter(({ name }) => name in found)) {
    feeds[input.name] = convert(found[input.name], input, notes);
  }
  return { feeds, notes };
}

/** Text of nested lists as one input; the axis of the batch may be left out. */
export function parse(text, input) {
  let nested;
  try {
    nested = JSON.parse(text);
  } catch (error) {
    throw new Error(`${input.name}: this is not JSON (${error.message}).`);
  }
  try {
    const { shape, data } = flatten(nested);
    const batch = batchAxis(input);
    const whole = shape.length === input.shape.length - 1 ? shape.toSpliced(batch, 0, 1) : shape;
    return convert({ datatype: typeof data[0] === "boolean" ? "BOOL" : "FP64", shape: whole, data },
      input, []);
  } catch (error) {
    throw new Error(`${input.name}: ${error.message}`);
  }
}

/** A shape in words: batch, time, 3. */
export const shapeOf = ({ shape, time_axis: time }) => shape
  .map((size, axis) => (axis === time ? "time" : size === -1 ? "batch" : size)).join(", ");

/** The axis of the streams: the first that has no fixed size and is not time. */
export function batchAxis({ shape, time_axis: time }) {
  return Math.max(0, shape.findIndex((size, axis) => size === -1 && axis !== time));
}

function convert(array, { name, datatype, shape }, notes) {
  const { datatype: from, data } = array;
  if (array.shape.length !== shape.length ||
      shape.some((size, axis) => size !== -1 && size !== array.shape[axis])) {
    throw new Error(`“${name}” has the shape (${array.shape.join(", ")}); the model takes ` +
      `(${shape.map((size) => (size === -1 ? "any" : size)).join(", ")}).`);
  }
  if (from === datatype) return array;
  const whole = INTEGERS.includes(from) || (from === "FP64" && data.every(Number.isInteger));
  if (FLOATS.includes(datatype) && (FLOATS.includes(from) || INTEGERS.includes(from))) {
    notes.push(`${name} is ${from}, and was sent as ${datatype}.`);
    return { ...array, datatype };
  }
  if (INTEGERS.includes(datatype) && whole) {
    notes.push(`${name} is ${from}, and was sent as ${datatype}.`);
    return { ...array, datatype };
  }
  throw new Error(`“${name}” is ${from}; the model takes ${datatype}.`);
}

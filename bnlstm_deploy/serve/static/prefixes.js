import { keep, repeat, take } from "./arrays.js";
import { batchAxis } from "./feeds.js";
import { infer } from "./server.js";

/** Prefixes of a long sequence that are asked for. */
const POINTS = 128;

/** The number of timesteps of a request; null for a model that has no time. */
export function timesteps(model, feeds) {
  const input = model.inputs.find((value) => value.own && value.time_axis !== null);
  return input ? feeds[input.name].shape[input.time_axis] : null;
}

/** One stream of a request, still with an axis for it. */
export function oneStream(model, feeds, stream) {
  return mapFeeds(model, feeds, (array, axis) =>
    repeat(take(array, axis, stream), axis, 1));
}

/**
 * What a model answers after the first 1, 2, ... T timesteps of a stream.
 *
 * Models that know padding get the prefixes as one batch with lengths; others get each prefix by
 * itself. Of long sequences some prefixes are left out.
 *
 * @param feeds  One stream.
 * @param name  The output.
 * @returns {Promise<{steps: number[], rows: number[][]}|null>} null if the model takes one number
 *     of timesteps only.
 */
export async function overPrefixes(model, feeds, name) {
  const lengths = model.inputs.filter((input) => /(^|\.)lengths$/.test(input.name));
  const padded = model.metadata.pads && lengths.length > 0;
  const given = lengths.map((input) => feeds[input.name]?.data[0]).filter((n) => n !== undefined);
  const total = Math.min(timesteps(model, feeds), ...given);
  if (!total || (!padded && model.metadata.length !== null)) return null;
  const points = Math.min(total, POINTS);
  const steps = Array.from({ length: points }, (_, i) => Math.ceil(((i + 1) * total) / points));
  const output = model.outputs.find((value) => value.name === name);
  const rows = [];
  const size = padded ? model.limits.max_batch : 1;
  for (let i = 0; i < steps.length; i += size) {
    const part = steps.slice(i, i + size);
    const request = padded ? batch(model, feeds, lengths, part) : cut(model, feeds, part[0]);
    const answer = (await infer(model, request, [name]))[name];
    for (let k = 0; k < part.length; k++) rows.push(take(answer, batchAxis(output), k).data);
  }
  return { steps, rows };
}

function batch(model, feeds, lengths, steps) {
  const copies = mapFeeds(model, feeds, (array, axis) =>
    repeat(take(array, axis, 0), axis, steps.length));
  for (const { name, datatype } of lengths) {
    copies[name] = { datatype, shape: [steps.length], data: steps };
  }
  return copies;
}

function cut(model, feeds, steps) {
  const shortened = { ...feeds };
  for (const { name, own, time_axis: axis } of model.inputs) {
    if (own && axis !== null) shortened[name] = keep(feeds[name], axis, steps);
  }
  return shortened;
}

function mapFeeds(model, feeds, change) {
  return Object.fromEntries(model.inputs.filter(({ name }) => name in feeds)
    .map((input) => [input.name, change(feeds[input.name], batchAxis(input))]));
}

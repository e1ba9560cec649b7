// An exported file in WebAssembly, its streams continued from timestep to timestep.

import * as ort from "./ort/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins

const NO_LENGTH = 2n ** 63n - 1n; // the streams end nowhere within what is passed

export const open = (address) => ort.InferenceSession.create(address);

/** What a stream starts from: the file was converted with --state required. */
export function initialState(session) {
  const { shape } = session.inputMetadata.find(({ name }) => name === "initial_h");
  const [layers, , size] = shape;
  const zeros = () => new ort.Tensor("float32", new Float32Array(layers * size), [layers, 1, size]);
  const start_step = new ort.Tensor("int64", BigInt64Array.of(0n), [1]);
  return { initial_h: zeros(), initial_c: zeros(), start_step };
}

/** Take one timestep of one stream; return the output there, and the state for the next. */
export async function step(session, features, state) {
  const input = new ort.Tensor("float32", Float32Array.from(features), [1, 1, features.length]);
  const lengths = new ort.Tensor("int64", BigInt64Array.of(NO_LENGTH), [1]);
  const { output, h_n, c_n, next_step } = await session.run({ input, lengths, ...state });
  const next = { initial_h: h_n, initial_c: c_n, start_step: next_step };
  return { output: output.data, state: next };
}

/** Yield the output at each timestep of a sequence. */
export async function* stream(session, sequence) {
  let state = initialState(session);
  for (const features of sequence) {
    const taken = await step(session, features, state);
    state = taken.state;
    yield taken.output;
  }
}

// A stream in Node.js, one timestep at a time: node node.mjs MODEL.onnx, of --state required.
import ort from "onnxruntime-node";

const session = await ort.InferenceSession.create(process.argv[2]);
const [layers, , size] = session.inputMetadata.find(({ name }) => name === "initial_h").shape;
const features = session.inputMetadata[0].shape.at(-1);
const zeros = (...shape) => new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
const count = (number) => new ort.Tensor("int64", BigInt64Array.of(number), [1]);
let state = { initial_h: zeros(layers, 1, size), initial_c: zeros(layers, 1, size), start_step: count(0n) };
for (let t = 0; t < 64; t++) {
  const input = new ort.Tensor("float32", new Float32Array(features).fill(t / 64), [1, 1, features]);
  const { output, h_n, c_n, next_step } = await session.run({ input, lengths: count(2n ** 63n - 1n), ...state });
  state = { initial_h: h_n, initial_c: c_n, start_step: next_step };
  console.log(Array.from(output.data, (value) => value.toPrecision(9)).join(" "));
}

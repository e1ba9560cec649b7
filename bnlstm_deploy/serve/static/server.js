import { product } from "./arrays.js";

/** What the server answered to a request that failed, in its own words. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const TYPES = { FP32: Float32Array, FP64: Float64Array, INT32: Int32Array, INT64: BigInt64Array,
  BOOL: Uint8Array };

let token = "";

/** Use a bearer token from now on. It is kept nowhere else. */
export function setToken(value) {
  token = value.trim();
}

/** Read JSON from an address of this server. */
export async function read(address, options = {}) {
  const response = await ask(address, options);
  const content = parse(await response.text());
  if (content) return content;
  throw new ServerError("The server's answer is no JSON.", response.status);
}

/** Ask for an address of this server. */
async function ask(address, options) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(address, { ...options, headers, cache: "no-store" });
  } catch {
    throw new ServerError("The server does not answer. Is it still running?", 0);
  }
  if (response.ok) return response;
  const text = await response.text();
  if (response.status === 401) {
    throw new ServerError(token ? "This is not the server's token. Enter it above, under “Token”."
      : "The server demands a token. Enter it above, under “Token”.", 401);
  }
  const reason = parse(text)?.error ?? (text.slice(0, 300) || response.statusText);
  throw new ServerError(String(reason), response.status);
}

/**
 * Ask a model.
 *
 * @param model  An entry of page/models.
 * @param feeds  Arrays by input name: {datatype, shape, data}.
 * @param outputs  Names of the wanted outputs.
 * @returns Arrays by output name.
 */
export async function infer(model, feeds, outputs) {
  const inputs = Object.entries(feeds).map(([name, { datatype, shape, data }]) => {
    if (data.some((value) => Math.abs(value) === Infinity)) {
      throw new ServerError(`“${name}” has infinite values, which JSON cannot carry.`, 0);
    }
    return { name, datatype, shape, data };  // JSON writes NaN as null
  });
  const body = JSON.stringify({ inputs, outputs: outputs.map((name) => ({ name })),
    parameters: { binary_data_output: true } });  // JSON has no NaN
  const response = await ask(model.infer, {
    method: "POST", body, headers: { "Content-Type": "application/json" },
  });
  const bytes = await response.arrayBuffer();
  let at = Number(response.headers.get("Inference-Header-Content-Length"));
  const answer = parse(new TextDecoder().decode(bytes.slice(0, at)));
  const results = {};
  for (const { name, datatype, shape, parameters } of answer?.outputs ?? []) {
    const end = at + parameters.binary_data_size;
    const data = Array.from(new TYPES[datatype](bytes.slice(at, end)), Number);
    if (data.length !== product(shape)) {
      throw new ServerError(`The server's output ${name} is not complete.`, 0);
    }
    results[name] = { datatype, shape, data };
    at = end;
  }
  return results;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

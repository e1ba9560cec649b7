import { product } from "./arrays.js";

/** What the server answered to a request that failed, in its own words. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let token = "";

/** Use a bearer token from now on. It is kept nowhere else. */
export function setToken(value) {
  token = value.trim();
}

/** Read JSON from an address of this server. */
export async function read(address, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(address, { ...options, headers, cache: "no-store" });
  } catch {
    throw new ServerError("The server does not answer. Is it still running?", 0);
  }
  const text = await response.text();
  const content = parse(text);
  if (response.ok && content) return content;
  if (response.status === 401) {
    throw new ServerError("The server demands a token. Enter it above, under “Token”.", 401);
  }
  const reason = content?.error ?? content?.detail ?? (text.slice(0, 300) || response.statusText);
  throw new ServerError(String(reason), response.status);
}

/**
 * Ask a model.
 *
 * @param model  An entry of page/models.
 * @param feeds  Arrays by input name: {datatype, shape, data}.
 * @param outputs  Names of the wanted outputs.
 * @returns Arrays by output name, null in the place of NaN and infinities.
 */
export async function infer(model, feeds, outputs) {
  const inputs = Object.entries(feeds).map(([name, { datatype, shape, data }]) => {
    if (data.some((value) => Math.abs(value) === Infinity)) {
      throw new ServerError(`“${name}” has infinite values, which JSON cannot carry.`, 0);
    }
    return { name, datatype, shape, data };  // JSON writes NaN as null
  });
  const body = JSON.stringify({ inputs, outputs: outputs.map((name) => ({ name })) });
  const answer = await read(model.infer, {
    method: "POST", body, headers: { "Content-Type": "application/json" },
  });
  const results = {};
  for (const { name, datatype, shape, data } of answer.outputs) {
    if (data?.length !== product(shape)) {
      throw new ServerError(`The server's output ${name} is not complete.`, 0);
    }
    results[name] = { datatype, shape, data };
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

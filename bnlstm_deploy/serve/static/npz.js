// Reads NumPy's .npz: a zip archive of .npy files, stored or deflated.

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const LARGE = 0xffffffff;

/** NumPy's type codes: the protocol's datatype, bytes, DataView's reader. */
const TYPES = {
  f4: ["FP32", 4, "getFloat32"], f8: ["FP64", 8, "getFloat64"], b1: ["BOOL", 1, "getUint8"],
  i1: ["INT8", 1, "getInt8"], i2: ["INT16", 2, "getInt16"], i4: ["INT32", 4, "getInt32"],
  i8: ["INT64", 8, "getBigInt64"], u1: ["UINT8", 1, "getUint8"], u2: ["UINT16", 2, "getUint16"],
  u4: ["UINT32", 4, "getUint32"], u8: ["UINT64", 8, "getBigUint64"],
};

/**
 * Read the arrays of an archive.
 *
 * @param buffer  The file, an ArrayBuffer.
 * @param limit  Bytes that an array may have at most.
 * @returns {Promise<Object>} Arrays by name: {datatype, shape, data}.
 * @throws {Error} It is no such archive; the message says why in words.
 */
export async function readNpz(buffer, limit) {
  const view = new DataView(buffer);
  const arrays = {};
  for (const entry of entries(view)) {
    const name = entry.name.replace(/\.npy$/, "");
    if (entry.size > limit) {
      throw new Error(`The array “${name}” has ${entry.size} bytes; the server takes ${limit}.`);
    }
    arrays[name] = readNpy(await unpack(view, entry), name);
  }
  if (!Object.keys(arrays).length) throw new Error("The archive holds no arrays.");
  return arrays;
}

/** List the entries of a zip archive by its directory, which stands at its end. */
function entries(view) {
  let end = view.byteLength - 22;
  while (end >= 0 && end >= view.byteLength - 65557 && view.getUint32(end, true) !== END) end--;
  if (end < 0 || view.getUint32(end, true) !== END) {
    throw new Error("This is no .npz file: it has no zip directory. Write one with numpy.savez.");
  }
  const found = [];
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (at + 46 > end || view.getUint32(at, true) !== ENTRY) {
      throw new Error("The .npz file is damaged: its zip directory is.");
    }
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    found.push({
      name: new TextDecoder().decode(bytesOf(view, at + 46, name)),
      encrypted: view.getUint16(at + 8, true) & 1,
      method: view.getUint16(at + 10, true),
      crc: view.getUint32(at + 16, true),
      packed: view.getUint32(at + 20, true),
      size: view.getUint32(at + 24, true),
      start: view.getUint32(at + 42, true),
    });
    at += 46 + name + extra + comment;
  }
  return found;
}

async function unpack(view, { name, encrypted, method, crc, packed, size, start }) {
  const damaged = new Error(`The .npz file is damaged: “${name}” is not complete.`);
  if ([packed, size, start].includes(LARGE)) {
    throw new Error(`“${name}” is of 4 GB or more; that cannot be sent from here.`);
  }
  if (encrypted || (method !== 0 && method !== 8)) {
    throw new Error(`“${name}” is packed in a way that NumPy does not (method ${method}).`);
  }
  if (start + 30 > view.byteLength || view.getUint32(start, true) !== LOCAL) throw damaged;
  const data = start + 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
  const content = bytesOf(view, data, packed, damaged);
  const unpacked = method === 0 ? content : await inflate(content, size, damaged);
  if (unpacked.length !== size || checksum(unpacked) !== crc) throw damaged;
  return unpacked;
}

/** Inflate to at most `size` bytes; an archive that unpacks to more is damaged, or a bomb. */
async function inflate(content, size, damaged) {
  const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const result = new Uint8Array(size);
  let filled = 0;
  try {
    for await (const chunk of chunks(stream)) {
      result.set(chunk, filled);
      filled += chunk.length;
    }
  } catch {
    throw damaged;
  }
  if (filled !== size) throw damaged;
  return result;
}

/** Not all browsers iterate over streams. */
async function* chunks(stream) {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

/** Read one .npy file. */
export function readNpy(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 12 || String.fromCharCode(...bytes.subarray(0, 6)) !== "\x93NUMPY") {
    throw new Error(`“${name}” is no NumPy array.`);
  }
  const long = view.getUint8(6) > 1;
  const start = long ? 12 : 10;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder().decode(bytesOf(view, start, length, new Error(
    `The header of “${name}” is not complete.`)));
  const descr = /'descr':\s*'([<>|=]?)(\w+)'/.exec(header);
  const shape = /'shape':\s*\(([\d,\s]*)\)/.exec(header);
  const order = /'fortran_order':\s*(True|False)/.exec(header);
  if (!descr || !shape || !order || !TYPES[descr[2]]) {
    const type = descr ? descr[2] : "a structure";
    throw new Error(`“${name}” is of the type ${type}, which cannot be sent. ` +
      "Save numbers, such as float32 or int64.");
  }
  const [datatype, size, reader] = TYPES[descr[2]];
  const sizes = shape[1].split(",").map((part) => part.trim()).filter(Boolean).map(Number);
  const count = sizes.reduce((a, b) => a * b, 1);
  if (start + length + count * size !== bytes.length) {
    throw new Error(`“${name}” has ${bytes.length - start - length} bytes; its shape ` +
      `(${sizes.join(", ")}) needs ${count * size}.`);
  }
  const little = descr[1] !== ">";
  const data = Array.from({ length: count }, (_, i) =>
    number(view[reader](start + length + i * size, little), datatype, name));
  return { datatype, shape: sizes, data: order[1] === "True" ? rowByRow(data, sizes) : data };
}

function number(value, datatype, name) {
  if (datatype === "BOOL") return value !== 0;
  const converted = Number(value);
  if (typeof value === "bigint" && !Number.isSafeInteger(converted)) {
    throw new Error(`“${name}” holds ${value}, which JSON cannot carry exactly.`);
  }
  return converted;
}

/** Fortran's order, column by column, as C's. */
function rowByRow(data, shape) {
  const steps = shape.map((_, axis) => shape.slice(0, axis).reduce((a, b) => a * b, 1));
  const index = shape.map(() => 0);
  return data.map(() => {
    const value = data[index.reduce((sum, i, axis) => sum + i * steps[axis], 0)];
    for (let axis = shape.length - 1; axis >= 0 && ++index[axis] === shape[axis]; axis--) {
      index[axis] = 0;
    }
    return value;
  });
}

function bytesOf(view, start, length, error = new Error("The .npz file is damaged.")) {
  if (start + length > view.byteLength) throw error;
  return new Uint8Array(view.buffer, view.byteOffset + start, length);
}

const TABLE = Uint32Array.from({ length: 256 }, (_, i) => {
  for (let bit = 0; bit < 8; bit++) i = i & 1 ? (i >>> 1) ^ 0xedb88320 : i >>> 1;
  return i;
});

/** CRC-32, as zip has it. */
function checksum(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

// Arrays are {datatype, shape, data}: the protocol's datatype, and the elements row by row.

export const product = (shape) => shape.reduce((a, b) => a * b, 1);

/** Take one index of an axis away: the array that is left. */
export function take(array, axis, index) {
  const { shape, data } = array;
  const inner = product(shape.slice(axis + 1));
  const outer = product(shape.slice(0, axis));
  const taken = [];
  for (let i = 0; i < outer; i++) {
    const start = (i * shape[axis] + index) * inner;
    for (let j = 0; j < inner; j++) taken.push(data[start + j]);
  }
  return { ...array, shape: shape.toSpliced(axis, 1), data: taken };
}

/** Put copies of an array beside each other along a new axis. */
export function repeat(array, axis, times) {
  const { shape, data } = array;
  const inner = product(shape.slice(axis));
  const outer = product(shape.slice(0, axis));
  const repeated = [];
  for (let i = 0; i < outer; i++) {
    for (let k = 0; k < times; k++) {
      for (let j = 0; j < inner; j++) repeated.push(data[i * inner + j]);
    }
  }
  return { ...array, shape: shape.toSpliced(axis, 0, times), data: repeated };
}

/** Keep the first elements of an axis. */
export function keep(array, axis, size) {
  const { shape, data } = array;
  const inner = product(shape.slice(axis + 1));
  const kept = [];
  for (let i = 0; i < product(shape.slice(0, axis)); i++) {
    const start = i * shape[axis] * inner;
    for (let j = 0; j < size * inner; j++) kept.push(data[start + j]);
  }
  return { ...array, shape: shape.with(axis, size), data: kept };
}

/** The softmax of a row of numbers. */
export function softmax(values) {
  const largest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** Nested lists of numbers as {shape, data}; an error in words if they are no array. */
export function flatten(nested) {
  const shape = [];
  for (let part = nested; Array.isArray(part); part = part[0]) shape.push(part.length);
  const data = [];
  const visit = (part, axis) => {
    if (axis === shape.length) {
      if (typeof part !== "number" && typeof part !== "boolean") {
        throw new Error(`${JSON.stringify(part)} is not a number.`);
      }
      data.push(part);
    } else if (!Array.isArray(part) || part.length !== shape[axis]) {
      throw new Error(`The lists at depth ${axis} differ in length: ${shape[axis]}, and ` +
        `${Array.isArray(part) ? part.length : "a single value"}.`);
    } else part.forEach((inner) => visit(inner, axis + 1));
  };
  visit(nested, 0);
  return { shape, data };
}

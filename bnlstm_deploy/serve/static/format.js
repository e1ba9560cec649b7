/** Seconds as text: 830 µs, 1.24 ms, 2.1 s. */
export function seconds(value) {
  if (value === 0) return "0";
  if (value >= 1) return `${significant(value, 3)} s`;
  if (value >= 1e-3) return `${significant(value * 1e3, 3)} ms`;
  return `${significant(value * 1e6, 3)} µs`;
}

/** A count with separators. */
export const count = (value) => value.toLocaleString("en-US");

/** A probability in percent. */
export const percent = (value) =>
  (Number.isFinite(value) ? `${(value * 100).toFixed(1)} %` : special(value));

/** A number in few characters. */
export function brief(value) {
  if (typeof value === "number" && !Number.isFinite(value)) return special(value);
  if (typeof value === "boolean" || Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? significant(value, 4)
    : value.toExponential(2);
}

/** All that float32 knows of a number. */
export function exact(value) {
  if (typeof value === "number" && !Number.isFinite(value)) return special(value);
  return Number.isInteger(value) ? value : Number(Number(value).toPrecision(9));
}

/** NaN and the infinities as text. */
const special = (value) => (value === Infinity ? "∞" : value === -Infinity ? "−∞" : "NaN");

/** Bytes as text; of a file that is there no more there are none. */
export function bytes(value) {
  if (value === null) return "which is there no more";
  if (value < 1e6) return `${significant(value / 1e3, 3)} kB`;
  return `${significant(value / 1e6, 3)} MB`;
}

/** The value below which a part of the values is; 0 of none. */
export function quantile(values, part) {
  if (!values.length) return 0;
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
}

function significant(value, digits) {
  return String(Number(value.toPrecision(digits)));
}

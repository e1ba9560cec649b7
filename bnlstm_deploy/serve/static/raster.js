/** Sample points along a pixel's side, by which its coverage is measured. */
const SAMPLES = 4;

/**
 * How much of each pixel a drawing covers.
 *
 * The drawing is scaled until it fills the image, in its own proportions, and set into the middle.
 * Computed from the lines rather than read from a canvas, it is the same in all browsers.
 *
 * @param strokes  Lists of points [x, y], in any unit.
 * @param drawing  The model's description: size, margin and pen, in pixels.
 * @returns {number[]} Coverage from 0 to 1, row by row.
 */
export function rasterize(strokes, { size: [rows, columns], margin, pen }) {
  const lines = fit(strokes, rows, columns, margin + pen / 2);
  const covered = new Array(rows * columns).fill(0);
  for (let row = 0; row < rows * SAMPLES; row++) {
    for (let column = 0; column < columns * SAMPLES; column++) {
      const point = [(column + 0.5) / SAMPLES, (row + 0.5) / SAMPLES];
      if (lines.some((line) => touches(line, point, pen / 2))) {
        covered[Math.floor(row / SAMPLES) * columns + Math.floor(column / SAMPLES)] += 1;
      }
    }
  }
  return covered.map((samples) => samples / SAMPLES ** 2);
}

/** Scale and move strokes into the image, with a border free. */
function fit(strokes, rows, columns, border) {
  const points = strokes.flat();
  const [left, right, top, bottom] = [0, 1].flatMap((axis) => {
    const values = points.map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  });
  const scale = Math.min((columns - 2 * border) / (right - left),
    (rows - 2 * border) / (bottom - top));
  const factor = Number.isFinite(scale) ? scale : 0;  // a dot has no size to scale
  const [middle, centre] = [(left + right) / 2, (top + bottom) / 2];
  return strokes.map((stroke) => stroke.map(([x, y]) =>
    [(x - middle) * factor + columns / 2, (y - centre) * factor + rows / 2]));
}

function touches(line, point, reach) {
  if (line.length === 1) return distance(line[0], line[0], point) <= reach;
  return line.some((end, i) => i > 0 && distance(line[i - 1], end, point) <= reach);
}

/** From a point to the line between two others. */
function distance([ax, ay], [bx, by], [x, y]) {
  const length = (bx - ax) ** 2 + (by - ay) ** 2;
  const along = length ? ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length : 0;
  const part = Math.max(0, Math.min(1, along));
  return Math.hypot(x - ax - part * (bx - ax), y - ay - part * (by - ay));
}

/** Coverage as the model's input: the pixels in its order, T timesteps of D features. */
export function sequence(coverage, { order, paper, ink }, input) {
  const data = order.map((pixel) => paper + coverage[pixel] * (ink - paper));
  const features = input.shape.at(-1);
  const batch = 1 - (input.time_axis ?? 1);
  const shape = [data.length / features, features].toSpliced(batch, 0, 1);
  return { datatype: input.datatype, shape, data };
}

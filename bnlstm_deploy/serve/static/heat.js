import { el } from "./dom.js";
import { brief } from "./format.js";

/** Many values over timesteps as a map: a column for each timestep, blue above 0, orange below. */
export class Heat {
  constructor(label, rows, onPick) {
    this.rows = rows;
    this.largest = Math.max(...rows.flatMap((row) => row.map(Math.abs)).filter(Number.isFinite), 0);
    const count = rows[0].length;
    this.canvas = el("canvas", { width: rows.length, height: count, role: "img",
      "aria-label": label, pointerdown: (event) => {
        const box = this.canvas.getBoundingClientRect();
        const part = (event.clientX - box.left) / box.width;
        onPick(Math.max(0, Math.min(rows.length - 1, Math.floor(part * rows.length))));
      } });
    this.readout = el("p", { class: "readout" });
    this.mark = el("span", { class: "mark", "aria-hidden": "true" });
    this.element = el("figure", { class: "heat" },
      el("div", {}, this.canvas, this.mark), this.readout,
      el("p", { class: "hint" }, `${count} values from top to bottom, timesteps from left to ` +
        `right; blue is above 0, orange below, full colour ${brief(this.largest)}.`));
    this.#paint();
  }

  /** Mark a timestep. */
  pick(index) {
    const row = this.rows[index];
    this.mark.style.left = `${((index + 0.5) / this.rows.length) * 100}%`;
    const finite = row.filter(Number.isFinite);
    this.readout.textContent = `Timestep ${index + 1}: from ${brief(Math.min(...finite))} to ` +
      `${brief(Math.max(...finite))}` + (finite.length < row.length ? ", and NaN or ∞" : "");
  }

  #paint() {
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(this.rows.length, this.rows[0].length);
    this.rows.forEach((row, t) => row.forEach((value, i) => {
      const colour = !Number.isFinite(value) ? [128, 128, 128, 255]
        : [...(value > 0 ? [45, 120, 220] : [222, 110, 20]),
          255 * (this.largest ? Math.abs(value) / this.largest : 0)];
      image.data.set(colour, 4 * (i * this.rows.length + t));
    }));
    context.putImageData(image, 0, 0);
  }
}

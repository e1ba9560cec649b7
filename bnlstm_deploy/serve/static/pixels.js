import { el, svg } from "./dom.js";

/** The image that a model reads, pixel by pixel: those not read yet are dotted. */
export class Pixels {
  constructor({ size: [rows, columns], order }, label) {
    this.order = order;
    this.rects = order.map((_, i) => svg("rect", {
      x: (i % columns) + 0.04, y: Math.floor(i / columns) + 0.04, width: 0.92, height: 0.92,
      rx: 0.12,
    }));
    this.element = el("figure", { class: "pixels" },
      svg("svg", { viewBox: `0 0 ${columns} ${rows}`, role: "img", "aria-label": label },
        svg("title", {}, label), this.rects),
      el("figcaption", { class: "hint" }, label));
  }

  /** Show coverage from 0 to 1, row by row, of which the first `read` pixels are known. */
  draw(coverage, read = coverage.length) {
    const last = read < coverage.length ? read - 1 : null;
    this.order.forEach((pixel, position) => {
      const rect = this.rects[pixel];
      rect.setAttribute("class", position === last ? "now" : position < read ? "read" : "");
      rect.style.setProperty("--covered", position < read ? coverage[pixel] : 0);
    });
  }
}

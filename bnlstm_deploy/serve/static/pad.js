import { el } from "./dom.js";

const UNITS = 100;
/** Units that a key moves the pen by. */
const STEP = 5;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * A field to draw in, with a pointer (mouse, finger, pen) or with keys.
 *
 * @param drawing  The model's description.
 * @param onChange  Called with the strokes, lists of points [x, y], after each change.
 */
export class Pad {
  constructor(drawing, onChange) {
    this.strokes = [];
    this.onChange = onChange;
    this.position = [UNITS / 2, UNITS / 4];
    this.keyed = false;
    this.down = false;
    const [rows, columns] = drawing.size;
    this.width = UNITS * Math.max(1, columns / rows);
    this.height = UNITS * Math.max(1, rows / columns);
    this.pen = (0.8 * drawing.pen * UNITS) / Math.min(rows, columns);
    this.canvas = el("canvas", {
      class: "pad", tabindex: "0", role: "application", "aria-describedby": "pad-help",
      "aria-label": `Draw a ${drawing.subject}`,
      pointerdown: (event) => this.#start(event),
      pointermove: (event) => this.#move(event),
      pointerup: () => this.#stop(), pointercancel: () => this.#stop(),
      keydown: (event) => this.#key(event),
      focus: () => this.#paint(), blur: () => this.#lift(),
    });
    this.canvas.style.aspectRatio = `${this.width} / ${this.height}`;
    new ResizeObserver(() => this.#paint()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
  }

  clear() {
    this.strokes = [];
    this.down = this.drawing = false;
    this.#changed();
  }

  #start(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.keyed = this.down = false;
    this.drawing = true;
    this.strokes.push([this.#point(event)]);
    this.#changed();
  }

  #move(event) {
    if (!this.drawing) return;
    const between = event.getCoalescedEvents?.() ?? [];
    this.strokes.at(-1).push(...(between.length ? between : [event]).map((e) => this.#point(e)));
    this.#changed();
  }

  #stop() {
    this.drawing = false;
  }

  #key(event) {
    const move = MOVES[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    this.keyed = true;
    if (event.key === " ") {
      this.down = !this.down;
      if (this.down) this.strokes.push([[...this.position]]);
    } else {
      const within = (value, limit) => Math.max(0, Math.min(limit, value));
      this.position = [within(this.position[0] + STEP * move[0], this.width),
        within(this.position[1] + STEP * move[1], this.height)];
      if (this.down) this.strokes.at(-1).push([...this.position]);
    }
    this.#changed();
  }

  #lift() {
    this.keyed = this.down = false;
    this.#paint();
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.width,
      ((event.clientY - box.top) / box.height) * this.height];
  }

  #changed() {
    this.#paint();
    this.onChange(this.strokes);
  }

  #paint() {
    const { canvas } = this;
    const scale = (canvas.clientWidth * devicePixelRatio) / this.width;
    canvas.width = this.width * scale;
    canvas.height = this.height * scale;
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    context.scale(scale, scale);
    Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: this.pen,
      strokeStyle: style.color });
    for (const stroke of this.strokes) {
      context.beginPath();
      context.moveTo(...stroke[0]);
      for (const point of stroke) context.lineTo(...point);
      context.stroke();
    }
    if (this.keyed) {
      Object.assign(context, { lineWidth: 1.5, strokeStyle: style.outlineColor });
      context.beginPath();
      context.arc(...this.position, this.down ? 2 : 4, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}

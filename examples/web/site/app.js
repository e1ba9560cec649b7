// The page: a drawing becomes 8 x 8 pixels as scikit-learn's digits are, and is streamed.

import { open, stream } from "./model.js";

const SIDE = 8; // of the image that the network reads
const FINE = 32; // of the bitmap whose 4 x 4 blocks are counted for a pixel
const LEVELS = 16;

const find = (id) => document.getElementById(id);
const pad = find("pad").getContext("2d", { willReadFrequently: true });
const seen = find("seen").getContext("2d");
const believed = find("believed").getContext("2d");

const [session, { order, samples }] = await Promise.all([
  open("digits.onnx"),
  fetch("digits.json").then((answer) => answer.json()),
]);
let newest = 0; // a drawing that changes ends the reading of the one before

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - largest));
  const total = powers.reduce((sum, power) => sum + power);
  return powers.map((power) => power / total);
}

function dot(context, x, y, brightness) {
  const level = Math.round(255 * brightness);
  context.fillStyle = `rgb(${level} ${level} ${level})`;
  context.fillRect(x, y, 1, 1);
}

/** Show the pixels as they are read, and after each what the network takes the digit for. */
async function read(pixels) {
  const mine = ++newest;
  seen.clearRect(0, 0, SIDE, SIDE);
  believed.clearRect(0, 0, order.length, 10);
  find("answer").textContent = "";
  const sequence = order.map((pixel) => [pixels[pixel] / LEVELS]);
  let t = 0;
  let belief = [];
  for await (const logits of stream(session, sequence)) {
    if (mine !== newest) return;
    dot(seen, order[t] % SIDE, Math.floor(order[t] / SIDE), sequence[t][0]);
    belief = softmax(logits);
    belief.forEach((probability, digit) => dot(believed, t, digit, probability));
    t += 1;
    await new Promise(requestAnimationFrame);
  }
  const best = belief.indexOf(Math.max(...belief));
  find("answer").textContent = `It is a ${best} (${Math.round(100 * belief[best])} %).`;
}

/** Count the ink of the drawing, cut out and made as large as the bitmap, in blocks of 4 x 4. */
function pixelsOfDrawing() {
  const { width, height } = pad.canvas;
  const { data } = pad.getImageData(0, 0, width, height);
  const inked = [];
  for (let i = 0; i < width * height; i++) {
    if (data[4 * i + 3] > 127) inked.push([i % width, Math.floor(i / width)]);
  }
  if (inked.length === 0) return null;
  const xs = inked.map(([x]) => x);
  const ys = inked.map(([, y]) => y);
  const [left, right] = [xs.reduce((a, b) => Math.min(a, b)), xs.reduce((a, b) => Math.max(a, b)) + 1];
  const [top, bottom] = [ys.reduce((a, b) => Math.min(a, b)), ys.reduce((a, b) => Math.max(a, b)) + 1];
  const size = Math.max(right - left, bottom - top);
  const small = new OffscreenCanvas(FINE, FINE).getContext("2d");
  const at = (length) => ((size - length) / 2) * (FINE / size);
  const scaled = (length) => length * (FINE / size);
  small.drawImage(
    pad.canvas,
    left, top, right - left, bottom - top,
    at(right - left), at(bottom - top), scaled(right - left), scaled(bottom - top),
  );
  const fine = small.getImageData(0, 0, FINE, FINE).data;
  const pixels = new Array(SIDE * SIDE).fill(0);
  for (let i = 0; i < FINE * FINE; i++) {
    const x = Math.floor((i % FINE) / 4);
    const y = Math.floor(i / FINE / 4);
    if (fine[4 * i + 3] > 127) pixels[SIDE * y + x] += 1;
  }
  return pixels;
}

function clear() {
  newest += 1;
  pad.clearRect(0, 0, pad.canvas.width, pad.canvas.height);
  find("answer").textContent = "";
}

pad.lineWidth = 32;
pad.lineCap = pad.lineJoin = "round";
pad.strokeStyle = "white";
pad.canvas.addEventListener("pointerdown", (event) => {
  pad.canvas.setPointerCapture(event.pointerId);
  pad.beginPath();
  pad.moveTo(event.offsetX, event.offsetY);
});
pad.canvas.addEventListener("pointermove", (event) => {
  if (event.buttons === 0) return;
  pad.lineTo(event.offsetX, event.offsetY);
  pad.stroke();
});
pad.canvas.addEventListener("pointerup", () => {
  const pixels = pixelsOfDrawing();
  if (pixels) read(pixels);
});
find("clear").addEventListener("click", clear);

samples.forEach((_, digit) => find("samples").add(new Option(String(digit), String(digit))));
find("samples").addEventListener("change", ({ target }) => {
  if (target.value === "") return;
  const pixels = samples[Number(target.value)];
  clear();
  const side = pad.canvas.width / SIDE;
  pixels.forEach((count, i) => {
    pad.fillStyle = `rgb(255 255 255 / ${count / LEVELS})`;
    pad.fillRect((i % SIDE) * side, Math.floor(i / SIDE) * side, side, side);
  });
  read(pixels);
});
document.body.dataset.ready = "true";

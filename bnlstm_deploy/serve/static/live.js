import { el } from "./dom.js";
import { brief, count, seconds } from "./format.js";
import { Plot } from "./plot.js";
import { read } from "./server.js";

/** Executions that the plots show. */
const SHOWN = 512;
const EVERY_MS = 1000;
/** Seconds that the server sums requests up over, and how many such sums are shown. */
const SPAN = 2;
const SPANS = 150;
/** Seconds that are asked for again: a model's long execution ends after another's short one. */
const OVERLAP = 10;

const key = ({ name, version }) => `${name}/${version}`;

/**
 * What the server's models do, asked for each second while the page is visible.
 *
 * @param onNews  Called with null after each answer, and with the error if there is none.
 */
export class Live {
  constructor(onNews) {
    this.models = {};
    this.onNews = onNews;
    document.addEventListener("visibilitychange", () => this.poll());
  }

  of(model) {
    return this.models[key(model)];
  }

  /** Ask now, and again after a while. */
  async poll() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    const seen = Object.values(this.models).flatMap(({ recent }) => recent.slice(-1));
    const since = Math.max(0, ...seen.map(([time]) => time - OVERLAP));
    try {
      const { models } = await read(`page/live?since=${since}`);
      for (const model of models) {
        const known = this.models[key(model)];
        const before = known?.recent ?? [];
        const kept = (known?.spans ?? []).filter(([at]) => !(at >= model.spans[0]?.[0]));
        const after = before.at(-1)?.[0] ?? 0;
        const fresh = model.recent.filter(([time]) => time > after);
        this.models[key(model)] = { ...model, recent: [...before, ...fresh].slice(-SHOWN),
          spans: [...kept, ...model.spans].slice(-SPANS) };
      }
      this.onNews(null);
    } catch (error) {
      this.onNews(error);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.poll(), EVERY_MS);
  }
}

/** The section with a model's plots. */
export class LiveView {
  constructor() {
    this.recent = [];
    this.latency = new Plot({
      label: "Latency of the last executions: the time in the queue on top of the computation",
      marks: "bars", tick: seconds, fleeting: true, describe: (i) => this.#describe(i),
      onPick: (i) => this.batches.pick(i),
    });
    this.batches = new Plot({
      label: "Streams in the batch of each of the last executions",
      marks: "bars", tick: brief, fleeting: true, describe: (i) => this.#describe(i),
      onPick: (i) => this.latency.pick(i),
    });
    this.spans = [];
    this.rate = new Plot({ label: "Requests a second over the last five minutes, and failures",
      marks: "bars", tick: brief, fleeting: true, describe: (i) => this.#describeSpan(i),
      onPick: (i) => this.times.pick(i) });
    this.times = new Plot({ label: "Latency of requests over the last five minutes",
      marks: "lines", tick: seconds, names: 34, fleeting: true,
      describe: (i) => this.#describeSpan(i), onPick: (i) => this.rate.pick(i) });
    this.tiles = el("dl", { class: "tiles" });
    this.element = el("section", { class: "card", "aria-labelledby": "live-title" },
      el("h2", { id: "live-title" }, "Live"), this.tiles,
      el("div", { class: "plots" },
        el("div", { id: "rate" }, el("h3", {}, "Requests a second"), el("p", { class: "legend" },
          el("span", { class: "third" }, "answered"), el("span", { class: "second" }, "failed")),
          this.rate.element),
        el("div", { id: "times" }, el("h3", {}, "Latency of requests"),
          el("p", { class: "legend" }, el("span", { class: "first" }, "half within"),
            el("span", { class: "fourth" }, "99 % within")), this.times.element),
        el("div", { id: "latency" }, el("h3", {}, "Latency of executions"), el("p", { class: "legend" },
          el("span", { class: "first" }, "compute"), el("span", { class: "second" }, "queue")),
          this.latency.element),
        el("div", { id: "batches" }, el("h3", {}, "Batch size"), el("p", { class: "legend" },
          el("span", { class: "third" }, "streams in one run")), this.batches.element)));
  }

  draw(live) {
    if (!live) return;
    this.recent = live.recent;
    const column = (i) => this.recent.map((execution) => execution[i]);
    const [queue, compute, batch] = [column(1), column(2), column(3)];
    const ends = [this.recent[0], this.recent.at(-1)].map((one) => (one ? ago(one[0]) : ""));
    this.latency.draw({ ends, series: [{ name: "compute", tone: "first", values: compute },
      { name: "queue", tone: "second", values: queue }] });
    this.batches.draw({ ends, series: [{ name: "streams", tone: "third", values: batch }] });
    this.spans = filled(live.spans);
    const span = (i) => this.spans.map((each) => each[i]);
    const within = ["5 min ago", "now"];
    const failing = span(4).map((number) => number / SPAN);
    this.rate.draw({ ends: within, series: [
      { name: "answered", tone: "third", values: span(1).map((all, i) => all - failing[i]) },
      { name: "failed", tone: "second", values: failing }] });
    this.times.draw({ ends: within, series: [
      { name: "50 %", tone: "first", named: true, values: span(2) },
      { name: "99 %", tone: "fourth", named: true, values: span(3) }] });
    const [median, most] = live.latency;
    const failures = Object.entries(live.failures).filter(([, number]) => number > 0);
    const failed = failures.reduce((sum, [, number]) => sum + number, 0);
    const mean = live.executions ? live.inferences / live.executions : 0;
    const tiles = [
      ["Requests", count(live.requests), live.executions === 1 ? "in one execution"
        : `in ${count(live.executions)} executions`],
      ["Latency", median === null ? "–" : seconds(median),
        median === null ? "no request yet" : `median; 99 % within ${seconds(most)}`],
      ["Batch", brief(Math.round(mean * 100) / 100), "streams in one run, on average"],
      ["Waiting", count(live.queued), `sequences held: ${count(live.sequences)}`],
      ["Failed", count(failed), failures.map(([why, number]) => `${why} ${number}`).join(", ") ||
        "nothing"],
    ];
    this.tiles.replaceChildren(...tiles.map(([name, value, note]) => el("div", {},
      el("dt", {}, name), el("dd", {}, el("b", {}, value), el("small", {}, note)))));
  }

  #describeSpan(index) {
    const [time, rate, half, most, failed] = this.spans[index] ?? [];
    if (index === null || !time) return "Two seconds a mark, the newest at the right.";
    return `${new Date(time * 1000).toLocaleTimeString()}: ${brief(rate)} a second` +
      (Number.isFinite(half) ? `, half within ${seconds(half)}, 99 % within ${seconds(most)}` : "")
      + (failed ? `, ${failed} failed` : "");
  }

  #describe(index) {
    if (index === null || !this.recent[index]) {
      return this.recent.length === 1 ? "The first execution."
        : `The last ${this.recent.length} executions, the newest at the right.`;
    }
    const [time, queue, compute, batch] = this.recent[index];
    return `${new Date(time * 1000).toLocaleTimeString()}: ${seconds(compute)} compute, ` +
      `${seconds(queue)} queue, ${batch} ${batch === 1 ? "stream" : "streams"}`;
  }
}

/** Sums of the last five minutes, with those in which nothing was. */
function filled(spans) {
  const known = new Map(spans.map((span) => [span[0], span]));
  const last = Math.floor(Date.now() / 1000 / SPAN) * SPAN;
  return Array.from({ length: SPANS }, (_, i) => {
    const at = last - (SPANS - 1 - i) * SPAN;
    const [, rate, half, most, failed] = known.get(at) ?? [at, 0, null, null, 0];
    return [at, rate, half ?? NaN, most ?? NaN, failed];
  });
}

function ago(time) {
  const passed = Math.max(0, Date.now() / 1000 - time);
  if (passed < 2) return "now";
  if (passed < 120) return `${Math.round(passed)} s ago`;
  if (passed < 7200) return `${Math.round(passed / 60)} min ago`;
  return new Date(time * 1000).toLocaleString();
}

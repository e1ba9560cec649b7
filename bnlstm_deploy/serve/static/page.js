import { askSection } from "./ask.js";
import { el } from "./dom.js";
import { factSections, summary } from "./facts.js";
import { Live, LiveView } from "./live.js";
import { read, setToken } from "./server.js";
import { useSection } from "./use.js";

const part = (id) => document.getElementById(id);
let models = null;
let loading = false;
let view = null;

const live = new Live((error) => {
  report(error);
  if (!error) refresh();
  if (!error && !models && !loading) load();
});

/** Say what is wrong with the server, or that nothing is. */
function report(error) {
  part("problem").hidden = !error;
  part("problem").textContent = error?.message ?? "";
  if (error?.status === 401) part("access").open = true;
  if (error) setHealth("bad", error.status ? "no access" : "no answer");
}

function setHealth(tone, text) {
  part("health").className = `health ${tone}`;
  if (part("health").textContent !== text) part("health").textContent = text;
}

function refresh() {
  const all = Object.values(live.models);
  const ready = all.filter((model) => model.ready).length;
  setHealth(ready === all.length ? "good" : "note",
    ready === all.length ? "ready" : `${ready} of ${all.length} models ready`);
  if (view) view.live.draw(live.of(view.model));
}

async function load() {
  loading = true;
  try {
    ({ models } = await read("page/models"));
  } catch (error) {
    report(error);
    return;
  } finally {
    loading = false;
  }
  part("models").replaceChildren(...models.map((model) => el("a", { href: address(model) },
    several(model) ? `${model.name} ${model.version}` : model.name)));
  part("models").hidden = models.length < 2;
  show();
}

const address = ({ name, version }) =>
  `#${encodeURIComponent(name)}/${encodeURIComponent(version)}`;
const several = ({ name }) => models.filter((model) => model.name === name).length > 1;

/** Show the model that the address names, or the first. */
function show() {
  if (!models) return;
  const named = models.findIndex((model) => address(model) === location.hash);
  if (named < 0 && view) return;  // another link of the page
  const index = Math.max(0, named);
  const model = models[index];
  [...part("models").children].forEach((link, i) => {
    if (i === index) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  if (!model) {
    part("model").replaceChildren(el("p", {}, "This server has no models."));
    return;
  }
  view = { model, live: new LiveView() };
  document.title = `${model.name} · bnlstm-deploy`;
  part("model").replaceChildren(
    el("div", { class: "title" }, el("h1", {}, model.name), summary(model)),
    askSection(model, () => live.poll()), view.live.element, useSection(model),
    factSections(model));
  view.live.draw(live.of(model));
}

part("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(part("token").value);
  part("access").open = false;
  live.poll();
});
addEventListener("hashchange", show);
live.poll();

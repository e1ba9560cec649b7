/**
 * Build an element. Children that are no elements become text, and attributes are set as such:
 * a name or value out of a file is never markup.
 */
export function el(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** Build an element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null));
  return element;
}

/** Build a table. Cells that are numbers stand at the right. */
export function table(caption, head, rows) {
  const cell = (tag, value) =>
    el(tag, { class: typeof value === "number" ? "n" : null, scope: tag === "th" ? "col" : null },
      typeof value === "number" ? String(value) : value);
  const titles = head.map((title, i) =>
    el("th", { scope: "col", class: typeof rows[0]?.[i] === "number" ? "n" : null }, title));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "unseen" }, caption),
      el("thead", {}, el("tr", {}, titles)),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((value) => cell("td", value)))))));
}

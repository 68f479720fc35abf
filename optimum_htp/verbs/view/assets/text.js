// Numbers as people read them, and elements of the page; text is only ever put in as text.

const count = (value) => {
  if (value === null || value === undefined) return "unknown";
  if (value < 10000) return value.toLocaleString("en");
  for (const [unit, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["K", 1e3]]) {
    if (value >= size * 0.9995) return (value / size).toPrecision(3) + unit;
  }
  return String(value);
};
const bytes = (value) => {
  if (value === null || value === undefined) return "unknown";
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size * 0.9995) return (value / size).toPrecision(3) + " " + unit;
  }
  return value + " bytes";
};
const operations = (value) => {
  for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= size * 0.9995) return (value / size).toPrecision(3) + " " + unit + "FLOP";
  }
  return value.toPrecision(3) + " FLOP";
};
const milliseconds = (value) => (value === null || value === undefined ? "not run" : (value / 1000).toFixed(3) + " ms");
const share = (part, whole) => (whole ? ((100 * part) / whole).toFixed(1) + "%" : "");
const decibel = (power) => (power === null || power === undefined ? "not compared" : power <= 0 ? "exact" : (-10 * Math.log10(power)).toFixed(1) + " dB");
const sqnr = (errors) => (!errors ? "" : errors[0] !== null ? errors[0].toFixed(1) + " dB" : errors[1] === null ? "no number" : "exact");
const small = (value) => (value === null ? "no number" : value === 0 ? "0" : Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toPrecision(3));
const plural = (number, one, many) => number.toLocaleString("en") + " " + (number === 1 ? one : many || one + "s");

const make = (name, options = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (key === "class") element.className = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
};
const name = (text, kind = "") => make("bdi", { class: ("name " + kind).trim() }, text);

const moduleLink = (module, text) => make("a", { href: linkTo(module), title: module.tag }, name(text || module.title));
const tagLink = (file, tag) => {
  const index = file.byTag.get(tag);
  return index === undefined ? name(tag) : moduleLink(file.modules[index]);
};

const bar = (part, whole) => {
  const inner = make("i");
  inner.style.width = whole > 0 ? Math.min((100 * part) / whole, 100) + "%" : "0";
  return make("span", { class: "bar", "aria-hidden": "true" }, inner);
};

// A table whose columns are [heading, is a number]; rows that are many are shown as they are asked for.
const STEP = 200;
const table = (caption, columns, rows, cells) => {
  const body = make("tbody");
  const head = make("tr", {}, ...columns.map(([title, number]) => make("th", { scope: "col", class: number ? "number" : null }, title)));
  const shown = make("table", {}, make("caption", { class: "hidden" }, caption), make("thead", {}, head), body);
  const add = (first) => {
    rows.slice(first, first + STEP).forEach((row, index) => {
      body.append(make("tr", {}, ...cells(row, first + index).map((cell, column) =>
        make(column ? "td" : "th", { scope: column ? null : "row", class: columns[column][1] ? "number" : null },
          ...(Array.isArray(cell) ? cell : [cell === null || cell === undefined ? "" : cell])))));
    });
  };
  add(0);
  return make("div", { class: "table" }, shown, ...more(rows.length, add));
};
const more = (total, add) => {
  if (total <= STEP) return [];
  let next = STEP;
  const label = () => "Show " + Math.min(STEP, total - next).toLocaleString("en") + " more of " + (total - next).toLocaleString("en");
  const button = make("button", { type: "button", class: "more" }, label());
  button.addEventListener("click", () => {
    add(next);
    next += STEP;
    if (next >= total) button.remove();
    else button.textContent = label();
  });
  return [button];
};
const facts = (rows) => make("dl", {}, ...rows.filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([title, ...values]) => make("div", {}, make("dt", {}, title), make("dd", {}, ...values))));

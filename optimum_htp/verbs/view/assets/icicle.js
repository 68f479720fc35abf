// The map: the modules of a file as an icicle, to scale. Only what is at least a line high is on the page.

const ROW = 1.5; // pixels: what is less high is not drawn
const COLUMN = 124;
const FIRST = 0.62; // how wide the first column is, which is one module
const COLOURS = 10;

const state = { file: 0, size: "parameters", colour: "class", phase: 0, zoom: null, selected: null, hits: null, lost: "" };
const currentFile = () => files[state.file];
const figureNamed = (key) => figures.find((figure) => figure.key === key);
const known = (figure) => figureOf(figure, currentFile(), state.phase);

// The classes that do most of the work get a colour each, the others one together.
const classColours = files.map((file) => {
  const work = new Map(); // its own nodes, and all in it, of each class
  for (const module of file.modules) {
    const [own, all] = work.get(module.class) || [0, 0];
    work.set(module.class, [own + module.own, all + module.nodes]);
  }
  const ranked = [...work].filter(([, [, all]]) => all > 0).sort(([one, [own, all]], [other, [own2, all2]]) => own2 - own || all2 - all || (one < other ? -1 : 1));
  return new Map(ranked.slice(0, COLOURS).map(([title], index) => [title, index]));
});

const layouts = new Map();
const layout = () => {
  const key = [state.file, state.size, state.phase].join();
  if (!layouts.has(key)) {
    const file = currentFile();
    const figure = known(figureNamed(state.size));
    const node = (index) => ({ module: file.modules[index], inside: file.modules[index].children.map(node) });
    const top = file.roots.length === 1 ? node(file.roots[0]) : { module: null, inside: file.roots.map(node) };
    const tree = d3.hierarchy(top, (each) => each.inside).sum((each) => (each.module ? figure.own[each.module.index] : 0));
    d3.partition().size([1, tree.height + 1])(tree);
    layouts.set(key, { tree, figure, places: new Map(tree.descendants().map((place) => [place.data.module, place])) });
  }
  return layouts.get(key);
};

const heat = (module) => {
  const figure = figureNamed(state.colour);
  const { totals, best, worst } = known(figure);
  const value = totals[module.index];
  if (value === null || value === undefined) return null;
  if (figure.key === "error") return value <= 0 ? 0 : Math.max(0.05, Math.min((Math.log10(value) - best) / (worst - best), 1));
  const whole = currentFile().roots.reduce((sum, root) => sum + (totals[root] || 0), 0);
  return whole ? Math.sqrt(value / whole) : 0;
};

const describe = (module) => figures.filter((figure) => figureOf(figure, files[module.file], state.phase)).map((figure) => {
  const { totals } = figureOf(figure, files[module.file], state.phase);
  const whole = files[module.file].roots.reduce((sum, root) => sum + (totals[root] || 0), 0);
  const part = figure.key === "error" ? "" : share(totals[module.index] || 0, whole);
  return [figure, figure.text(totals[module.index]), part];
});

const box = document.getElementById("icicle");
const tree = d3.select(box).append("div").attr("role", "tree").attr("class", "tree");

const draw = () => {
  const file = currentFile();
  const { tree: whole, figure, places } = layout();
  const note = document.getElementById("note");
  const empty = !(whole.value > 0);
  const once = file.roots.reduce((sum, root) => sum + (figure.totals[root] || 0), 0);
  const shared = state.size === "parameters" && whole.value > once * 1.001;
  note.textContent = state.lost ? state.lost : shared ? "Parameters that several modules share are in each of them, and count once in those above." : empty ? "Nothing here to size by " + figureNamed(state.size).name.toLowerCase() + ": choose another figure." : "";
  const zoom = (state.zoom && places.get(state.zoom)) || whole;
  const height = box.clientHeight || 480;
  const levels = zoom.height + (zoom.data.module ? 1 : 0);
  const columns = Math.max(1, Math.min(levels, Math.floor(box.clientWidth / COLUMN + 1 - FIRST) || 1));
  const width = box.clientWidth / (columns === 1 ? 1 : columns - 1 + FIRST);
  const left = (column) => (columns === 1 ? column : column && column - 1 + FIRST) * width;
  const first = zoom.depth + (zoom.data.module ? 0 : 1);
  const scale = height / (zoom.x1 - zoom.x0 || 1);
  const shown = [];
  const smaller = []; // runs of modules that are less high than a line
  const collect = (place) => {
    if (place.data.module) shown.push(place);
    if (place.depth + 1 - first >= columns) return;
    let run = null;
    for (const child of place.children || []) {
      if ((child.x1 - child.x0) * scale >= ROW) {
        run = null;
        collect(child);
      } else if (child.value > 0) {
        if (!run) smaller.push(run = { parent: place, x0: child.x0, count: 0 });
        run.x1 = child.x1;
        run.count += 1;
      }
    }
  };
  if (!empty) collect(zoom);
  const text = figureNamed(state.size).text;
  const colours = classColours[file.number];
  tree.attr("aria-label", "Modules of " + file.name + ", sized by " + figureNamed(state.size).name);
  tree.selectAll("div.block").data(shown, (place) => place.data.module.file + "/" + place.data.module.index)
    .join((entering) => {
      const block = entering.append("div").attr("class", "block").attr("role", "treeitem").attr("tabindex", "-1");
      block.append("span").attr("class", "label");
      return block;
    })
    .each(function (place) {
      const module = place.data.module;
      const tall = (place.x1 - place.x0) * scale;
      const warmth = state.colour === "class" ? null : heat(module);
      const hue = state.colour !== "class" ? (warmth === null ? "none" : "heat") : colours.has(module.class) ? "c" + colours.get(module.class) : "other";
      this.className = ["block", hue, tall < 15 ? "thin" : tall < 36 ? "line" : "tall", warmth > 0.78 ? "hot" : "",
        module === state.selected ? "selected" : "", state.hits ? (state.hits.has(module) ? "hit" : "dim") : ""].join(" ").replace(/ +/g, " ").trim();
      const style = this.style;
      const column = place.depth - first;
      style.left = left(column) + "px";
      style.top = (place.x0 - zoom.x0) * scale + "px";
      style.width = left(column + 1) - left(column) + "px";
      style.height = tall + "px";
      style.setProperty("--heat", (100 * (warmth || 0)).toFixed(1) + "%");
      this.firstChild.textContent = module.label;
      this.dataset.value = text(figure.totals[module.index]); // the style shows it where there is room
      this.setAttribute("aria-level", place.depth + (whole.data.module ? 1 : 0));
      this.setAttribute("aria-selected", String(module === state.selected));
      if (module.children.length) this.setAttribute("aria-expanded", String(place.depth - first < columns - 1));
      else this.removeAttribute("aria-expanded");
      this.setAttribute("aria-label", [module.title, module.class, ...describe(module).map(([each, words, part]) => each.name + " " + words + (part ? ", " + part : ""))].join("; "));
    });
  const runs = smaller.filter((run) => (run.x1 - run.x0) * scale >= ROW);
  tree.selectAll("div.small").data(runs).join("div").attr("class", "small").attr("aria-hidden", "true").each(function (run) {
    const column = run.parent.depth + 1 - first;
    this.title = plural(run.count, "smaller module") + ": zoom in";
    this.style.left = left(column) + "px";
    this.style.width = left(column + 1) - left(column) + "px";
    this.style.top = (run.x0 - zoom.x0) * scale + "px";
    this.style.height = (run.x1 - run.x0) * scale + "px";
  });
  const roving = shown.find((place) => place.data.module === state.focus) || shown.find((place) => place.data.module === state.selected) || shown[0];
  tree.selectAll("div.block").attr("tabindex", (place) => (place === roving ? "0" : "-1"));
  document.getElementById("out").disabled = !zoom.parent || !zoom.parent.data.module;
  legend();
};

const legend = () => {
  const list = document.getElementById("legend");
  const item = (kind, ...words) => make("li", {}, make("i", { class: "block " + kind, "aria-hidden": "true" }), ...words);
  if (state.colour === "class") {
    const colours = [...classColours[state.file]];
    const others = currentFile().modules.some((module) => !classColours[state.file].has(module.class));
    list.replaceChildren(...colours.map(([title, index]) => item("c" + index, name(title))), ...(others ? [item("other", "other classes")] : []));
  } else {
    const { best, worst } = known(figureNamed(state.colour));
    const ends = state.colour === "error" ? [(-10 * best).toFixed(0) + " dB or better", (-10 * worst).toFixed(0) + " dB"] : ["none", "all"];
    list.replaceChildren(make("li", { class: "scale" }, ends[0], make("i", { class: "ramp", "aria-hidden": "true" }), ends[1]));
  }
  list.append(make("li", { class: "faint" }, "Empty space beside a module is work of its own; hatched are modules too small to show."));
};

// --- Moving around ---

const parentOf = (module) => (module.parent < 0 ? null : files[module.file].modules[module.parent]);
const zoomFor = (module) => (module.children.length ? module : parentOf(module) || module);
const go = (module) => { if (location.hash === linkTo(module)) open(module); else location.hash = linkTo(module); };
const zoomOut = () => {
  const up = state.zoom && parentOf(state.zoom);
  if (up) go(up);
};
const blockOf = (module) => tree.selectAll("div.block").nodes().find((element) => element.__data__.data.module === module);
const focusOn = (module) => {
  const element = module && blockOf(module);
  if (!element) return false;
  state.focus = module;
  tree.selectAll("div.block").attr("tabindex", "-1");
  element.setAttribute("tabindex", "0");
  element.focus({ preventScroll: true });
  return true;
};

const moduleAt = (event) => {
  const element = event.target.closest && event.target.closest("#icicle .block, #icicle .small");
  if (!element) return null;
  return (element.__data__.parent && element.className === "small" ? element.__data__.parent : element.__data__).data.module;
};
box.addEventListener("click", (event) => {
  const module = moduleAt(event);
  if (module === null) return;
  state.focus = module;
  if (module === state.zoom && module === state.selected) zoomOut();
  else go(module);
});
box.addEventListener("keydown", (event) => {
  const module = moduleAt(event);
  if (module === null || event.altKey || event.ctrlKey || event.metaKey) return;
  const siblings = (parentOf(module) ? parentOf(module).children : currentFile().roots).map((index) => currentFile().modules[index]);
  const place = siblings.indexOf(module);
  const step = (from, by) => { for (let i = from; i >= 0 && i < siblings.length; i += by) if (focusOn(siblings[i])) return; };
  const keys = {
    ArrowDown: () => step(place + 1, 1),
    ArrowUp: () => step(place - 1, -1),
    Home: () => step(0, 1),
    End: () => step(siblings.length - 1, -1),
    ArrowRight: () => module.children.some((index) => focusOn(currentFile().modules[index])),
    ArrowLeft: () => focusOn(parentOf(module)),
    Enter: () => { state.focus = module; state.refocus = true; go(module); },
    " ": () => { state.focus = module; state.refocus = true; go(module); },
    Escape: () => { hideTip(); state.focus = state.zoom && parentOf(state.zoom); state.refocus = true; zoomOut(); },
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

// --- What hover and focus tell ---

const tip = document.getElementById("tip");
const hideTip = () => { tip.hidden = true; };
const showTip = (module, x, y) => {
  tip.replaceChildren(
    make("strong", {}, name(module.title)), make("span", { class: "faint" }, name(module.class), module.calls > 1 ? ", ran " + module.calls + " times" : ""),
    facts(describe(module).map(([figure, words, part]) => [figure.name, words + (part ? " · " + part : "")])));
  tip.hidden = false;
  const room = 12;
  const left = x + room + tip.offsetWidth > innerWidth ? x - room - tip.offsetWidth : x + room;
  const top = y + room + tip.offsetHeight > innerHeight ? y - room - tip.offsetHeight : y + room;
  tip.style.left = Math.max(left, 4) + "px";
  tip.style.top = Math.max(top, 4) + "px";
};
box.addEventListener("pointermove", (event) => {
  const module = moduleAt(event);
  if (module === null || event.pointerType === "touch") hideTip();
  else showTip(module, event.clientX, event.clientY);
});
box.addEventListener("pointerleave", hideTip);
box.addEventListener("focusin", (event) => {
  const module = moduleAt(event);
  if (module === null || !event.target.matches(":focus-visible")) return;
  const place = event.target.getBoundingClientRect();
  showTip(module, place.left + Math.min(place.width, 120), place.top + Math.min(place.height, 24));
});
box.addEventListener("focusout", hideTip);

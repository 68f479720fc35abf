// Tabs, links, the theme, and what is shown first.

const VIEWS = [["modules", "Modules", true], ["profile", "Profile", data.profile, profileView], ["compare", "Compare", data.compare, compareView], ["diff", "Diff", data.diff, diffView], ["summary", "Summary", true, summaryView]]
  .filter(([, , given]) => given);
const filled = new Set();

const showTab = (key, focus) => {
  for (const [each, , , fill] of VIEWS) {
    const panel = document.getElementById("view-" + each);
    const tab = document.getElementById("tab-" + each);
    panel.hidden = each !== key;
    tab.setAttribute("aria-selected", String(each === key));
    tab.tabIndex = each === key ? 0 : -1;
    if (each === key && fill && !filled.has(each)) {
      filled.add(each);
      fill(panel);
    }
    if (each === key && focus) tab.focus();
  }
  if (key === "modules") draw();
};

document.getElementById("tabs").append(...VIEWS.map(([key, title], index) => make("button", {
  type: "button", role: "tab", id: "tab-" + key, "aria-controls": "view-" + key,
  on: {
    click: () => { if (key === "modules") { if (location.hash.includes("/")) showTab(key); else go(state.selected); } else location.hash = "#" + key; },
    keydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const other = VIEWS[(index + step + VIEWS.length) % VIEWS.length][0];
      if (other === "modules") go(state.selected);
      else location.hash = "#" + other;
      document.getElementById("tab-" + other).focus();
    },
  },
}, title)));

const open = (module, node, lost = "") => {
  state.lost = lost;
  if (state.file !== module.file) state.file = module.file;
  state.selected = module;
  state.zoom = zoomFor(module);
  document.getElementById("file").value = String(state.file);
  fillControls();
  showTab("modules");
  showModule(module, node);
  if (state.refocus) {
    state.refocus = false;
    if (!focusOn(state.focus)) focusOn(state.selected);
  }
  document.title = module.title + " – " + visible(data.package);
};
let wantedNode;
const go2node = (module, node) => {
  if (location.hash === linkTo(module)) return open(module, node);
  wantedNode = node;
  location.hash = linkTo(module);
};

const route = () => {
  const hash = location.hash;
  const view = VIEWS.find(([key]) => hash === "#" + key && key !== "modules");
  if (view) return showTab(view[0]);
  const [module, lost] = moduleOf(hash);
  const node = wantedNode;
  wantedNode = undefined;
  if (module) open(module, node, lost);
  else if (hash) open(state.selected, undefined, lost);
  else open(start.modules[start.roots[0]]);
};

// --- Controls ---

const options = (select, rows, value) => {
  select.replaceChildren(...rows.map(([key, title]) => make("option", { value: key }, title)));
  select.value = value;
};
const fillControls = () => {
  const there = figures.filter(known);
  if (!there.some((figure) => figure.key === state.size)) state.size = there[0].key;
  if (state.colour !== "class" && !there.some((figure) => figure.key === state.colour)) state.colour = "class";
  options(document.getElementById("size"), there.map((figure) => [figure.key, figure.name]), state.size);
  options(document.getElementById("colour"), [["class", "Class"], ...there.map((figure) => [figure.key, figure.name])], state.colour);
  const phases = phasesOf(currentFile());
  options(document.getElementById("phase"), phases.map((part, index) => [String(index), visible(part.phase)]), String(state.phase));
  document.getElementById("phase-choice").hidden = phases.length < 2;
};
const onChange = (id, act) => document.getElementById(id).addEventListener("change", (event) => { act(event.target.value); });
onChange("size", (value) => { state.size = value; draw(); });
onChange("colour", (value) => { state.colour = value; draw(); });
onChange("phase", (value) => { state.phase = Number(value); draw(); showModule(state.selected); });
onChange("file", (value) => go(files[Number(value)].modules[files[Number(value)].roots[0]]));
document.getElementById("out").addEventListener("click", zoomOut);
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); document.getElementById("page").focus(); });

const THEMES = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");
const setTheme = (theme) => {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeButton.textContent = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[theme];
  themeButton.setAttribute("aria-label", "Theme: " + theme + "; change it");
  themeButton.value = theme;
  try { localStorage.setItem("optimum-htp-theme", theme); } catch { /* not from disk in every browser */ }
};
themeButton.addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(themeButton.value) + 1) % THEMES.length]));
let theme = "auto";
try { theme = localStorage.getItem("optimum-htp-theme") || "auto"; } catch { /* as above */ }
setTheme(THEMES.includes(theme) ? theme : "auto");

// --- The first look ---

document.getElementById("title").textContent = visible(data.package);
document.getElementById("subtitle").textContent = [data.summary.task && visible(data.summary.task), ...(files.length > 1 ? [plural(files.length, "ONNX file")] : []),
  plural(files.reduce((sum, file) => sum + file.modules.length, 0), "module"), plural(files.reduce((sum, file) => sum + file.nodes.operator.length, 0), "node")].filter(Boolean).join(" · ");
document.getElementById("made").textContent = "Made by " + data.summary.by + ".";
options(document.getElementById("file"), files.map((file, index) => [String(index), file.name]), "0");
document.getElementById("file-choice").hidden = files.length < 2;
// The file that there is most to say of: what was measured, where anything was.
const start = files.find((file) => phasesOf(file).length || comparisonOf(file)) || files[0];
state.file = start.number;
state.selected = start.modules[start.roots[0]];
state.zoom = state.selected;
state.size = ["parameters", "nodes"].find((key) => { const values = known(figureNamed(key)); return values && values.own.some((value) => value > 0); }) || "nodes";
if (phasesOf(start).length) state.size = "time";
if (comparisonOf(start)) state.colour = "error";

let drawing = 0;
new ResizeObserver(() => { cancelAnimationFrame(drawing); drawing = requestAnimationFrame(() => { if (!document.getElementById("view-modules").hidden) draw(); }); }).observe(box);
addEventListener("hashchange", route);
fillControls();
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
// All of it is printed: the map with the module that is open, and the other views.
let printed = null;
addEventListener("beforeprint", () => {
  printed = VIEWS.find(([key]) => !document.getElementById("view-" + key).hidden)[0];
  VIEWS.forEach(([key]) => showTab(key));
  VIEWS.forEach(([key]) => { document.getElementById("view-" + key).hidden = false; });
  draw();
});
addEventListener("afterprint", () => showTab(printed));
route();

// Search: modules by path or class, operators, nodes and weights by name.

const SHOWN = { modules: 20, operators: 8, nodes: 12, weights: 8 };
const field = document.getElementById("search");
const found = document.getElementById("found");

const find = (text) => {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return null;
  const words = wanted.split(/\s+/).map((word) => texts.map((each) => each.toLowerCase().includes(word)));
  const fits = (...called) => words.every((matches) => called.some((number) => matches[number])); // each word in any of them
  const results = { modules: [], operators: new Map(), nodes: [], weights: [], hits: new Set() };
  files.forEach((file, number) => {
    const { modules: packed } = data.files[number];
    file.modules.forEach((module, index) => {
      if (fits(packed.path[index], packed.class[index])) {
        results.modules.push(module);
        results.hits.add(module);
      }
    });
    file.nodes.operator.forEach((operator, node) => {
      const module = file.nodes.module[node];
      if (fits(operator)) {
        const known = results.operators.get(operator) || { operator, count: 0, owners: new Map() };
        known.count += 1;
        if (module >= 0) {
          if (!known.owners.has(file.modules[module])) known.owners.set(file.modules[module], node);
          results.hits.add(file.modules[module]);
        }
        results.operators.set(operator, known);
      }
      if (fits(file.nodes.name[node], operator) && !fits(operator)) results.nodes.push([file, node]);
    });
    file.weights.forEach((weight) => {
      if (weight[1] >= 0 && fits(file.tensors.name[weight[0]], ...weight[4])) results.weights.push([file, weight]);
    });
  });
  const exact = (module) => (module.path.toLowerCase() === wanted || module.class.toLowerCase() === wanted ? 0 : module.label.toLowerCase().includes(wanted) ? 1 : 2);
  results.modules.sort((one, other) => exact(one) - exact(other));
  return results;
};

let choices = [];
let chosen = -1;

const choose = (index) => {
  chosen = index;
  choices.forEach(({ element }, number) => element.setAttribute("aria-selected", String(number === index)));
  if (index >= 0) {
    field.setAttribute("aria-activedescendant", choices[index].element.id);
    choices[index].element.scrollIntoView({ block: "nearest" });
  } else field.removeAttribute("aria-activedescendant");
};
const closeSearch = () => {
  found.hidden = true;
  field.setAttribute("aria-expanded", "false");
  choose(-1);
};
const take = (index) => {
  const { act } = choices[index];
  closeSearch();
  act();
};

const search = () => {
  const results = find(field.value);
  state.hits = results && results.hits;
  choices = [];
  found.replaceChildren();
  if (results) {
    const group = (title, list, limit, write) => {
      if (!list.length) return;
      const shown = list.slice(0, limit).map((each) => {
        const [act, ...words] = write(each);
        const element = make("div", { role: "option", id: "found-" + choices.length, "aria-selected": "false" }, ...words);
        const index = choices.push({ element, act }) - 1;
        element.addEventListener("pointerdown", (event) => { event.preventDefault(); take(index); });
        return element;
      });
      const rest = list.length > limit ? ", the first " + limit : "";
      found.append(make("div", { role: "group", "aria-label": title }, make("div", { class: "group", "aria-hidden": "true" }, title + " (" + list.length.toLocaleString("en") + rest + ")"), ...shown));
    };
    const inFile = (file) => (files.length > 1 ? make("span", { class: "faint" }, " ", name(file.name)) : null);
    group("Modules", results.modules, SHOWN.modules, (module) => [() => go(module), name(module.title), make("span", { class: "faint" }, " ", name(module.class)), inFile(files[module.file])]);
    group("Operators", [...results.operators.values()].sort((one, other) => other.count - one.count), SHOWN.operators, ({ operator, count: nodes, owners }) => {
      const [owner, node] = owners.entries().next().value || [];
      return [() => owner && go2node(owner, node), name(texts[operator]), make("span", { class: "faint" }, " " + plural(nodes, "node") + " in " + plural(owners.size, "module") + ", marked in the map")];
    });
    group("Nodes", results.nodes, SHOWN.nodes, ([file, node]) => {
      const module = file.modules[file.nodes.module[node]];
      return [() => (module ? go2node(module, node) : showTab("summary")), name(texts[file.nodes.name[node]]), make("span", { class: "faint" }, " ", name(texts[file.nodes.operator[node]])), inFile(file)];
    });
    group("Weights", results.weights, SHOWN.weights, ([file, weight]) => [() => go(file.modules[weight[1]]), name(texts[weight[4][0] ?? file.tensors.name[weight[0]]]), inFile(file)]);
    if (!choices.length) found.append(make("p", { class: "faint" }, "Nothing is called that."));
  }
  document.getElementById("number").textContent = results ? plural(choices.length, "suggestion") : "";
  found.hidden = !results;
  field.setAttribute("aria-expanded", String(Boolean(results)));
  choose(-1);
  draw();
};

field.addEventListener("input", search);
field.addEventListener("focus", () => { if (field.value.trim()) search(); });
field.addEventListener("blur", closeSearch);
field.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (choices.length) choose((chosen + (event.key === "ArrowDown" ? 1 : choices.length - (chosen < 0 ? 0 : 1))) % choices.length);
  } else if (event.key === "Enter" && choices.length) {
    event.preventDefault();
    take(Math.max(chosen, 0));
  } else if (event.key === "Escape") {
    event.preventDefault();
    if (found.hidden) field.value = "";
    if (!field.value) search();
    closeSearch();
  }
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.target.closest("input, select, textarea")) {
    event.preventDefault();
    field.focus();
  }
});

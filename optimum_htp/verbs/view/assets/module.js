// The page of a module.

const WHAT = {
  metadata: "the exporter wrote it on the node", scope: "the name that the exporter gave the node",
  parameter: "the weight that it stands for, or computes with", dataflow: "the nodes that use what it makes",
  fused: "put by a tool in the place of several nodes", inserted: "put in by a tool", unresolved: "nothing says whose it is",
};
const evidence = (source) => make("span", { class: "evidence " + source, title: WHAT[source] || "" }, source);

const tensorRow = (file, tensor) => {
  if (tensor < 0) return make("li", { class: "faint" }, "not given");
  const weight = file.weightOf.get(tensor);
  const type = texts[file.tensors.type[tensor]];
  const called = texts[file.tensors.name[tensor]];
  const parameter = weight !== undefined && file.weights[weight][4].length ? texts[file.weights[weight][4][0]] : null;
  const made = file.producer[tensor];
  return make("li", {}, name(called), " ", make("span", { class: "type" }, type || "type unknown"),
    weight !== undefined ? make("span", { class: "faint" }, " weight", ...(parameter && parameter !== called ? [" ", name(parameter)] : [])) : null,
    made >= 0 ? make("span", { class: "faint" }, " from ", nodeLink(file, made)) : null);
};
const nodeLink = (file, node) => {
  const module = file.modules[file.nodes.module[node]];
  const words = [name(texts[file.nodes.operator[node]])];
  if (!module) return make("span", {}, ...words);
  return make("a", { href: linkTo(module), on: { click: (event) => { event.preventDefault(); go2node(module, node); } } }, ...words, " of ", name(module.title));
};

const nodeEntry = (file, node, expanded) => {
  const { nodes, tensors } = file;
  const source = texts[nodes.source[node]];
  const outputs = nodes.outputs[node];
  const type = outputs.length && outputs[0] >= 0 ? texts[tensors.type[outputs[0]]] : "";
  const call = nodes.call[node];
  const summary = make("summary", {}, make("b", {}, name(texts[nodes.operator[node]])), " ", name(texts[nodes.name[node]] || "(no name)", "grow"),
    call !== undefined ? make("span", { class: "faint" }, "call " + call) : null, make("span", { class: "type" }, type || "type unknown"), evidence(source));
  const entry = make("details", { class: "node", "data-node": node }, summary);
  const fill = () => {
    if (entry.children.length > 1) return;
    const origins = (nodes.origins[node] || []).map((text) => texts[text]);
    const owner = nodes.module[node];
    const users = nodeUsers(file, node);
    entry.append(make("div", { class: "inside" },
      facts([
        ["Evidence", (WHAT[source] || source)],
        ["Inserted for", source === "inserted" && owner >= 0 ? moduleLink(file.modules[owner]) : null],
        ["Graph", texts[nodes.graph[node]]],
      ]),
      origins.length ? make("div", {}, make("h4", {}, "Does the work of"), make("ul", {}, ...origins.map((tag) => make("li", {}, tagLink(file, tag))))) : null,
      make("h4", {}, "Inputs"), nodes.inputs[node].length ? make("ul", {}, ...nodes.inputs[node].map((tensor) => tensorRow(file, tensor))) : make("p", { class: "faint" }, "none"),
      make("h4", {}, "Outputs"), make("ul", {}, ...outputs.map((tensor) => tensorRow(file, tensor).cloneNode(true))),
      users.length ? make("h4", {}, "Used by") : null,
      users.length ? make("ul", {}, ...users.slice(0, 12).map((user) => make("li", {}, nodeLink(file, user))), users.length > 12 ? make("li", { class: "faint" }, "and " + (users.length - 12) + " more") : null) : null));
  };
  entry.addEventListener("toggle", () => { if (entry.open) fill(); });
  if (expanded) { fill(); entry.open = true; }
  return entry;
};
const usersOf = new Map();
const nodeUsers = (file, node) => {
  if (!usersOf.has(file)) {
    const users = new Map();
    file.nodes.inputs.forEach((inputs, user) => inputs.forEach((tensor) => {
      if (tensor < 0 || file.producer[tensor] < 0) return;
      const made = file.producer[tensor];
      if (!users.has(made)) users.set(made, new Set());
      users.get(made).add(user);
    }));
    usersOf.set(file, users);
  }
  return [...(usersOf.get(file).get(node) || [])];
};

const nodesBelow = (file, module) => {
  return [module.ownNodes, ...module.children.map((child) => nodesBelow(file, file.modules[child]))].flat();
};

const nodeList = (file, module, wanted) => {
  const all = module.nodes !== module.own ? make("input", { type: "checkbox", id: "below" }) : null;
  const list = make("div", { class: "nodes" });
  const show = () => {
    const listed = all && all.checked ? nodesBelow(file, module).sort((one, other) => one - other) : module.ownNodes;
    const add = (first, target) => listed.slice(first, first + STEP).forEach((node) => target.append(nodeEntry(file, node, node === wanted)));
    const body = make("div");
    add(0, body);
    const place = listed.indexOf(wanted);
    for (let first = STEP; place >= first; first += STEP) add(first, body);
    list.replaceChildren(body, ...(place >= STEP ? [] : more(listed.length, (first) => add(first, body))));
    if (!listed.length) list.append(make("p", { class: "faint" }, "It has no nodes of its own."));
  };
  if (all) all.addEventListener("change", show);
  show();
  const heading = make("h3", {}, "Nodes ", make("span", { class: "faint" }, count(module.own) + (all ? " of its own, " + count(module.nodes) + " with those below" : "")));
  return make("section", {}, make("div", { class: "row" }, heading, all ? make("label", {}, all, " Show those below too") : null), list);
};

const childTable = (file, module) => {
  if (!module.children.length) return null;
  const shown = figures.filter((figure) => figureOf(figure, file, state.phase));
  const rows = module.children.map((index) => file.modules[index]);
  const of = (figure, each) => figureOf(figure, file, state.phase).totals[each.index];
  const most = new Map(shown.map((figure) => [figure, rows.reduce((most, each) => Math.max(most, of(figure, each) || 0), figure.key === "error" ? 0 : of(figure, module) || 0)]));
  return make("section", {}, make("h3", {}, "Modules in it"), table("The modules right below " + module.title,
    [["Module"], ...shown.map((figure) => [figure.name, true])], rows,
    (each) => [[moduleLink(each, each.label), make("br"), make("span", { class: "faint" }, name(each.class))], ...shown.map((figure) => [of(figure, each) === null ? "–" : figure.text(of(figure, each)), bar(of(figure, each) || 0, most.get(figure))])]));
};

const weightTable = (file, module) => {
  if (!module.weights.length) return null;
  const rows = module.weights.map((index) => file.weights[index]);
  const lost = rows.some((row) => !row[4].length && !texts[row[6]] && row[2] > 1);
  return make("section", {}, make("h3", {}, "Weights ", make("span", { class: "faint" }, bytes(rows.reduce((sum, row) => sum + (row[3] || 0), 0)))),
    table("The weights of " + module.title, [["PyTorch name, and in the file"], ["Type, and what was done to it"], ["Elements", true], ["Size", true]], rows, (row) => {
      const called = texts[file.tensors.name[row[0]]];
      const own = row[4].map((text) => texts[text]);
      const kind = texts[row[6]];
      const changes = row[5].map((text) => texts[text]).filter((word) => word !== "same");
      const unnamed = kind && kind !== "parameter" ? kind : row[2] > 1 ? "unknown" : "constant";
      return [[...(own.length ? own.flatMap((each, index) => [index ? make("br") : "", name(each)]) : [unnamed]), ...(own[0] === called ? [] : [make("br"), make("span", { class: "faint" }, name(called))])],
        [make("span", { class: "type" }, texts[file.tensors.type[row[0]]]), ...(changes.length ? [make("br"), make("span", { class: "faint" }, changes.join(", "))] : [])], count(row[2]), bytes(row[3])];
    }),
    lost ? make("p", { class: "faint" }, "Weights without a PyTorch name have lost it in the export. Their values say which they are: give --model MODEL, or run ", make("code", {}, "optimum-cli htp params PKG --model MODEL"), " once.") : null);
};

const callTable = (file, module) => {
  const phase = phaseOf(file, state.phase);
  const timed = phase ? phase.calls.filter((row) => row[0] === module.index) : [];
  const compared = comparisonsOf(file).flatMap((part) => part.calls.filter((row) => row[0] === module.index).map((row) => [part, row]));
  return [
    timed.length ? make("section", {}, make("h3", {}, "Time of each call"), table("Calls of " + module.title, [["Call"], ["Total", true], ["Its own", true], ["Kernels", true]], timed,
      (row) => [row[1] === null ? "unknown" : String(row[1]), milliseconds(row[2]), milliseconds(row[4]), count(row[6])])) : null,
    compared.length ? make("section", {}, make("h3", {}, "Against the reference"), table("Errors of " + module.title, [["What"], ["Adds itself", true], ["Relative", true], ["Output, as it runs", true], ["Remark"]], compared,
      ([part, row]) => [[part.branch, row[2] ? "its own operations" : "the module", row[1] === null ? "" : "call " + row[1]].filter(Boolean).join(", "), sqnr(row[3]), row[3] ? small(row[3][1]) : "", sqnr(row[4]), row[5] || (row[6] ? "over the tolerance" : "")])) : null,
  ];
};

const kernelTable = (file, module) => {
  const phase = phaseOf(file, state.phase);
  const row = phase && phase.modules.find((each) => each[0] === module.index);
  if (!row || !row[6].length) return null;
  return make("section", {}, make("h3", {}, "Time by operator ", make("span", { class: "faint" }, "as ONNX Runtime ran it")), table("Operators of " + module.title, [["Operator"], ["Kernels", true], ["Time", true]], row[6],
    (each) => [name(each[0]), count(each[1]), [milliseconds(each[2]), bar(each[2], row[1])]]));
};

const changeTable = (file, module) => {
  const parts = data.diff ? data.diff.parts.filter((part) => part.file === file.number) : [];
  const changed = parts.flatMap((part) => part.modules.filter((row) => row[0] === module.index));
  const made = parts.flatMap((part) => part.replaced.filter((row) => row[1] === module.index || row[3].includes(module.index)));
  if (!changed.length && !made.length) return null;
  return make("section", {}, make("h3", {}, "What the tool changed"),
    ...changed.map((row) => make("p", {}, plural(row[3], "node") + " before, " + row[4].toLocaleString("en") + " after: ", operatorChanges(row[5]))),
    made.length ? fusionList(made) : null);
};

const showModule = (module, node) => {
  const file = files[module.file];
  const page = document.getElementById("page");
  const above = pathTo(module);
  const phase = phaseOf(file, state.phase);
  const timed = phase && phase.modules.find((row) => row[0] === module.index);
  const [aliases, aliasOf, inModel] = module.more || [[], null, null];
  page.replaceChildren(
    make("nav", { class: "crumbs", "aria-label": "Modules above" }, ...(files.length > 1 ? [name(file.name), " / "] : []),
      ...above.flatMap((each, index) => [index ? " / " : null, each === module ? make("span", { "aria-current": "page" }, name(each.label)) : moduleLink(each, each.label)].filter(Boolean))),
    make("h2", {}, name(module.title), " ", make("span", { class: "class" }, name(module.class))),
    facts([
      ["Calls", module.calls === null ? "unknown" : count(module.calls)],
      ...describe(module).map(([figure, words, part]) => [figure.name, words, part ? make("span", { class: "faint" }, " " + part) : ""]),
      ["Time of its own", timed ? milliseconds(timed[3]) : null],
      ["Memory held, at most", timed && timed[7] !== null ? bytes(timed[7]) : null],
      ["Operations", timed && timed[10] !== null ? operations(timed[10]) + ", " + operations(timed[10] / timed[1] * 1e6) + "/s" : null],
      ["Spread", timed ? "± " + milliseconds(timed[2]) : null],
      ["Also called", aliases.length ? aliases.map((text) => texts[text]).join(", ") : null],
      ["Another name of", aliasOf === null ? null : name(texts[aliasOf])],
      ["In the whole model", inModel === null ? null : name(texts[inModel])],
      ["Tag", name(module.tag, "tag")],
    ].map(([title, ...values]) => [title, ...values])),
    ...[childTable(file, module), ...callTable(file, module), kernelTable(file, module), changeTable(file, module), nodeList(file, module, node), weightTable(file, module)].filter(Boolean));
  if (node !== undefined) {
    const entry = page.querySelector('[data-node="' + node + '"]');
    if (entry) {
      entry.classList.add("wanted");
      entry.scrollIntoView({ block: "center" });
    }
  } else page.scrollTop = 0;
};

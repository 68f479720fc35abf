// The data of the page, unpacked: files with their modules, nodes, tensors and weights, and the figures of each module.

const data = JSON.parse(document.getElementById("data").textContent);

// What would turn the direction of writing, or can't be seen, is shown by its number: names come from files.
const visible = (text) =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\p{Surrogate}/gu,
    (sign) => "\\u" + sign.charCodeAt(0).toString(16).padStart(4, "0"));

const texts = (() => {
  const unpacked = [];
  let before = "";
  for (let i = 0; i < data.texts.length; i += 2) {
    before = before.slice(0, data.texts[i]) + data.texts[i + 1];
    unpacked.push(before);
  }
  return unpacked.map(visible);
})();

const files = data.files.map((packed, number) => {
  const { parent, path, label } = packed.modules;
  const modules = path.map((text, index) => ({
    index,
    file: number,
    parent: parent[index],
    path: texts[text],
    label: texts[label[index]] || "(root)",
    title: texts[text] || "(root)",
    class: texts[packed.modules.class[index]],
    tag: texts[packed.modules.tag[index]],
    calls: packed.modules.calls[index],
    parameters: packed.modules.parameters[index],
    own: packed.modules.own[index],
    nodes: packed.modules.nodes[index],
    bytes: packed.modules.bytes[index],
    more: packed.modules.more[index],
    children: [],
    weights: [],
    ownNodes: [],
  }));
  const roots = [];
  for (const module of modules) (module.parent < 0 ? roots : modules[module.parent].children).push(module.index);
  const { nodes, tensors } = packed;
  const producer = new Int32Array(tensors.name.length).fill(-1);
  nodes.outputs.forEach((outputs, node) => outputs.forEach((tensor) => { if (tensor >= 0) producer[tensor] = node; }));
  nodes.module.forEach((module, node) => { if (module >= 0) modules[module].ownNodes.push(node); });
  const weightOf = new Map();
  packed.weights.forEach((weight, index) => {
    weightOf.set(weight[0], index);
    if (weight[1] >= 0) modules[weight[1]].weights.push(index);
  });
  const byPath = new Map();
  const byTag = new Map();
  for (const module of modules) {
    if (!byPath.has(module.path)) byPath.set(module.path, module.index);
    byTag.set(module.tag, module.index);
  }
  for (const module of modules) { // other names of a module, where no module is called so
    for (const alias of module.more ? module.more[0] : []) if (!byPath.has(texts[alias])) byPath.set(texts[alias], module.index);
  }
  return { number, name: visible(packed.name), modules, roots, nodes, tensors, producer, weights: packed.weights, weightOf, byPath, byTag };
});

const pathTo = (module) => {
  const above = [module];
  while (above[0].parent >= 0) above.unshift(files[module.file].modules[above[0].parent]);
  return above;
};

// Where a module is: `#/encoder.layer.0` in the first file, `#decoder.onnx/decoder.block.0` in another.
const linkTo = (module) => {
  const same = files[module.file].byPath.get(module.path) === module.index;
  const name = same ? module.path : module.tag;
  return "#" + (module.file ? encodeURIComponent(files[module.file].name) : "") + "/" + encodeURI(name).replace(/#/g, "%23");
};

const placeOf = (hash) => {
  const slash = hash.indexOf("/");
  if (slash < 0) return null;
  try {
    return { file: decodeURIComponent(hash.slice(1, slash)), path: decodeURIComponent(hash.slice(slash + 1)) };
  } catch {
    return null;
  }
};
const moduleAtPlace = (place) => {
  for (const file of place.file ? files.filter((each) => each.name === place.file) : files) {
    const index = file.byPath.get(place.path) ?? file.byTag.get(place.path);
    if (index !== undefined) return file.modules[index];
  }
  return null;
};
// The module that a link means; where there is none, the nearest above, as of a list of modules, which is none itself.
const moduleOf = (hash) => {
  let place = placeOf(hash);
  const exact = place && moduleAtPlace(place);
  if (exact || !place) return [exact, ""];
  const lost = "There is no module " + visible(place.path) + " here";
  while (place.path.includes(".") && !place.path.startsWith("/")) {
    place = { ...place, path: place.path.slice(0, place.path.lastIndexOf(".")) };
    const above = moduleAtPlace(place);
    if (above) return [above, lost + "; this is the nearest above."];
  }
  return [null, lost + "."];
};

// --- Figures: for each module of a file its total, and what of that is its own. ---

// A module's own part is what its children leave of its total.
const withOwn = (file, totals) => ({
  totals,
  own: file.modules.map((module) => {
    const inside = module.children.reduce((sum, child) => sum + (totals[child] || 0), 0);
    return Math.max((totals[module.index] || 0) - inside, 0);
  }),
});

const noise = (errors) => (errors === null || errors[0] === null ? (errors && errors[1] === null ? 1 : 0) : 10 ** (-errors[0] / 10));

const figures = [
  {
    key: "parameters",
    name: "Parameters",
    text: (value) => count(value),
    of: (file) => (file.modules.every((module) => module.parameters === null) ? null
      : withOwn(file, file.modules.map((module) => module.parameters))),
  },
  { key: "nodes", name: "Nodes", text: (value) => count(value), of: (file) => withOwn(file, file.modules.map((module) => module.nodes)) },
  { key: "weights", name: "Weights", text: (value) => bytes(value), of: (file) => withOwn(file, file.modules.map((module) => module.bytes)) },
  {
    key: "time",
    name: "Time",
    text: (value) => milliseconds(value),
    of: (file, phase) => {
      const part = phaseOf(file, phase);
      if (!part) return null;
      const totals = file.modules.map(() => null);
      const own = file.modules.map(() => 0); // of its own nodes, and of those that do the work of several modules in it
      for (const row of part.modules) {
        totals[row[0]] = row[1];
        own[row[0]] += row[3];
      }
      for (const row of part.fused) own[row[0]] += row[2];
      return { totals, own };
    },
  },
  {
    key: "memory",
    name: "Memory taken",
    text: (value) => bytes(value),
    of: (file, phase) => {
      const part = phaseOf(file, phase);
      if (!part || !part.modules.some((row) => row[8] !== null)) return null;
      const totals = file.modules.map(() => null);
      const own = file.modules.map(() => 0);
      for (const row of part.modules) {
        totals[row[0]] = row[8];
        own[row[0]] += Math.max(row[9] || 0, 0);
      }
      for (const row of part.fused) own[row[0]] += Math.max(row[6] || 0, 0);
      return { totals, own };
    },
  },
  {
    // Power of the noise over that of the signal, which adds up where errors have nothing to do with each other.
    key: "error",
    name: "Error",
    text: (value) => decibel(value),
    of: (file) => {
      const part = comparisonOf(file);
      if (!part) return null;
      const own = file.modules.map(() => 0);
      const totals = file.modules.map(() => null);
      const composed = new Set(part.calls.filter((call) => call[2]).map((call) => call[0]));
      for (const [module, , operations, errors] of part.calls) {
        const adds = noise(errors);
        if (operations || !composed.has(module)) own[module] = Math.max(own[module], adds);
        if (!operations && errors) totals[module] = Math.max(totals[module] || 0, adds);
      }
      // From what most add, to what is worst: one colour scale for float16 and for int8.
      const powers = totals.filter((value) => value > 0).sort((one, other) => one - other);
      const worst = powers.length ? Math.log10(powers[powers.length - 1]) : 0;
      const best = powers.length ? Math.min(Math.log10(powers[Math.floor(powers.length / 10)]), worst - 1) : -1;
      return { totals, own, best, worst };
    },
  },
];

const phasesOf = (file) => (data.profile ? data.profile.parts.filter((part) => part.file === file.number) : []);
const phaseOf = (file, phase) => phasesOf(file)[phase] || phasesOf(file)[0];
const comparisonsOf = (file) => (data.compare ? data.compare.parts.filter((part) => part.file === file.number) : []);
const comparisonOf = (file) => comparisonsOf(file)[0];

const figureOf = (() => {
  const known = new Map();
  return (figure, file, phase) => {
    const key = [figure.key, file.number, phase].join();
    if (!known.has(key)) known.set(key, figure.of(file, phase));
    return known.get(key);
  };
})();

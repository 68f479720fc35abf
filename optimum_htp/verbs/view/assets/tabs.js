// The other views: the profile, the comparison, what a tool changed, and the summary.

const moduleIn = (part, index) => files[part.file].modules[index];
const heading = (text, ...more) => make("h2", {}, text, ...more);
const inFile = (part) => (files.length > 1 ? ", " + files[part.file].name : "");
const shapes = (inputs) => inputs.map(([title, sizes]) => visible(title) + " [" + sizes.join(", ") + "]").join(", ");
const notes = (lines) => (lines.length ? make("ul", { class: "notes" }, ...lines.map((line) => make("li", {}, visible(line)))) : null);

const profileView = (panel) => {
  const { profile } = data;
  panel.append(make("p", { class: "faint" }, visible(profile.runtime) + ", " + visible(profile.provider) + (profile.threads === null ? "" : ", " + plural(profile.threads, "thread")) + "; " + visible(profile.average) + "s of " + plural(profile.runs, "run") + (profile.warmup === null ? "" : " after " + profile.warmup + " to warm up") + "."), notes(profile.notes) || "");
  profile.parts.forEach((part) => {
    const kernel = part.kernel[0];
    const rows = part.modules.filter((row) => row[3] > 0).sort((one, other) => other[3] - one[3]);
    const groups = new Map();
    part.modules.forEach((row) => {
      const title = moduleIn(part, row[0]).class;
      const group = groups.get(title) || [title, 0, 0];
      group[1] += 1;
      group[2] += row[3];
      groups.set(title, group);
    });
    const most = rows.length ? rows[0][3] : 0;
    panel.append(heading(part.phase === "forward" ? "Where the time goes" : "Where the time goes: " + visible(part.phase), inFile(part)),
      facts([["Kernels", milliseconds(kernel) + (part.kernel[1] === null ? "" : " ± " + milliseconds(part.kernel[1]))], ["Whole run", part.run[0] === null ? null : milliseconds(part.run[0])], ["Has a known module", (100 * part.attributed).toFixed(1) + "%"], ["Memory held", part.memory[0] === null ? null : "at most " + bytes(part.memory[0]) + (part.memory[1] === null ? "" : ", " + bytes(part.memory[1]) + " of it before the first kernel")], ["Operations", part.flops === null ? null : operations(part.flops) + ", " + operations(part.flops / kernel * 1e6) + "/s"], ["Runs on", part.providers.length > 1 ? part.providers.map((each) => visible(each[0]) + " (" + plural(each[1], "kernel") + ")").join(", ") : null], ["Inputs", shapes(part.inputs) || null]]), notes(part.not_known) || "",
      make("h3", {}, "Modules by their own time"), table("Modules by their own time", [["Module"], ["Class"], ["Own time", true], ["Share", true], ["With those below", true], ["Memory held, at most", true], ["FLOP/s", true], ["Kernels", true]], rows,
        (row) => { const module = moduleIn(part, row[0]); return [moduleLink(module), name(module.class), [milliseconds(row[3]), bar(row[3], most)], share(row[3], kernel), milliseconds(row[1]), row[7] === null ? "" : bytes(row[7]), row[10] === null || !row[1] ? "" : operations(row[10] / row[1] * 1e6), count(row[5])]; }),
      part.fused.length ? make("h3", {}, "Kernels that do the work of several modules") : "",
      part.fused.length ? table("Fused kernels", [["In"], ["Operators"], ["Does the work of"], ["Time", true], ["Share", true]], [...part.fused].sort((one, other) => other[2] - one[2]),
        (row) => [moduleLink(moduleIn(part, row[0])), row[5].map((each) => visible(each[0])).join(", "), make("ul", { class: "plain" }, ...row[1].map((tag) => make("li", {}, tagLink(files[part.file], visible(tag))))), milliseconds(row[2]), share(row[2], kernel)]) : "",
      make("div", { class: "pair" },
        make("section", {}, make("h3", {}, "Classes"), table("Classes by own time", [["Class"], ["Modules", true], ["Own time", true]], [...groups.values()].filter((group) => group[2]).sort((one, other) => other[2] - one[2]), (group) => [name(group[0]), count(group[1]), [milliseconds(group[2]), bar(group[2], kernel)]])),
        make("section", {}, make("h3", {}, "Operators"), table("Operators", [["Operator"], ["Kernels", true], ["Time", true]], part.operators, (row) => [name(visible(row[0])), count(row[1]), [milliseconds(row[2]), bar(row[2], kernel)]]))));
  });
};

const VERDICT = {
  one: (part) => [work(part, part.culprits[0]), " is wrong."],
  several: (part) => [...part.culprits.flatMap((culprit, index) => [index ? ", " : null, work(part, culprit)]).filter(Boolean), " are wrong."],
  spread: (part) => ["Every module adds a little, as " + part.precision + " does; none stands out."],
  unknown: (part) => ["Whose error it is can't be told: " + visible(part.reason || "")],
  agrees: (part) => ["Agrees with " + visible(part.reference) + " in every module that was compared."],
};
const work = (part, [index, call, operations]) => make("span", {}, moduleLink(moduleIn(part, index)), operations ? " (its own operations" + (call === null ? "" : ", call " + call) + ")" : call === null ? "" : " (call " + call + ")");
const db = (value) => (value === null ? "exact" : value.toFixed(1) + " dB");

const compareView = (panel) => {
  const { compare } = data;
  panel.append(make("p", { class: "faint" }, "Compared with ", name(visible(compare.reference)), ", " + visible(compare.provider) + ". What a module adds itself is its error when it is given what the reference's module was given: the ratio of signal and error in decibel. 140 is float32, 70 float16, 30 int8, 0 no likeness."));
  compare.parts.forEach((part) => {
    const rows = part.calls.filter((row) => row[3] !== null).sort((one, other) => noise(other[3]) - noise(one[3]));
    const { best, worst } = figureOf(figureNamed("error"), files[part.file], 0);
    const grade = (errors) => (noise(errors) > 0 ? Math.max(0.02, (Math.log10(noise(errors)) - best) / (worst - best)) : 0);
    const wrong = (row) => part.culprits.some((each) => each[0] === row[0] && each[1] === row[1] && each[2] === row[2]);
    panel.append(heading(part.branch ? visible(part.branch) : "Against the reference", inFile(part)),
      make("p", { class: "verdict " + (part.ok ? "ok" : "failed") }, ...(VERDICT[part.verdict] || VERDICT.unknown)(part)),
      part.culprits.length ? table("Modules that are wrong", [["Module"], ["Adds itself", true], ["Sound work has at least", true], ["Outputs with it put right", true]], part.culprits,
        (row) => [work(part, row), db(row[3]), db(row[4]), row[5] === null ? "unknown" : "off by " + small(row[5])]) : "",
      facts([["Outputs", "off by " + small(part.output_error) + ", " + (part.output_sqnr === null ? "exact" : db(part.output_sqnr))], ["Tolerance", String(part.tolerance)], ["Computes with", part.precision],
        ["Compared", part.compared + " of " + plural(part.calls_with_nodes, "module call")], ["Inputs", shapes(part.inputs) + (part.samples > 1 ? ", " + part.samples + " samples" : "")], ["Draws random numbers", part.random.join(", ")]]),
      notes([...part.notes, ...part.not_compared.map(([why, number]) => "not compared: " + number + ", because " + why)]) || "",
      make("h3", {}, "What each module adds itself"), table("What each module adds itself", [["Module"], ["What"], ["Adds itself", true], ["Relative", true], ["Output, as it runs", true], ["Remark"]], rows,
        (row) => [moduleLink(moduleIn(part, row[0])), [row[2] ? "its own operations" : name(moduleIn(part, row[0]).class), row[1] === null ? "" : ", call " + row[1]], [sqnr(row[3]), bar(grade(row[3]), 1)], small(row[3][1]), sqnr(row[4]), wrong(row) ? make("b", { class: "failed" }, "wrong") : row[6] ? "over the tolerance" : ""]),
      make("h3", {}, "Outputs"), table("Outputs", [["Output"], ["SQNR", true], ["Relative", true], ["Largest difference", true], ["Cosine", true]], part.outputs, (row) => [name(visible(row[0])), sqnr(row[1]), small(row[1][1]), small(row[1][2]), row[1][4] === null ? "" : row[1][4].toFixed(6)]));
  });
  const others = Object.entries(compare.not_compared);
  if (others.length) panel.append(notes(others.map(([file, why]) => file + ": not compared: " + why)));
};

const operatorChanges = (rows) => rows.map(([title, before, after]) => (after > before ? "+" : "−") + Math.abs(after - before) + " " + visible(title)).join(", ") || "the same operators";

// What was fused into what: the same pattern once, with the places.
const runsOf = (nodes) => {
  const runs = [];
  nodes.filter(([operator]) => operator !== "Constant" || nodes.length === 1).forEach(([operator]) => {
    const last = runs[runs.length - 1];
    if (last && last[0] === operator) last[1] += 1;
    else runs.push([operator, 1]);
  });
  const times = ([operator, number]) => visible(operator) + (number > 1 ? " ×" + number : "");
  if (runs.length <= 8) return runs.map(times).join(" + ") || "unknown nodes";
  const numbers = new Map();
  runs.forEach(([operator, number]) => numbers.set(operator, (numbers.get(operator) || 0) + number));
  return [...numbers].sort((one, other) => other[1] - one[1]).map(times).join(", ");
};
const nodeNames = (nodes) => make("ul", { class: "plain" }, ...nodes.slice(0, 30).map(([operator, title]) => make("li", {}, name(visible(operator)), " ", make("span", { class: "faint" }, name(visible(title))))),
  nodes.length > 30 ? make("li", { class: "faint" }, "and " + (nodes.length - 30) + " more") : null);
const fusionList = (rows) => {
  const patterns = new Map();
  rows.forEach((row) => {
    const pattern = { from: runsOf(row[2]), to: runsOf(row[0]), rows: [] };
    const key = JSON.stringify([pattern.from, pattern.to]);
    if (!patterns.has(key)) patterns.set(key, pattern);
    patterns.get(key).rows.push(row);
  });
  return make("div", { class: "fusions" }, ...[...patterns.values()].sort((one, other) => other.rows.length - one.rows.length).map((pattern) => {
    const entry = make("details", {}, make("summary", {}, name(pattern.from), " → ", make("b", {}, name(pattern.to)), make("span", { class: "faint" }, " ×" + pattern.rows.length.toLocaleString("en"))));
    entry.addEventListener("toggle", () => {
      if (entry.children.length > 1) return;
      const part = data.diff.parts.find((each) => each.replaced.includes(pattern.rows[0]));
      entry.append(table("Where", [["Module"], ["Before"], ["After"], ["Origins"]], pattern.rows, (row) => [
        row[1] === null ? "unknown" : moduleLink(moduleIn(part, row[1])), nodeNames(row[2]), nodeNames(row[0]),
        make("ul", { class: "plain" }, ...row[3].map((origin) => make("li", {}, moduleLink(moduleIn(part, origin))))),
      ]));
    });
    return entry;
  }));
};

const diffView = (panel) => {
  const { diff } = data;
  panel.append(make("p", { class: "faint" }, "From ", name(visible(diff.before)), " to ", name(visible(diff.after)), ". This page shows the one " + diff.shown + "."),
    notes([...Object.values(diff.not_compared), ...diff.only_before.map((file) => file + ": only before"), ...diff.only_after.map((file) => file + ": only after")]) || "");
  diff.parts.forEach((part) => {
    const inserted = new Map();
    part.inserted.forEach((row) => inserted.set(row[0], [...(inserted.get(row[0]) || []), row]));
    panel.append(heading(visible(part.before) === visible(part.after) ? visible(part.after) : visible(part.before) + " → " + visible(part.after)),
      facts([["Nodes", part.nodes[0].toLocaleString("en") + " before, " + part.nodes[1].toLocaleString("en") + " after"], ["Versions", part.versions.map(([title, before, after]) => visible(title) + " " + (before ?? "none") + " → " + (after ?? "none")).join(", ")],
        ["Stored elements", part.stored.map(([title, before, after]) => title + " " + count(before) + " → " + count(after)).join(", ")], ["Inputs and outputs", part.values.map(([title, before, after]) => visible(title) + ": " + visible(before ?? "not there") + " → " + visible(after ?? "not there")).join(", ")]]),
      make("h3", {}, "What was fused, or done in another way"), part.replaced.length ? fusionList(part.replaced) : make("p", { class: "faint" }, "Nothing."),
      inserted.size ? make("h3", {}, "What was put in, and for what") : "",
      inserted.size ? make("div", { class: "fusions" }, ...[...inserted].map(([operator, rows]) => {
        const entry = make("details", {}, make("summary", {}, make("b", {}, name(visible(operator))), make("span", { class: "faint" }, " ×" + rows.length.toLocaleString("en"))));
        entry.addEventListener("toggle", () => { if (entry.children.length < 2) entry.append(table("Where", [["For"], ["Node"]], rows, (row) => [row[2] === null ? "unknown" : moduleLink(moduleIn(part, row[2])), name(visible(row[1]))])); });
        return entry;
      })) : "",
      part.gone.length ? make("h3", {}, "What is gone: folded into constants, or without a reader") : "", part.gone.length ? make("p", {}, part.gone.map(([operator, number]) => visible(operator) + " ×" + number).join(", ")) : "",
      make("h3", {}, "Operators"), table("Operators", [["Operator"], ["Before", true], ["After", true], ["Change", true]], [...part.operators].sort((one, other) => Math.abs(other[2] - other[1]) - Math.abs(one[2] - one[1])), (row) => [name(visible(row[0])), count(row[1]), count(row[2]), (row[2] > row[1] ? "+" : "−") + Math.abs(row[2] - row[1])]),
      make("h3", {}, "Modules"), table("Modules that differ", [["Module"], ["Class"], ["Before", true], ["After", true], ["What"]], part.modules, (row) => [
        row[0] === null ? name(visible(row[1] === null ? "(unknown module)" : row[1] || "(root)")) : moduleLink(moduleIn(part, row[0])), name(visible(row[2])), count(row[3]), count(row[4]), operatorChanges(row[5])]));
  });
};

const summaryView = (panel) => {
  const { summary } = data;
  const source = Object.entries(summary.source).filter(([key]) => key !== "task");
  const bad = summary.validation.checks.filter((check) => check[1] === "failed" || check[1] === "warning");
  panel.append(heading("The package"), facts([["Task", summary.task && visible(summary.task)], ...source.map(([key, value]) => [key, name(visible(value))])]),
    make("h3", {}, "Files"), table("ONNX files", [["File"], ["Size", true], ["Nodes", true], ["Tagged", true], ["Modules", true], ["Parameters", true], ["Opset"], ["Made by"]], summary.files,
      (file) => [[name(visible(file.name)), ...file.external.flatMap(([each, size]) => [make("br"), make("span", { class: "faint" }, name(visible(each)), " ", size === null ? "missing" : bytes(size))])], bytes(file.size), count(file.nodes), share(file.tagged, file.nodes), count(file.modules), count(file.parameters), file.opsets.map(([domain, version]) => visible(domain) + " " + version).join(", "), name(visible(file.producer))]),
    summary.others.length ? make("details", {}, make("summary", {}, plural(summary.others.length, "other file")), table("Other files", [["File"], ["Size", true]], summary.others, ([each, size]) => [name(visible(each)), bytes(size)])) : "",
    make("h3", {}, "How the nodes know their modules"), ...summary.files.flatMap((file) => [
      summary.files.length > 1 ? make("h4", {}, name(visible(file.name))) : null,
      make("div", { class: "stack", role: "img", "aria-label": file.evidence.map(([kind, number]) => kind + " " + number).join(", ") }, ...file.evidence.map(([kind, number]) => { const part = make("i", { class: kind, title: kind + ": " + number }); part.style.flexGrow = number; return part; })),
      table("Evidence", [["Evidence"], ["Nodes", true], ["Share", true], ["What it is"]], file.evidence, ([kind, number, what]) => [evidence(kind), count(number), share(number, file.nodes), what]),
      make("p", { class: "faint" }, file.projected ? "The graph was changed after it was tagged; the tags were carried over: " + visible(file.tags_from) + ". " : "", file.root_by_dataflow ? plural(file.root_by_dataflow, "node") + " belong to the root only because of what uses them. " : "", visible(file.untyped)),
    ].filter(Boolean)),
    make("h3", {}, "Validation"), make("p", { class: "verdict " + (summary.validation.ok ? "ok" : "failed") }, summary.validation.ok ? (bad.length ? "Nothing failed; " + plural(bad.length, "warning") + "." : "All " + summary.validation.checks.length + " checks are well.") : plural(summary.validation.checks.filter((check) => check[1] === "failed").length, "check") + " failed."),
    table("Checks", [["Check"], ["Status"], ["What is so"]], [...summary.validation.checks].sort((one, other) => bad.includes(other) - bad.includes(one)), ([title, status, reason, advice]) => [name(title), make("span", { class: "status " + status }, status), visible(reason) + (advice ? " – " + visible(advice) : "")]),
    Object.keys(summary.versions).length ? make("h3", {}, "Versions") : "", facts(Object.entries(summary.versions).map(([library, version]) => [visible(library), visible(version)])));
};

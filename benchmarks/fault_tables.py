"""The tables of docs/faults.md, from the records of the cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

Record = dict[str, Any]
FORMS = ("float", "int8-dynamic", "static-qdq", "fp16", "O2")
OUTCOMES = ("first", "among", "enclosing", "wrong", "unknown", "missed")
HEADS = ("named first", "among those named", "a module around it", "another module", "can't tell", "nobody named")


def line(record: Record) -> str:
    """One case on the terminal."""
    name = "/".join(record[key] for key in ("architecture", "kind", "variant"))
    told = [record["status"]]
    if "change" in record:
        told.append(f"changes {record['change']:.1e} where the form costs {record['noise']:.1e}")
    if record.get("truth"):
        told.append(f"truth {', '.join(path or '(root)' for path in record['truth'])}")
    if "verdict" in record:
        named = ", ".join(each["path"] or "(root)" for each in record["culprits"][:3])
        told.append(f"{record['verdict']}: {named}" if named else record["verdict"])
    told += [record[key] for key in ("outcome", "reason") if key in record]
    return f"{name}: {'; '.join(told)} [{record['seconds']} s]"


def document(records: list[Record], held_out: list[Record], *, of: int) -> str:
    """The page, on some of so many cases."""
    clear, noisy, sound = reached(records), in_the_noise(records), compared_sound(records)
    statuses = Counter(record["status"] for record in records)
    lines = [
        "# Planted faults",
        "",
        "Written by `make faults`; do not edit. Whether `compare` names the module that is wrong: one fault at a time is",
        "planted by hand into the ONNX file of a sound export, so that the truth is known without `compare`, and the model",
        "is shipped as float32, quantized dynamically, quantized statically (QDQ), in float16 and optimized (O2).",
        "",
        "The truth is the module whose work is wrong; where an operation of a block between its children is (a residual, a",
        "mask, a split into heads), it is the block. Where a fault lies in two modules (their weights are swapped), either",
        "is right. Float files are compared with PyTorch, the other forms with the float package.",
        "",
        "A fault is *reached* if it changes an output by 1e-4 or more (norm of the difference over the norm), and *in the",
        "noise* if it changes less than the form itself costs: than quantization does, say. Both change outputs and both",
        "are counted, apart. Tiny models have their weights drawn again, so that faults show: no bias is zero, no gain one,",
        "attention far from uniform (`benchmarks/fault_models.py`); MiniLM has its real weights.",
        "",
        '`FAULTS_ARGS="--cases FILE"` writes each case as a line of JSON, and',
        "`python benchmarks/faults.py --only bert/missing-residual/int8-dynamic --keep DIR` does one again, with its packages",
        "left in `DIR` and the command that compares them.",
        "",
        f"{len(records):,} of {of:,} cases, of which {statuses['sound']:,} are sound, "
        f"{statuses['reached']:,} reached, {statuses['in the noise']:,} in the noise, "
        f"{statuses['not reached']:,} not reached, {statuses['n/a']:,} not applicable, {statuses['error']:,} failed.",
        "",
        "## Sound packages",
        "",
        "| form | packages | a module accused | can't tell | not `ok` |",
        "|---|--:|--:|--:|--:|",
        *sound_rows(sound),
        "",
        "## Faulty packages",
        "",
        *outcomes("all", [("reached", clear), ("in the noise", noisy)]),
        "",
        *held_out_rows(held_out),
        "### Reached, by form",
        "",
        *outcomes("form", grouped(clear, "variant")),
        "",
        "### Reached, by kind",
        "",
        *outcomes("kind", grouped(clear, "kind")),
        "",
        "### Reached, by architecture",
        "",
        *outcomes("architecture", grouped(clear, "architecture")),
        "",
        "## Not compared",
        "",
        *reasons(records),
        "",
    ]
    return "\n".join(lines)


def reached(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record["status"] == "reached" and "outcome" in record]


def in_the_noise(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record["status"] == "in the noise" and "outcome" in record]


def compared_sound(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record["status"] == "sound" and "verdict" in record]


def held_out_rows(records: list[Record]) -> Iterator[str]:
    """The figures of a draw that nothing was tuned on: in places of its own, since the seed draws these too."""
    if not records:
        return
    sound = compared_sound(records)
    accused = sum(record["verdict"] in ("one", "several") for record in sound)
    (seed,) = {record["seed"] for record in records}
    names = {record["architecture"] for record in records}
    yield "### A draw that nothing was tuned on"
    yield ""
    yield "The cases above showed where `compare` was wrong, and those that were not answered rightly were run again after each"
    yield f"change. {len(records):,} others, of {len(names)} architectures and with their faults in other places (`--seed {seed}`),"
    yield f"were run once, after the last change. Of their {len(sound)} sound packages {accused or 'none'} had a module accused."
    yield ""
    yield from outcomes("held out", [("reached", reached(records)), ("in the noise", in_the_noise(records))])
    yield ""


def grouped(records: Iterable[Record], key: str) -> list[tuple[str, list[Record]]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return sorted(groups.items(), key=lambda item: (FORMS.index(item[0]) if item[0] in FORMS else -1, item[0]))


def outcomes(what: str, groups: Iterable[tuple[str, list[Record]]]) -> Iterator[str]:
    yield f"| {what} | cases | {' | '.join(HEADS)} |"
    yield f"|---|{'--:|' * (1 + len(HEADS))}"
    for name, records in groups:
        counts = Counter(record["outcome"] for record in records)
        right = counts["first"] / len(records) if records else 0.0
        share = f" ({'100%' if right == 1 else f'{min(right, 0.999):.1%}'})" if records else ""
        cells = [f"{counts[outcome]:,}" + (share if outcome == "first" else "") for outcome in OUTCOMES]
        yield f"| {name} | {len(records):,} | {' | '.join(cells)} |"


def sound_rows(records: list[Record]) -> Iterator[str]:
    for name, group in [*grouped(records, "variant"), ("all", records)]:
        verdicts = Counter(record["verdict"] for record in group)
        accused, wrong = verdicts["one"] + verdicts["several"], sum(not record["ok"] for record in group)
        yield f"| {name} | {len(group):,} | {accused:,} | {verdicts['unknown']:,} | {wrong:,} |"


def reasons(records: list[Record]) -> Iterator[str]:
    """What was not compared: which kinds found no place in a model, which tools and runs failed, what is not reached."""
    yield "| kind | not applicable or failed, because | where |"
    yield "|---|---|---|"
    found: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        if record["status"] in ("n/a", "error"):
            failed = "failed: " if record["status"] == "error" else ""
            reason = failed + record["reason"].replace("|", "/")
            # Those that lack a form altogether lack it for each kind.
            kind = "all" if reason.startswith("no sound ") else record["kind"]
            where = record["architecture"] + (f" {record['variant']}" if failed else "")
            found.setdefault((kind, reason), {})[where] = None
    for (kind, reason), places in sorted(found.items()):
        yield f"| {kind} | {reason} | {', '.join(places)} |"
    for kind, group in grouped([record for record in records if record["status"] == "not reached"], "kind"):
        places = ", ".join(f"{record['architecture']} {record['variant']}" for record in group)
        yield f"| {kind} | not reached | {places} |"

"""A plan that is run on one sample after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optimum_htp.models import Array, Prober, run_session
from optimum_htp.onnxfile import encode_node
from optimum_htp.verbs.compare.cut_graph import Correction, Plan


class Run:
    """A plan, run on one sample after another in one session."""

    def __init__(self, prober: Prober, plan: Plan) -> None:
        self._prober = prober
        self._plan = plan
        self._session: Any = None

    def on(
        self,
        inputs: Mapping[str, Array],
        fed: Mapping[str, Array],
        deltas: Mapping[str, tuple[Array, Array, Array]] | None = None,
    ) -> dict[str, Array]:
        """What is asked for, by that.

        Args:
            inputs: The graph's own.
            fed: The reference's values, by the names in the plan.
            deltas: For each correction what is added, what is taken instead, and where (boolean).

        Raises:
            HtpError: ONNX Runtime can't load or run it.
        """
        plan, prober = self._plan, self._prober
        feed = {**{name: inputs[name] for name in sorted(plan.inputs)}, **fed}
        for correction in plan.corrections:
            feed |= zip(_parts(correction), (deltas or {})[correction.name], strict=True)
        names = list(dict.fromkeys(plan.shown.values()))
        computed = [name for name in names if name not in feed]
        if computed and self._session is None:
            more = [node for correction in plan.corrections for node in _corrected(correction)]
            self._session = prober.session(plan.nodes, feed, computed, more)
        values = dict(feed)
        if computed:
            arrays = run_session(self._session, computed, feed, name=prober.name)
            values.update(zip(computed, arrays, strict=True))
        return {asked: values[name] for asked, name in plan.shown.items()}


def _parts(correction: Correction) -> tuple[str, str, str]:
    return tuple(f"{correction.name}/{part}" for part in ("delta", "value", "replaced"))  # type: ignore[return-value]


def _corrected(correction: Correction) -> Iterator[bytes]:
    delta, value, replaced = _parts(correction)
    yield encode_node("Add", [correction.base, delta], [f"{correction.name}/sum"])
    yield encode_node("Where", [replaced, value, f"{correction.name}/sum"], [correction.name])

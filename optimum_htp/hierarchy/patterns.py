r"""Patterns that select modules of a model, as `select` and everything else that takes patterns accepts them.

| pattern | selects |
|---|---|
| `encoder.layer.*.attention` | modules whose dotted path matches the glob; `*` crosses dots, as in `fnmatch` |
| `encoder.layer.2-5` | a name that is a range of numbers, both ends included |
| `LayerNorm` | modules of this class, also by its qualified name (`torch.nn.modules.normalization.LayerNorm`) |
| `class:*Norm` | modules whose class, qualified or not, matches the glob |
| `re:layer\.[02]$` | modules in whose dotted path the regular expression is found (`re.search`) |
| `/Net/Encoder.encoder/*` | modules whose tag matches the glob, which tells the roots of a merged file apart |
| `PATTERN@2`, `PATTERN@1-3` | of modules that ran more than once, these calls, counted from 0 |

A range also selects a module whose name is spelled like it. `select` knows `!PATTERN` in addition, which takes away what
the pattern selects (`verbs/select/chooser.py`). `extract` takes no patterns: `verbs/extract/choice.py` says what it does.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import translate

from optimum_htp.errors import HtpError

_CALLS = re.compile(r"(.*)@(\d{1,9})(?:-(\d{1,9}))?", re.DOTALL)
_RANGE = re.compile(r"(?<![^.])(\d{1,9})-(\d{1,9})(?![^./])")
_PLACEHOLDER = "\x00"  # for a range while `translate` makes a regular expression of the rest; in no module's name
_NUMBER = re.compile(r"(?<![^.])\d{1,9}(?![^.])")


@dataclass(frozen=True, slots=True)
class ModulePattern:
    """A parsed pattern.

    Attributes:
        text: As it was written.
        kind: What it is matched with: `"name"` (dotted path or class), `"class"`, `"path"` (regular expression) or
            `"tag"`.
        body: The pattern itself, without prefix and calls.
        calls: The first and the last call that it selects; None means all.
    """

    text: str
    kind: str
    body: str
    calls: tuple[int, int] | None

    @classmethod
    def parse(cls, text: str) -> ModulePattern:
        """Parses a pattern.

        Raises:
            HtpError: Its regular expression is invalid, or a range runs backwards.

        >>> ModulePattern.parse("encoder.layer.2-5@0")
        ModulePattern(text='encoder.layer.2-5@0', kind='name', body='encoder.layer.2-5', calls=(0, 0))
        """
        with_calls = _CALLS.fullmatch(text)
        body, first, last = with_calls.groups() if with_calls is not None else (text, None, None)
        calls = None if first is None else (int(first), int(last if last is not None else first))
        kind = "tag" if body.startswith("/") else "name"
        for prefix, named in (("re:", "path"), ("class:", "class")):
            if body.startswith(prefix):
                kind, body = named, body.removeprefix(prefix)
        pattern = cls(text, kind, body, calls)
        if kind == "path":
            _compile(pattern, body)
        ranges = _RANGE.findall(body) if kind in ("name", "tag") else []
        for low, high in (*((int(low), int(high)) for low, high in ranges), *filter(None, [calls])):
            if low > high:
                raise HtpError(f"the pattern {text!r}: the range {low}-{high} runs backwards: write {high}-{low}")
        return pattern

    @property
    def literal(self) -> bool:
        """Whether it can name one path or class only."""
        return self.kind in ("name", "tag") and not re.search(r"[*?[]", self.body) and not self._ranged

    def may_call(self, calls: int, *, container: bool) -> bool:
        """Whether a module has a call that the pattern selects, as far as its number of calls (0: unknown) says."""
        return self.calls is None or (not container and (not calls or self.calls[0] < calls))

    def matcher(self, paths: Iterable[str]) -> Callable[[Iterable[str], Collection[str], Callable[[], str]], bool]:
        """A test of a module, given its dotted paths, the names of its class, and a function that spells its tag.

        `paths` are those of all modules, for the numbers in them. Raises HtpError if a regular expression is invalid.
        """
        if self.kind == "path":
            test = _compile(self, self.body).search
            return lambda dotted, _, __: any(map(test, dotted))
        test = self._glob({number for path in paths for number in _NUMBER.findall(path)} if self._ranged else ()).match
        if self.kind == "class":
            return lambda _, classes, __: any(map(test, classes))
        if self.kind == "tag":
            return lambda _, __, tag: test(tag()) is not None
        return lambda dotted, classes, _: self.body in classes or any(map(test, dotted))

    @property
    def _ranged(self) -> bool:
        return self.kind in ("name", "tag") and _RANGE.search(self.body) is not None

    def _glob(self, numbers: Collection[str]) -> re.Pattern[str]:
        """The glob as a regular expression, whose ranges choose from these numbers."""
        if not self._ranged:
            return _compile(self, translate(self.body))
        expression = translate(_RANGE.sub(_PLACEHOLDER, self.body))
        for written in _RANGE.finditer(self.body):
            inside = [number for number in numbers if int(written[1]) <= int(number) <= int(written[2])]
            alternatives = "|".join(map(re.escape, (*inside, written[0])))
            expression = expression.replace(_PLACEHOLDER, f"(?:{alternatives})", 1)
        return _compile(self, expression)


def pattern_of(path: str) -> str:
    """The pattern that selects the module with a dotted path and nothing else.

    >>> pattern_of("encoder.layer.0"), pattern_of("a*[0]"), pattern_of("!not"), pattern_of("a@1")
    ('encoder.layer.0', 'a[*][[]0]', '?not', 'a[@]1')
    """
    spelled = re.sub(r"[*?[]|@(?=\d)", lambda special: f"[{special[0]}]", path)
    if path.startswith("!"):
        return f"?{spelled[1:]}"
    return f"[{spelled[0]}]{spelled[1:]}" if path.startswith(("/", "re:", "class:")) else spelled


def near_names(
    pattern: ModulePattern, *, paths: Iterable[str], classes: Iterable[str], tags: Iterable[str]
) -> list[str]:
    """At most three patterns that one which matches none of a model's modules may have meant, the likeliest first."""
    paths, classes = list(paths), sorted(set(classes))
    if pattern.text in paths:  # a name that is spelled like another form of pattern
        return [pattern_of(pattern.text)]
    if pattern.kind == "path":
        return []
    if pattern.kind == "name" and pattern.body:
        longer = ModulePattern.parse(f"*.{pattern.body}").matcher(paths)
        if any(longer([path], (), str) for path in paths):
            return [f"*.{pattern.body}"]
    if pattern.kind == "name":
        # `encoder.layer.*.atention` is nearest to `encoder.layer.*.attention`, however many layers there are.
        spelled = list(map(pattern_of, paths))
        candidates = [*classes, *(_NUMBER.sub("*", path) for path in spelled), *(spelled if pattern.literal else ())]
    else:
        candidates = classes if pattern.kind == "class" else list(tags)
    folded = {candidate.casefold(): candidate for candidate in reversed(candidates)}
    wanted = _RANGE.sub("*", pattern.body).casefold()
    return [folded[name] for name in get_close_matches(wanted, folded, n=3, cutoff=0.5)]


def _compile(pattern: ModulePattern, expression: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what sets in sets may mean one day
            return re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise HtpError(f"the pattern {pattern.text!r} is not a regular expression: {error}") from error

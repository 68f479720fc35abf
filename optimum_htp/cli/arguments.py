"""What a parser makes of arguments that are wrong: one line that says what to do, as of anything else that is wrong."""

from __future__ import annotations

import sys
from argparse import OPTIONAL, ZERO_OR_MORE, Action, ArgumentParser, Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, NoReturn

from optimum_htp.cli.outcome import FAULT, one_line


def refuse_in_one_line(parser: ArgumentParser) -> None:
    """Has a parser, also one that Optimum made, say in one line what is wrong with its arguments.

    And in whichever order they come: `argparse` before Python 3.13 gives nothing to an argument that may be left out, if
    an option is in front of it, and then knows of no use for it.
    """
    known = parser.parse_known_args

    def parse(args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, left = known(args, namespace)
        left = _placed(parser, found, left)
        if left:
            _refuse(parser, _unknown(parser, left))
        return found, left

    parser.parse_known_args = parse  # type: ignore[assignment,method-assign] # which has overloads
    parser.error = partial(_refuse, parser)  # type: ignore[method-assign]


def _placed(parser: ArgumentParser, found: Namespace, left: list[str]) -> list[str]:
    """Gives what is left over to the arguments that may be left out and were; returns what still is."""
    if any(text.startswith("-") for text in left):
        return left
    for action in parser._actions:
        if left and not action.option_strings and action.nargs in (OPTIONAL, ZERO_OR_MORE):
            taken = left if action.nargs == ZERO_OR_MORE else left[:1]
            present = getattr(found, action.dest, None)
            if present in (None, [], action.default):
                setattr(found, action.dest, list(taken) if action.nargs == ZERO_OR_MORE else taken[0])
                left = left[len(taken) :]
    return left


def _unknown(parser: ArgumentParser, left: Sequence[str]) -> str:
    options = [text for text in left if text.startswith("-")]
    if not options:
        return f"{left[0]!r} is one argument too many"
    given = options[0].partition("=")[0]
    near = get_close_matches(given, [name for action in parser._actions for name in action.option_strings], n=1)
    return f"there is no option {given}" + (f"; did you mean {near[0]}?" if near else "")


def _refuse(parser: ArgumentParser, message: str) -> NoReturn:
    commands = next((action.choices for action in parser._actions if _is_choice(action)), None)
    if commands and "invalid choice: " in message:
        given = message.partition("invalid choice: ")[2].partition(" (")[0].strip("'\"")
        near = get_close_matches(given, list(commands), n=1)
        message = f"there is no command {given!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    text = one_line(message)
    print(
        f"error: {text.removesuffix('?')}{'?' if text.endswith('?') else ';'} see {parser.prog} --help",
        file=sys.stderr,
    )
    sys.exit(FAULT)


def _is_choice(action: Action) -> bool:
    return not action.option_strings and isinstance(action.choices, dict)

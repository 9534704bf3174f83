"""An argument parser with one-line errors that name the command and suggest a correction."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from ._shown import shown
from ._suggest import did_you_mean, near

WRONG_USE = 2


class Parser(argparse.ArgumentParser):
    """argparse's parser, but only whole names of options count: a part may be a misspelling."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"{self.prog}: {shown(message)} (see {self.prog} --help)\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Ends at an unknown argument. Later, argparse would no longer know the command."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown[0]))
        return found, unknown

    def _unknown(self, word: str) -> str:
        known = self._option_string_actions
        if word.startswith("-"):
            name = word.partition("=")[0]
            return f"unknown option {name}{did_you_mean(near(name, known))}"
        folders = [name for name in ("--data", "--checkpoint") if name in known]
        meant = [f"{name} {word}" for name in folders if os.path.isdir(word)]
        return f"unexpected {word!r}{did_you_mean(meant)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Replaces argparse's message, which has no suggestion."""
        if action.choices is not None and value not in action.choices:
            hint = did_you_mean(near(value, action.choices)) or ","
            names = ", ".join(action.choices)
            raise argparse.ArgumentError(action, f"unknown {value!r}{hint} choose one of {names}")

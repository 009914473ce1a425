"""Renaming by rules: a key that no rule knows is reported, not guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """One renaming: a regular expression for whole keys, and its replacement."""

    pattern: str
    replacement: str


def rename(
    state: Mapping[str, Tensor], rules: Sequence[Rule]
) -> tuple[dict[str, Tensor], list[str]]:
    """Apply to each key the first rule whose pattern matches all of it.

    Returns:
        The renamed tensors, and the keys that no rule knows, sorted.
    """
    compiled = [(re.compile(rule.pattern), rule.replacement) for rule in rules]
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in state.items():
        for pattern, replacement in compiled:
            match = pattern.fullmatch(name)
            if match:
                renamed[match.expand(replacement)] = value
                break
        else:
            unknown.append(name)
    return renamed, sorted(unknown)


def tower_rules(state: Mapping[str, Tensor], theirs: str, ours: str) -> list[Rule]:
    """Rules for a tower that is a flat list: conv, norm, ReLU, conv, ...; or without norms."""
    present = {
        int(match[1])
        for match in (re.match(re.escape(theirs) + r"\.(\d+)\.", name) for name in state)
        if match
    }
    step = 3 if 1 in present else 2  # a norm follows the first convolution, or only a ReLU
    rules = []
    for index in sorted(present):
        part = {0: "conv", 1: "norm"}.get(index % step)
        if part is not None:
            pattern = re.escape(f"{theirs}.{index}.") + r"(.+)"
            rules.append(Rule(pattern, rf"{ours}.{index // step}.{part}.\1"))
    return rules

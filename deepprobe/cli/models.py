"""``deepprobe models``: what can be named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tyro.conf import Positional

from deepprobe.cli.options import STRICT, parse

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ModelsOptions:
    """Networks that can be named, with their depth and number of parameters.

    For example:
      deepprobe models
      deepprobe models '*164'
    """

    __pydantic_config__ = STRICT

    pattern: Positional[str] = "*"
    """Names to list; * and ? stand for anything."""


def run(words: Sequence[str]) -> None:
    """List the models whose names match."""
    options = parse(ModelsOptions, words, verb="models")
    from deepprobe.errors import UnknownNameError, nearest
    from deepprobe.models import describe_model, list_models

    names = list_models(options.pattern)
    if not names:
        raise UnknownNameError(f"no model is named {options.pattern!r}; {nearest(options.pattern, list_models())}")
    for name in names:
        about = describe_model(name)
        print(f"{name:<24} depth {about.depth:>5}   {about.parameters:>12,} parameters   {about.description}")

"""How names, numbers, statuses and views are put into words."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

TAPS = {
    "block": "block outputs", "output": "layer outputs", "input": "layer inputs", "weight": "weights",
    "gradient": "gradients", "update": "updates",
}  # fmt: skip
"""Taps in the order in which reports show them, in words."""

VIEWS = {
    "samples": "a row a sample",
    "channels": "a row a position, a column a channel",
    "pooled": "a row a sample, channels averaged over positions",
    "hosvd1": "each sample's channels × positions",
    "hosvd2": "each sample's rows × (channels · columns)",
    "hosvd3": "each sample's columns × (channels · rows)",
    "tokens": "a row a token",
    "kernel": "a kernel's outputs × inputs and positions",
}
"""Views in the order in which reports show them, in words."""

STATUSES = {
    "finite": "finite",
    "singular-at-precision": "singular at this precision",
    "singular-exact": "certainly singular",
    "zero": "all zero",
    "unresolved": "unresolved",
    "nonfinite": "holds NaN or infinity",
    "empty": "nothing measured",
}
"""Every status in words."""

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean(name: Any, *, limit: int | None = None) -> str:
    r"""A name as printable text: control, invisible and direction-changing characters become visible escapes.

    Args:
        name: Anything that came from a model, a run or a configuration.
        limit: Longest result; what is too long loses its middle.

    Returns:
        Text without control characters; it must still be escaped for HTML, CSV or matplotlib.

    Example:
        >>> clean("conv\x001"), clean("stage1.block27.conv2", limit=12)
        ('conv\\x001', 'stag…7.conv2')
    """
    text = str(name)
    if not text.isprintable():
        text = "".join(_visible(c) if unicodedata.category(c) in _HIDDEN else c for c in text)
    if limit is not None and len(text) > limit:
        head = (limit - 1) * 2 // 5
        text = text[:head] + "…" + text[len(text) - (limit - 1 - head) :]
    return text


def _visible(character: str) -> str:
    r"""Escape such as ``\x00`` of one character."""
    return character.encode("unicode_escape").decode("ascii")


def for_figure(name: Any, *, limit: int = 28) -> str:
    """A name as matplotlib text: short, printable, its dollar signs no mathematics."""
    return clean(name, limit=limit).replace("$", r"\$")


def number(value: float, *, digits: int = 3) -> str:
    """A number as people write it: ``12.4``, ``1.5e7``, ``infinite``, ``–`` for NaN.

    Example:
        >>> number(12.41), number(15230000.0), number(float("inf")), number(float("nan"))
        ('12.4', '1.52e7', 'infinite', '–')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    if float(value).is_integer():
        return f"{value:.0f}".replace("-", "−")
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}".replace("-", "−")


def percent(share: float) -> str:
    """A share as a percentage with one digit, its sign held by a no-break space: ``97.5 %``."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def span(values: Sequence[float], text: Any = number) -> str:
    """One value as it is, several as ``mean (lowest–highest)``, several equal ones once.

    Args:
        values: Finite numbers, at least one.
        text: Function that writes one number.

    Example:
        >>> span([3]), span([3, 3]), span([3, 4, 8])
        ('3', '3', '5 (3–8)')
    """
    low, high = min(values), max(values)
    if text(low) == text(high):
        return str(text(low))
    return f"{text(sum(values) / len(values))} ({text(low)}–{text(high)})"


def plural(count: float, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number(count)} {noun}" + ("" if count == 1 else "s")


def listed(parts: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    items = list(parts)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def place(tap: str, view: str) -> str:
    """Where and how a matrix was read, in words: ``block outputs, samples view``."""
    parts = [TAPS.get(tap, tap), f"{view} view" if view else ""]
    return ", ".join(p for p in parts if p) or "all layers"

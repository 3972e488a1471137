"""In which settings two configurations differ, in words."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def difference(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """In which settings the identity asked for differs from the one in a folder; empty if in none.

    Args:
        kept: Identity read from the folder: plain values, defaults left out.
        asked: The other one.

    Example:
        >>> difference({"training": {"lr": 0.1}}, {"training": {"lr": 0.2}})
        'training.lr: 0.1 in the folder, 0.2 asked for'
    """
    mine, other = _flat(kept), _flat(json.loads(json.dumps(asked)))
    words = [
        f"{key}: {_short(mine.get(key, 'default'))} in the folder, {_short(other.get(key, 'default'))} asked for"
        for key in sorted(mine.keys() | other.keys())
        if mine.get(key) != other.get(key)
    ]
    return "; ".join(words)


def _short(text: str) -> str:
    """A value as it is, digests cut."""
    return re.sub(r"([0-9a-f]{12})[0-9a-f]{52}", r"\1…", text)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys to JSON text."""
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value)
    return flat

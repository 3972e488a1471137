"""Options from the command line and from a TOML file, through one strict check.

A verb's options are a frozen dataclass. tyro reads the words, ``tomllib`` the file; whatever they gave goes through
pydantic: unknown keys, other types, NaN, infinity and values out of range are refused, wherever they came from.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from pydantic import ConfigDict, TypeAdapter, ValidationError

from deepprobe.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import DataclassInstance

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""For ``__pydantic_config__`` of every dataclass of options."""

LARGEST_FILE = 2**14
"""Bytes; no honest file of settings is larger, and reading a.a.a.a… takes time by the square of its length."""
_DEEP = re.compile(r"(?<![\w\"'-])(?:[\w\"'-]+\s*\.\s*){32}")

T = TypeVar("T", bound="DataclassInstance")


def parse(cls: type[T], words: Sequence[str], *, verb: str, defaults: dict[str, Any] | None = None) -> T:
    """Options of a verb from the words after it.

    Args:
        cls: A frozen dataclass of options with ``__pydantic_config__ = STRICT``.
        words: What stands after the verb.
        verb: For the usage line and the messages.
        defaults: Values that stand in for the class's defaults, from ``read_toml``.

    Returns:
        The options, checked.

    Raises:
        SystemExit: With 0 after ``--help``, with 2 where an option is unknown, malformed or out of range.
    """
    options = tyro.cli(
        cls,
        args=list(words),
        prog=f"deepprobe {verb}",
        default=cls(**defaults) if defaults else tyro.MISSING_NONPROP,
        compact_help=False,
    )
    try:
        return checked(cls, asdict(options), origin="option")
    except ConfigError as error:
        print(f"deepprobe {verb}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse_over_file(cls: type[T], words: Sequence[str], *, verb: str) -> tuple[T, set[str]]:
    """Options from the words, on top of those of the file that their option ``--config`` names.

    Args:
        cls: As in ``parse``, with a field ``config``.
        words: What stands after the verb.
        verb: For the usage line and the messages.

    Returns:
        The options, checked, and the names of those that stand in the file.

    Raises:
        ConfigError: If the file is wrong.
        SystemExit: As ``parse``.
    """
    options: Any = parse(cls, words, verb=verb)
    of_file = {} if options.config is None else read_toml(options.config, cls)
    return parse(cls, words, verb=verb, defaults=of_file) if of_file else options, set(of_file)


def given(words: Sequence[str]) -> set[str]:
    """Names of the options that stand among the words, with their values or not."""
    return {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")}


def checked(cls: type[T], values: dict[str, Any], *, origin: str) -> T:
    """Options from bare values, or an error that names the first wrong one.

    Args:
        cls: A frozen dataclass of options.
        values: Field name to value; lists stand for tuples, strings for paths.
        origin: ``option`` for the command line, else the file that the values came from.

    Raises:
        ConfigError: If a key is unknown, missing, of another type or out of range.
    """
    try:  # by way of JSON, so that strictness still takes a list for a tuple and a string for a path
        return TypeAdapter(cls).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ConfigError(_first(error, cls, origin)) from None


def _first(error: ValidationError, cls: type[DataclassInstance], origin: str) -> str:
    """Pydantic's complaints about the first wrong field in one line; a union complains once a member."""
    details = error.errors(include_url=False)
    name = str(details[0]["loc"][0]) if details[0]["loc"] else "?"
    given = repr(details[0]["input"])
    complaints = dict.fromkeys(
        d["msg"].lower() for d in details if d["loc"][:1] == (name,) and repr(d["input"]) == given
    )
    wrong = f"{given}: {'; or: '.join(complaints)}"
    known = [f.name for f in fields(cls)]
    if origin == "option":
        return f"--{name.replace('_', '-')} {wrong}"
    return f"{origin}: {name} = {wrong}" if name in known else f"{origin}: unknown key {name!r}; {nearest(name, known)}"


def read_toml(path: Path, cls: type[DataclassInstance]) -> dict[str, Any]:
    """Values for fields of ``cls`` from a TOML file, checked as far as they go.

    Args:
        path: The file; its keys are the options' names with ``_`` or ``-``.
        cls: The dataclass of options that the keys belong to.

    Returns:
        Field name to value, tuples and paths as such.

    Raises:
        ConfigError: If the file is not there, too large, not TOML, or holds an unknown key or a wrong value.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path} is larger than 16 KiB: this is no file of settings")
        text = path.read_text(encoding="utf-8")
        if _DEEP.search(text):
            raise ConfigError(f"{path} has keys of more than 32 parts: this is no file of settings")
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, numbers of thousands of digits
        raise ConfigError(f"{path} is not TOML: {error}") from None
    values = {key.replace("-", "_"): value for key, value in values.items()}
    options = checked(cls, values, origin=str(path))
    return {name: getattr(options, name) for name in values}

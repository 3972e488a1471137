"""The surface of the package: sorted, complete, resolvable, documented."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import deepprobe

PACKAGE = Path(deepprobe.__file__).parent
PROMISED = {
    "create_model", "load_dataset", "train", "TrainConfig", "capture", "Probe", "spectra", "condition_numbers",
    "ProbeCallback", "open_run", "write_report", "gradient_signal", "weight_spectra", "weight_table",
    "GradientCallback", "WeightCallback", "UpdateCallback", "InFlightCallback",
}  # fmt: skip


def test_names_are_sorted_and_complete() -> None:
    assert deepprobe.__all__ == sorted(set(deepprobe.__all__))
    assert set(deepprobe.__all__) >= PROMISED
    assert set(deepprobe.__all__) == set(deepprobe._HOME)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {a.name: n.module for n in guarded.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == deepprobe._HOME


@pytest.mark.parametrize("name", deepprobe.__all__)
def test_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(deepprobe, name)
    assert callable(value)
    first_line = (inspect.getdoc(value) or "").partition("\n")[0]
    assert len(first_line) >= 20, f"{name} has no docstring"
    assert value.__name__ == name


def test_no_name_is_a_room() -> None:
    rooms = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    assert rooms & set(deepprobe.__all__) == set()
    assert set(deepprobe._ROOMS) <= rooms


def test_rooms_are_attributes() -> None:
    assert inspect.ismodule(deepprobe.records)
    assert {*deepprobe.__all__, *deepprobe._ROOMS} <= set(dir(deepprobe))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'deepprobe' has no attribute 'condition_number'$"):
        _ = deepprobe.condition_number

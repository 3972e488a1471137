"""Rooms import only from strictly lower levels, and some rooms never see torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deepprobe"

LEVELS = {
    "errors": -1,  # every room may raise them
    "records": 0, "seeding": 0, "distributed": 0, "extras": 0,
    "linalg": 1, "models": 1, "data": 1, "runs": 1,
    "hooks": 2, "measures": 2,
    "probes": 3, "training": 3, "attribution": 3,
    "reports": 4, "pruning": 4, "diagnosis": 4,
    "integrations": 5,
    "cli": 6, "__main__": 7,
}  # fmt: skip
WITHOUT_TORCH = {"records", "errors", "runs", "reports"}
UNKNOWN_TO = {"training": {"models", "data"}}


def imported(source: str, module: str) -> set[str]:
    """Absolute dotted names that a module imports, those for type checkers included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            parent = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names |= {f"{parent}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str:
    """``linalg`` of ``deepprobe.linalg.qr``; ``deepprobe`` itself has no room."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def violation(module: str, name: str) -> str | None:
    """What is wrong with one import, or None."""
    here = room_of(module)
    if name.split(".")[0] == "torch" and here in WITHOUT_TORCH:
        return f"{module} imports {name}, but {here} never imports torch"
    if name.split(".")[0] != "deepprobe":
        return None
    there = room_of(name)
    if there == here:
        return None
    if there not in LEVELS:
        return f"{module} imports {name}, which is in no room"
    if LEVELS[there] >= LEVELS[here]:
        return f"{module} (level {LEVELS[here]}) imports {name} (level {LEVELS[there]})"
    if there in UNKNOWN_TO.get(here, set()):
        return f"{module} imports {name}, but {here} does not know {there}"
    return None


def violations(sources: dict[str, str]) -> list[str]:
    """Every import that breaks a rule, from a mapping of module name to source."""
    found = [violation(m, name) for m, text in sources.items() if room_of(m) for name in sorted(imported(text, m))]
    return [v for v in found if v]


def sources_of(package: Path) -> dict[str, str]:
    """Module name (``deepprobe.room.file``, with ``__init__`` kept) to source."""
    return {
        ".".join(["deepprobe", *path.relative_to(package).with_suffix("").parts]): path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*.py"))
    }


def test_every_import_goes_down() -> None:
    sources = sources_of(PACKAGE)
    sources.pop("deepprobe.__init__")  # only names things
    assert {room_of(m) for m in sources} <= set(LEVELS), "a room that stands on no level"
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("deepprobe.linalg.qr", "import deepprobe.probes.x", "(level 1) imports deepprobe.probes.x (level 3)"),
        ("deepprobe.hooks.capture", "from deepprobe.measures import units", "(level 2) imports deepprobe.measures"),
        ("deepprobe.models.zoo", "from ..data import load_dataset", "imports deepprobe.data.load_dataset (level 1)"),
        ("deepprobe.runs.store", "def f():\n    import torch.nn", "but runs never imports torch"),
        ("deepprobe.training.loop", "from deepprobe.models import create_model", "training does not know models"),
        ("deepprobe.linalg.qr", "from deepprobe import spectra", "which is in no room"),
        ("deepprobe.records.frame", "if TYPE_CHECKING:\n    from deepprobe.runs import Run", "(level 0) imports"),
    ],
)  # fmt: skip
def test_a_climbing_import_is_found(module: str, source: str, expected: str) -> None:
    found = violations({module: source})
    assert len(found) == 1
    assert expected in found[0]


def test_imports_within_a_room_and_downwards_are_allowed() -> None:
    source = "from deepprobe.linalg.qr import fold\nfrom .gram import Gram\nfrom deepprobe.errors import ShapeError"
    assert violations({"deepprobe.linalg.svd": source}) == []

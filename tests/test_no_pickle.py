"""No pickle is ever read back: a look at every call in the package, the analyses and the benchmarks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
RESTRICTED = "deepprobe/data/"
"""Only here may ``pickle`` be imported, by files whose Unpickler decides what it finds."""
PROCESSES = {"deepprobe/integrations/engines/local.py": "joblib.externals.loky"}
"""What hands tasks to processes that it starts itself, through a pipe, and reads no file."""


def dotted(node: ast.expr) -> str:
    """``torch.load`` of the expression, or an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def call_fault(node: ast.Call) -> str | None:
    """What is wrong with one call, or None."""
    name = dotted(node.func)
    constant = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
    if name == "torch.load" and constant.get("weights_only") is not True:
        return "torch.load without weights_only=True"
    if name.endswith("read_pickle") or name in {"torch.hub.load", "pickle.load", "pickle.loads"}:
        return f"{name} executes what it reads"
    if any(k.arg == "allow_pickle" for k in node.keywords) and constant.get("allow_pickle") is not False:
        return f"{name} with allow_pickle"
    return None


def import_fault(node: ast.Import | ast.ImportFrom, *, restricted: bool, processes: str | None) -> str | None:
    """What is wrong with one import, or None."""
    modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    for module in modules:
        if module == processes:
            continue
        if module.split(".")[0] in MODULES and not (restricted and module == "pickle" and isinstance(node, ast.Import)):
            return f"imports {module}"
    if isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.serialization"}:
        hidden = [a.name for a in node.names if a.name == "load"]
        return "imports torch's load under a bare name" if hidden else None
    return None


def is_restricted(path: str, tree: ast.Module) -> bool:
    """Whether the file reads foreign pickles through an Unpickler of its own that overrides find_class."""
    if not path.startswith(RESTRICTED):
        return False
    own = [c for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and "pickle.Unpickler" in map(dotted, c.bases)]
    return any(isinstance(f, ast.FunctionDef) and f.name == "find_class" for c in own for f in c.body)


def faults(path: str, source: str) -> list[str]:
    """Every place in one file where a pickle could be read back."""
    tree = ast.parse(source)
    restricted = is_restricted(path, tree)
    found: list[str | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.append(call_fault(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.append(import_fault(node, restricted=restricted, processes=PROCESSES.get(path)))
    return [f"{path}: {f}" for f in found if f]


def test_nothing_reads_a_pickle() -> None:
    paths = [p for folder in ("deepprobe", "analyses", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 20
    assert [f for p in paths for f in faults(p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8"))] == []


UNPICKLER = "import pickle\nclass R(pickle.Unpickler):\n    def find_class(self, m, n):\n        raise ValueError\n"


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("deepprobe/a.py", "torch.load(p)", "torch.load without weights_only=True"),
        ("deepprobe/a.py", "torch.load(p, weights_only=flag)", "torch.load without weights_only=True"),
        ("deepprobe/a.py", "torch.load(p, weights_only=False)", "torch.load without weights_only=True"),
        ("deepprobe/a.py", "pd.read_pickle(p)", "pd.read_pickle executes what it reads"),
        ("deepprobe/a.py", "np.load(p, allow_pickle=True)", "np.load with allow_pickle"),
        ("deepprobe/a.py", "from torch import load", "imports torch's load under a bare name"),
        ("deepprobe/a.py", "from pickle import loads", "imports pickle"),
        ("deepprobe/a.py", UNPICKLER, "imports pickle"),
        ("deepprobe/a.py", "from joblib.externals.loky import ProcessPoolExecutor", "imports joblib.externals.loky"),
        ("deepprobe/integrations/engines/local.py", "from joblib import load", "imports joblib"),
        ("deepprobe/data/a.py", "import pickle", "imports pickle"),
        ("deepprobe/data/a.py", UNPICKLER + "pickle.load(f)", "pickle.load executes what it reads"),
    ],
)
def test_a_pickle_is_found(path: str, source: str, expected: str) -> None:
    assert faults(path, source) == [f"{path}: {expected}"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("deepprobe/a.py", "torch.load(p, weights_only=True, map_location='cpu')"),
        ("deepprobe/a.py", "np.load(p, allow_pickle=False)\njson.load(f)\nimport torch"),
        ("deepprobe/data/cifar.py", UNPICKLER),
        ("deepprobe/integrations/engines/local.py", "from joblib.externals.loky import ProcessPoolExecutor"),
    ],
)
def test_safe_reading_is_left_alone(path: str, source: str) -> None:
    assert faults(path, source) == []

"""A lottery-ticket experiment: a folder of runs, each one training of a seed, a round and a branch.

The folder holds ``experiment.json``, written first, and a run's folder for each training. Which training it is stands
in the run's settings, under ``lottery``: seed, round, branch, n_weights, n_kept.
"""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepprobe.errors import RunError, UnknownNameError, nearest
from deepprobe.records.frame import TIDY, UNIT, wide
from deepprobe.runs.atomic import make_folder
from deepprobe.runs.difference import difference
from deepprobe.runs.folder import open_run, state_of
from deepprobe.runs.lock import locked
from deepprobe.runs.manifest import MANIFEST, read_sealed, write_sealed
from deepprobe.runs.masks import MASKS, read_masks
from deepprobe.runs.outcome import OUTCOME, outcome
from deepprobe.runs.overlap import mask_overlap
from deepprobe.runs.run import FolderRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

EXPERIMENT = "experiment.json"
FORMAT = 1
TICKET = "ticket"
"""The branch that is trained, pruned and rewound; its round 0 is the dense network. Others are controls of a round."""
_NAME = re.compile(r"seed(\d{1,9})-round(\d{1,9})-([a-z0-9-]+)\Z")
_WHICH = ("run", "seed", "round", "branch")
RUNS = (*_WHICH, "n_weights", "n_kept", "density", "status", "path")
"""Columns of ``Experiment.runs``."""
TABLE = (*_WHICH, "density", "n_weights", "n_kept", "n_empty_layers", "status", *OUTCOME)
"""Columns of ``Experiment.table``."""
DENSITIES = (*_WHICH, "layer", "n_weights", "n_kept", "density")
"""Columns of ``Experiment.densities``."""
OVERLAP = ("round", "branch", "seed", "other_seed", "density", "other_density", "overlap", "chance")
"""Columns of ``Experiment.mask_overlap``."""


class Experiment:
    """A handle on an experiment's folder; ``create_experiment`` and ``open_experiment`` make it.

    Every frame is read anew from the disk, so it shows how far the experiment has come. A run that is just being made
    is not there yet; one that is damaged stands in ``runs`` and ``table`` as such, and in no other frame.

    Attributes:
        path: The folder.
        config: The resolved configuration.
        identity: What makes this configuration another one.
    """

    def __init__(self, path: Path) -> None:
        content = read_sealed(path / EXPERIMENT, version=FORMAT)
        config, identity = content.get("config"), content.get("identity")
        if not isinstance(config, dict) or not isinstance(identity, dict):
            raise RunError(f"{path / EXPERIMENT} is damaged: expected tables 'config' and 'identity'")
        self.path, self.config, self.identity = path, config, identity

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    def runs(self) -> pd.DataFrame:
        """One row a training, by seed and round, the ticket before its controls.

        Returns:
            Frame with the columns RUNS. ``density`` is n_kept / n_weights. ``status`` is as in ``list_runs``:
            ``complete``, ``diverged``, ``interrupted``, ``running``, ``stopped`` or ``damaged``.
        """
        return _frame([row for row, _ in self._opened()], RUNS)

    def table(self) -> pd.DataFrame:
        """The one table of the experiment, a row a training, in the order of ``runs``.

        Returns:
            Frame with the columns TABLE: which training it is, how much is kept, what came of it (``outcome`` tells
            what each of OUTCOME is). ``n_empty_layers`` counts masks that keep nothing. What is not known is NaN;
            numbers of a run that is not complete are those so far.
        """
        rows = []
        for row, run in self._opened():
            rows.append(row | {"n_empty_layers": np.nan} | dict.fromkeys(OUTCOME, np.nan))
            if run is not None:
                try:
                    rows[-1] |= outcome(run.metrics())
                    rows[-1] |= {"n_empty_layers": _n_empty(run)}
                except RunError:
                    rows[-1] |= {"status": "damaged"}
        return _frame(rows, TABLE)

    def records(self) -> pd.DataFrame:
        """Everything recorded in every run.

        Returns:
            The tidy frame, with ``branch`` and ``density`` after ``round``, and seed and round those of the experiment.
        """
        columns = [*_WHICH, "density", *(c for c in TIDY if c not in _WHICH)]
        parts = []
        for row, run in self._opened():
            if run is not None:
                with suppress(RunError):
                    parts.append(run.records().assign(**{c: row[c] for c in (*_WHICH, "density")})[columns])
        parts = [part for part in parts if len(part)]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def layers(self) -> pd.DataFrame:
        """One row a layer call, step and run: what was probed, as a run's ``layers``, with branch and density."""
        records = self.records()
        records = records[records[UNIT].isna()]
        which = records.drop_duplicates("run").set_index("run")
        table = wide(records)
        own = {name: table["run"].map(which[name]) for name in ("branch", "density")}
        order = [*_WHICH, "density", *(c for c in table.columns if c not in _WHICH)]
        return table.assign(**own)[order]

    def densities(self) -> pd.DataFrame:
        """Kept weights of each layer in each run, from the masks.

        Returns:
            Frame with the columns DENSITIES; ``layer`` is the parameter's name without ``.weight``; in the order of the
            network.
        """
        rows = [
            {c: row[c] for c in _WHICH}
            | {"layer": name.removesuffix(".weight"), "n_weights": m.size, "n_kept": int(np.count_nonzero(m))}
            for row, masks in self._masked()
            for name, m in masks.items()
        ]
        frame = pd.DataFrame(rows, columns=list(DENSITIES[:-1]))
        return frame.assign(density=frame["n_kept"] / frame["n_weights"])

    def masks(self, run: str) -> dict[str, NDArray[np.bool_]]:
        """Masks of a run.

        Args:
            run: Name of a run, such as "seed0-round03-ticket".

        Returns:
            Parameter name to mask, dtype bool, True where the weight is kept.

        Raises:
            UnknownNameError: If there is no such run.
            RunError: If the run or its masks are damaged, or not there yet.
        """
        names = self.runs()["run"].tolist()
        if run not in names:
            raise UnknownNameError(f"experiment {self.path} has no run {run!r}; {nearest(run, names)}")
        return read_masks(open_run(self.path / run).check(MASKS))

    def mask_overlap(self) -> pd.DataFrame:
        """Overlap of the masks of two seeds, at equal round and branch.

        Returns:
            Frame with the columns OVERLAP: ``overlap`` is intersection over union of the kept weights, ``chance`` what
            masks with as many kept weights in each layer would share if they lay at random (``overlap.mask_overlap``).
        """
        by_cell: dict[tuple[int, str], list[tuple[dict[str, Any], dict[str, NDArray[np.bool_]]]]] = {}
        for row, masks in self._masked():
            by_cell.setdefault((row["round"], row["branch"]), []).append((row, masks))
        rows = []
        for (round_, branch), found in by_cell.items():
            for (one, a), (other, b) in combinations(found, 2):
                densities = (one["density"], other["density"])
                values = (round_, branch, one["seed"], other["seed"], *densities, *mask_overlap(a, b))
                rows.append(dict(zip(OVERLAP, values, strict=True)))
        return _frame(rows, OVERLAP).sort_values(["round", "branch"], ignore_index=True, kind="stable")

    def __repr__(self) -> str:
        return f"Experiment({str(self.path)!r})"

    def _opened(self) -> list[tuple[dict[str, Any], FolderRun | None]]:
        """A row of ``runs`` and the run, None where it is damaged, for each of the experiment's runs."""
        found = [opened for path in sorted(self.path.iterdir()) if (opened := _opened(path)) is not None]
        return sorted(found, key=lambda o: (o[0]["seed"], o[0]["round"], o[0]["branch"] != TICKET, o[0]["branch"]))

    def _masked(self) -> Iterator[tuple[dict[str, Any], dict[str, NDArray[np.bool_]]]]:
        """A row of ``runs`` and the masks, for each run that has some."""
        for row, run in self._opened():
            if run is not None:
                with suppress(RunError):
                    yield row, read_masks(run.check(MASKS))


def create_experiment(out: Path | str, *, config: Mapping[str, Any], identity: Mapping[str, Any]) -> Experiment:
    """Make the folder of an experiment, or open the one that is there if it is of the same identity.

    An experiment may so be asked for again with more seeds, rounds or controls, where these are not of its identity.

    Args:
        out: The folder; made where it is missing.
        config: The resolved configuration; plain values. The one asked for last is kept.
        identity: What makes this configuration another one, defaults left out; plain values.

    Returns:
        The experiment.

    Raises:
        RunError: If the folder holds something else, or an experiment of another configuration (the message shows the
            difference); its file is damaged or cannot be written.
    """
    path = Path(out).resolve()
    make_folder(path)
    content = {"format": FORMAT, "config": dict(config), "identity": dict(identity)}
    if not (path / EXPERIMENT).exists():
        _make(path, content)
    experiment = Experiment(path)
    differs = difference(experiment.identity, identity)
    if differs:
        raise RunError(f"{path} holds an experiment of another configuration ({differs}); choose another folder")
    if difference(experiment.config, config):
        with locked(path):
            write_sealed(path / EXPERIMENT, content)
        experiment = Experiment(path)
    return experiment


def open_experiment(path: Path | str) -> Experiment:
    """Open an experiment's folder.

    Args:
        path: The folder.

    Returns:
        The experiment; its runs are looked at when asked for.

    Raises:
        RunError: If there is no such folder, it is no experiment, or its ``experiment.json`` is damaged or of a format
            that is not known.
    """
    path = Path(path).resolve()
    if not path.is_dir():
        raise RunError(f"there is no folder {path}; an experiment is a folder written by deepprobe lottery")
    if not (path / EXPERIMENT).is_file():
        hint = " (it is a run; use open_run)" if (path / MANIFEST).is_file() else ""
        raise RunError(f"{path} is no experiment: it has no {EXPERIMENT}, which deepprobe lottery writes{hint}")
    return Experiment(path)


def _opened(path: Path) -> tuple[dict[str, Any], FolderRun | None] | None:
    """Row and run of a folder, damaged ones without the run; None where the folder is none of the experiment's."""
    if not (path / MANIFEST).is_file():
        return None
    try:
        run = open_run(path)
        if not isinstance(run.config.get("lottery"), dict):
            return None
        which = run.config["lottery"]
        row: dict[str, Any] = {"run": path.name, "path": str(path), "status": state_of(run)}
        row |= {"branch": str(which["branch"])} | {
            key: int(which[key]) for key in ("seed", "round", "n_weights", "n_kept")
        }
        return row | {"density": row["n_kept"] / row["n_weights"]}, run
    except (RunError, KeyError, TypeError, ValueError, ArithmeticError):
        named = _NAME.match(path.name)
        if named is None:
            return None
        row = {"run": path.name, "path": str(path), "status": "damaged", "branch": named[3]}
        row |= {"seed": int(named[1]), "round": int(named[2])}
        return row | dict.fromkeys(("n_weights", "n_kept", "density"), np.nan), None


def _make(path: Path, content: dict[str, Any]) -> None:
    """Make a folder that holds nothing but hidden files an experiment, or leave it one that another process made."""
    with locked(path):
        found = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
        if EXPERIMENT in found:
            return
        if found:
            raise RunError(
                f"{path} is not empty and holds no experiment (there is {found[0]!r}); choose another folder"
            )
        write_sealed(path / EXPERIMENT, content)


def _n_empty(run: FolderRun) -> float:
    """How many masks keep nothing, NaN where the run has no masks yet."""
    if not run.has(MASKS):
        return float("nan")
    return float(sum(not mask.any() for mask in read_masks(run.check(MASKS)).values()))


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """Frame of rows; an empty one has the columns too."""
    return pd.DataFrame(rows, columns=list(columns))

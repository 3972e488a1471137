"""What a report is made from: tables, runs or spectra, brought into one form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from deepprobe.errors import ShapeError
from deepprobe.records.frame import KERNEL_MEASURES, LAYER_MEASURES, UNIT_COUNTS
from deepprobe.records.spectrum import MEASURES
from deepprobe.reports.words import TAPS, VIEWS, clean

REQUIRED = ("layer", "status", "condition_number")
TEXTS = ("layer", "type", "tap", "view", "dtype", "status", "reason", "centred_status", "centred_reason")
_NUMBERS = tuple(m for m in MEASURES if m != "status")
NUMBERS = (
    "depth",
    "sketched",
    "call",
    "n_rows",
    "n_features",
    *UNIT_COUNTS,
    *_NUMBERS,
    *(f"centred_{m}" for m in _NUMBERS),
)
SPECTRUM_COLUMNS = ("network", "run", "step", "depth", "layer", "call", "tap", "view", "share", "value")
METRIC_COLUMNS = ("network", "run", "seed", "step", "epoch", "split", "measure", "value")
NOT_IDENTITY = frozenset({"seed", "name", "run", "out", "device", "data_dir", "threads", "resume"})
"""Settings in which runs of one network may differ."""


@runtime_checkable
class RunLike(Protocol):
    """What a report asks of a run; ``spectra``, ``steps_probed``, ``status`` and ``message`` may be missing."""

    @property
    def name(self) -> str:
        """Name of the run."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Resolved settings."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, device, seeds, command."""

    def layers(self) -> pd.DataFrame:
        """Wide table with run, seed, step and epoch."""

    def metrics(self) -> pd.DataFrame:
        """Tidy rows of loss and accuracy."""


@dataclass(frozen=True)
class RunFacts:
    """One run: its name (unique in the report), seed, settings, provenance, status and message (empty if unknown)."""

    name: str
    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    status: str = ""
    message: str = ""


@dataclass(frozen=True, eq=False)
class Network:
    """All that is known of one network: one run, or one run a seed.

    Attributes:
        name: Shown in the report; printable, unique, not yet escaped.
        layers: Wide table of representations, one row a layer call, step and run.
        kernels: Wide table of gradients, weights and updates, one row a kernel, tap, step and run.
        metrics: Tidy rows of training, columns METRIC_COLUMNS.
        spectra: Singular values of the last step, columns SPECTRUM_COLUMNS.
        runs: The runs behind it.
        in_flight: Rows of layers that no figure shows: seen during training where the same tap and view was probed too.
    """

    name: str
    layers: pd.DataFrame
    metrics: pd.DataFrame
    spectra: pd.DataFrame
    runs: tuple[RunFacts, ...]
    kernels: pd.DataFrame = field(default_factory=pd.DataFrame)
    in_flight: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def shown(self) -> RunFacts:
        """The run that stands for the network where only one can be shown: the first whose layers were measured."""
        measured = {*self.layers["run"], *(() if self.kernels.empty else self.kernels["run"])}
        return next((r for r in self.runs if r.name in measured), self.runs[0])


def networks(source: Any) -> tuple[Network, ...]:
    """The networks of a source, runs that differ only in their seed taken together.

    Args:
        source: A wide table, a mapping of layer calls to Spectrum, a run, or a list or dict of these.

    Returns:
        One Network a model and configuration, in the order of the source.

    Raises:
        ShapeError: If a table lacks the columns REQUIRED, or source is none of the above.
    """
    groups: dict[str, list[tuple[str, Any]]] = {}
    for name, one in _named(source):
        identity = _identity(one) or f"table {name}"
        groups.setdefault(identity, []).append((name, one))
    titles = _unique(_title(members) for members in groups.values())
    runs = _unique(clean(name) for members in groups.values() for name, _ in members)
    result = []
    for title, members in zip(titles, groups.values(), strict=True):
        result.append(_network(title, [(runs.pop(0), one) for _, one in members]))
    return tuple(result)


def spectra_frame(spectra: Mapping[str, Any], *, network: str = "", run: str = "", step: float = 0) -> pd.DataFrame:
    """Singular values as a frame for ``spectra_by_depth``.

    Args:
        spectra: Mapping of layer calls to Spectrum, as ``deepprobe.spectra`` returns it.
        network: Name for the column ``network``.
        run: Name for the column ``run``.
        step: Training step.

    Returns:
        One row a singular value: ``share`` is its position i / m, ``value`` is sigma_i / sigma_1.
    """
    layers = [({**s.row(), "step": step}, s.singular_values) for s in spectra.values()]
    return _spectrum_rows(layers, network=network, run=run)


def facets(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs (tap, view) that a wide table holds: block before output before input, samples before channels."""
    found = frame[["tap", "view"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted(found, key=lambda f: (_rank(f[1], VIEWS), _rank(f[0], TAPS), f))


def facet(frame: pd.DataFrame, tap: str, view: str) -> pd.DataFrame:
    """Rows of one tap and view."""
    return frame[(frame["tap"] == tap) & (frame["view"] == view)]


def last_step(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last step of every run at which their tap and view were measured."""
    if frame.empty or "step" not in frame:
        return frame
    step = pd.to_numeric(frame["step"], errors="coerce").fillna(0)
    keys = [frame[k] for k in ("network", "run", "tap", "view") if k in frame]
    return frame[step == (step.groupby(keys, dropna=False).transform("max") if keys else step.max())]


def layer_table(table: pd.DataFrame, **point: Any) -> pd.DataFrame:
    """A wide table with every column that reports read: names printable, numbers float64, what is missing NaN.

    Args:
        table: As ``condition_numbers`` returns it, or any frame with the columns REQUIRED.
        **point: Values for columns such as ``run`` and ``step``; only for those that the table lacks.

    Raises:
        ShapeError: If a required column is missing.
    """
    if table.empty:
        table = table.reindex(columns=[*table.columns, *(c for c in REQUIRED if c not in table.columns)])
    missing = [c for c in REQUIRED if c not in table.columns]
    if missing:
        raise ShapeError(
            f"table lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"a report needs {', '.join(REQUIRED)}, as deepprobe.condition_numbers returns them"
        )
    columns: dict[str, Any] = {}
    for name in NUMBERS:
        raw = table[name] if name in table.columns else pd.Series(np.nan, index=table.index)
        columns[name] = pd.to_numeric(raw, errors="coerce").astype("float64")
    for name in TEXTS:
        raw = table[name] if name in table.columns else pd.Series("", index=table.index)
        columns[name] = raw.astype(object).where(raw.notna(), "").map(clean).astype(object)
    frame = pd.DataFrame(columns, index=table.index)
    if "depth" not in table.columns:
        frame["depth"] = np.arange(1.0, len(frame) + 1)
    frame["depth"] = frame["depth"].fillna(0.0)
    for name in ("network", "run", "seed", "step", "epoch"):
        value = table[name] if name in table.columns and name not in point else point.get(name, np.nan)
        frame[name] = value
    for name in ("network", "run"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), "").map(clean).astype(object)
    for name in ("step", "epoch"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    frame["step"] = frame["step"].fillna(0.0)
    return frame.reset_index(drop=True)


def kernel_table(table: pd.DataFrame, **point: Any) -> pd.DataFrame:
    """As ``layer_table``, of the rows of kernels (view ``kernel``): with KERNEL_MEASURES, none where there are none."""
    table = table.reindex(columns=[*table.columns, *(c for c in REQUIRED if c not in table.columns)])
    frame = layer_table(table, **point)
    for name in KERNEL_MEASURES:
        raw = table[name] if name in table.columns else pd.Series(np.nan, index=table.index)
        frame[name] = pd.to_numeric(raw, errors="coerce").astype("float64").to_numpy()
    return frame


def of_kernels(table: pd.DataFrame) -> pd.Series:
    """Which rows are of kernels and not of representations."""
    return table["view"] == "kernel" if "view" in table.columns else pd.Series(False, index=table.index)


def _without_spectrum(table: pd.DataFrame) -> pd.Series:
    """Which rows have measures of a layer and no spectrum: Jacobians and the like, which have figures of their own."""
    measured = table.reindex(columns=list(LAYER_MEASURES)).notna().any(axis=1)
    return measured & table.reindex(columns=["status"])["status"].isna()


def _of_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of representations; of a tap and view that was probed, without those that were seen in flight."""
    return _parted(table)[0]


def _parted(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of representations: those to show, and those seen in flight of a tap and view that was probed too."""
    rows = table[~of_kernels(table) & ~_without_spectrum(table)]
    if not {"split", "tap", "view"} <= set(rows.columns):
        return rows, rows.iloc[:0]
    in_flight = (rows["split"] == "train").to_numpy(dtype=bool)
    places = list(zip(rows["tap"], rows["view"], strict=True))
    probed = {place for place, flying in zip(places, in_flight, strict=True) if not flying}
    kept = ~in_flight | np.array([place not in probed for place in places], dtype=bool)
    return rows.loc[kept], rows.loc[~kept]


def _named(source: Any) -> list[tuple[str, Any]]:
    """(name, table or run) of every member of a source."""
    if isinstance(source, pd.DataFrame):
        return _split_by_network(source)
    if isinstance(source, RunLike):
        return [(source.name, source)]
    if isinstance(source, Mapping):
        if source and all(hasattr(s, "singular_values") for s in source.values()):
            return [("network", source)]
        return [(str(name), one) for name, one in source.items()]
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return [
            (one.name if isinstance(one, RunLike) else f"network {i}", one) for i, one in enumerate(source, start=1)
        ]
    words = f"a report is made from tables of condition_numbers and runs, not from {type(source).__name__}"
    if hasattr(source, "findings"):
        words += "; deepprobe.reports.write_diagnosis(diagnosis, path) writes the page of a diagnosis"
    raise ShapeError(words)


def _split_by_network(table: pd.DataFrame) -> list[tuple[str, Any]]:
    """One table a network where the table has such a column, else the table as it is."""
    if "network" not in table.columns or table.empty:
        return [("network", table)]
    return [(str(name), part) for name, part in table.groupby("network", sort=False, dropna=False)]


def _identity(one: Any) -> str:
    """What runs of one network have in common; empty where that is unknown."""
    config = getattr(one, "config", None)
    if not isinstance(config, Mapping) or not config:
        return ""
    return json.dumps(_without(config), sort_keys=True, default=str)


def _without(config: Mapping[str, Any], *, dropped: frozenset[str] = NOT_IDENTITY) -> dict[str, Any]:
    """Settings without those in which runs of one network may differ."""
    inner = frozenset({"seed", "device"})
    return {
        str(k): _without(v, dropped=inner) if isinstance(v, Mapping) else v
        for k, v in config.items()
        if k not in dropped
    }


def model_name(config: Mapping[str, Any]) -> str:
    """Name of the model in a run's settings, or nothing."""
    model = config.get("model", "")
    if isinstance(model, Mapping):
        model = model.get("name", "")
    return model if isinstance(model, str) else ""


def _title(members: Sequence[tuple[str, Any]]) -> str:
    """Name of a network: its model's name, else that of its first run."""
    config = getattr(members[0][1], "config", None)
    return clean((model_name(config) if isinstance(config, Mapping) else "") or members[0][0])


def _unique(names: Iterable[str]) -> list[str]:
    """Names, the second of equal ones numbered."""
    result: list[str] = []
    for name in names:
        count, candidate = 1, name
        while candidate in result:
            count += 1
            candidate = f"{name} ({count})"
        result.append(candidate)
    return result


def _network(title: str, members: Sequence[tuple[str, Any]]) -> Network:
    """One network from its runs or tables."""
    parts: list[pd.DataFrame] = []
    kernels: list[pd.DataFrame] = []
    metrics: list[pd.DataFrame] = []
    spectra: list[pd.DataFrame] = []
    flying: list[pd.DataFrame] = []
    runs: list[RunFacts] = []
    for name, one in members:
        point: dict[str, Any] = {"network": title, "run": name}
        if isinstance(one, pd.DataFrame):
            raw = one
            point = point if "run" not in one.columns else {"network": title}
            named = [clean(n) for n in one["run"].dropna().unique()] if "run" in one.columns else []
            runs.extend(RunFacts(n) for n in named or [name])
        elif isinstance(one, Mapping):
            raw = pd.DataFrame([s.row() for s in one.values()])
            spectra.append(spectra_frame(one, network=title, run=name))
            runs.append(RunFacts(name))
        elif isinstance(one, RunLike):
            facts = RunFacts(name, _seed(one), one.config, one.provenance, *_ending(one))
            raw = one.layers()
            metrics.append(_metric_rows(one.metrics(), **point, seed=facts.seed))
            if not any(len(s) for s in spectra):  # one run's spectra are shown
                spectra.append(_run_spectra(one, raw, **point))
            runs.append(facts)
            point |= {"seed": facts.seed}
        else:
            raise ShapeError(
                f"a report is made from tables of condition_numbers and runs; {name!r} is a {type(one).__name__}"
            )
        shown, aside = _parted(raw)
        parts.append(layer_table(shown, **point))
        flying.append(aside)
        kernels.append(kernel_table(raw[of_kernels(raw)], **point))
    table = _joined(parts, parts[0].columns)
    return Network(
        title, table, _joined(metrics, METRIC_COLUMNS), _joined(spectra, SPECTRUM_COLUMNS), tuple(runs),
        _joined(kernels, kernels[0].columns), _joined(flying, ()),
    )  # fmt: skip


def _ending(run: Any) -> tuple[str, str]:
    """Status and message of a run, empty where it has none."""
    return str(getattr(run, "status", "")), str(getattr(run, "message", ""))


def _seed(run: Any) -> int | None:
    """Seed of a run, wherever its settings or provenance say it."""
    for place in (run.config, run.provenance):
        for value in (place, *(v for v in place.values() if isinstance(v, Mapping))):
            if isinstance(value.get("seed"), int):
                return int(value["seed"])
    return None


def _metric_rows(frame: pd.DataFrame, **point: Any) -> pd.DataFrame:
    """Training metrics with the columns METRIC_COLUMNS."""
    rows = frame.reindex(columns=list(METRIC_COLUMNS)).assign(**point)
    for name in ("step", "epoch", "value"):
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype("float64")
    for name in ("split", "measure"):
        rows[name] = rows[name].astype(object).where(rows[name].notna(), "").map(clean).astype(object)
    return rows


def _run_spectra(one: Any, layers: pd.DataFrame, **point: Any) -> pd.DataFrame:
    """Singular values that a run stored at its last probed step; none where it stored none."""
    steps = list(one.steps_probed()) if hasattr(one, "steps_probed") and hasattr(one, "spectra") else []
    if not steps or layers.empty:
        return pd.DataFrame(columns=list(SPECTRUM_COLUMNS))
    shown = pd.concat([_of_layers(layers), layers[of_kernels(layers)]])
    at = pd.to_numeric(shown["step"], errors="coerce")
    measured = set(at[~of_kernels(shown)])  # weights may have been read later
    step = max((s for s in steps if float(s) in measured), default=steps[-1])
    stored = one.spectra(step)
    records: list[dict[str, Any]] = [{str(k): v for k, v in r.items()} for r in shown[at == step].to_dict("records")]
    found = [(row, _stored_values(stored, row)) for row in records]
    return _spectrum_rows([(row, values) for row, values in found if values is not None], **point)


def _stored_values(stored: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    """Singular values of a row among those stored, or None."""
    layer, call, tap, view = str(row["layer"]), int(row.get("call", 1) or 1), row["tap"], row["view"]
    key = layer if call == 1 else f"{layer}#{call}"
    if row.get("split") == "train":
        return stored.get(f"train/{tap}/{view}/{key}")
    for name in (f"{tap}/{view}/{key}", f"{key}/{tap}/{view}", key):
        if name in stored:
            value = stored[name]
            value = value["singular_values"] if isinstance(value, Mapping) else value
            return getattr(value, "singular_values", value)
    return None


def _spectrum_rows(layers: Sequence[tuple[dict[str, Any], Any]], **point: Any) -> pd.DataFrame:
    """One row a singular value, of layer calls with their singular values; layers of zeros have none."""
    sigmas = [np.asarray(values, dtype=np.float64).ravel() for _, values in layers]
    kept = [(row, s) for (row, _), s in zip(layers, sigmas, strict=True) if len(s) and s[0] > 0]
    if not kept:
        return pd.DataFrame(columns=list(SPECTRUM_COLUMNS))
    lengths = [len(s) for _, s in kept]
    columns = {
        name: np.repeat(pd.Series([row.get(name, "") for row, _ in kept]).to_numpy(), lengths)
        for name in ("step", "depth", "layer", "call", "tap", "view")
    }
    frame = pd.DataFrame(columns).assign(**point)
    frame["share"] = np.concatenate([np.arange(1, n + 1) / n for n in lengths])
    frame["value"] = np.concatenate([s / s[0] for _, s in kept])
    return frame[list(SPECTRUM_COLUMNS)]


def _joined(parts: Iterable[pd.DataFrame], columns: Iterable[str]) -> pd.DataFrame:
    """Parts with rows one below the other; an empty frame with the columns where none has any."""
    full = [p for p in parts if len(p)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=list(columns))


def _rank(word: str, known: Mapping[str, str]) -> int:
    """Place of a word in a known order, after all others if it is none of them."""
    names = list(known)
    return names.index(word) if word in names else len(names)

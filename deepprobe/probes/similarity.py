"""How alike the layers of one network are, or those of two, on the same samples."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.attach import attached
from deepprobe.hooks.passes import as_batches, device_of, evaluating, moved, n_samples, run
from deepprobe.hooks.select import select_layers
from deepprobe.linalg.matricize import blocks
from deepprobe.linalg.transfer import fetched
from deepprobe.measures.similarity import STATUSES, Covariances, Grams, gram, linear_cka, principal_angles
from deepprobe.records.spectrum import UNIT_ROUNDOFF

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from deepprobe.hooks.select import LayerSelection
    from deepprobe.measures.similarity import Directions, Products
    from deepprobe.records.layer import LayerCall

SAMPLE_VIEWS = ("pooled", "samples")
"""Views with a row a sample, so that rows of different layers belong together."""

WIDEST = 4096
"""Features of all layers together up to which their products are summed up: 134 MB."""

Estimator = Literal["auto", "exact", "minibatch"]


def similarity(
    model_a: nn.Module,
    batches: Iterable[Any],
    model_b: nn.Module | None = None,
    *,
    layers: LayerSelection = None,
    tap: str = "input",
    view: str = "pooled",
    measure: str = "cka",
    estimator: Estimator = "auto",
    directions: int = 5,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Similarity between all layers of a model, or between those of two: of epochs, seeds, or a ticket and its origin.

    Both models run as in ``deepprobe.spectra``, one forward pass a batch, on the same samples. For two checkpoints of a
    run pass ``load_model(path, step=…)`` twice.

    Args:
        model_a: Any module; wrappers are looked through.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts, in any order that is the same for all.
        model_b: The other model, whose layers become the columns; by default ``model_a`` itself.
        layers: Which layers, of both, as in ``deepprobe.spectra``.
        tap: ``input`` (what weighted layers receive, after the non-linearity before), ``output`` or ``block``.
        view: ``pooled`` (means over positions) or ``samples`` (all units at all positions).
        measure: ``cka``, linear centred kernel alignment (Kornblith et al. 2019), or ``angles`` between the subspaces
            of samples that the leading principal directions span (as in SVCCA, Raghu et al. 2017).
        estimator: ``exact``: products of features are summed up, which takes 8 (Σd)² bytes, up to 4,096 features of all
            layers together; beyond, all samples must come in one batch of n, which takes 16 n² bytes a layer.
            ``minibatch``: the unbiased estimate averaged over batches (Nguyen et al. 2021), 16 n² bytes a layer with n
            samples a batch. ``auto``: exact where that can be, else minibatch.
        directions: Leading directions whose span is compared, for ``angles``.
        device: Where to run; by default where each model is.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        One row a pair: ``layer_a depth_a call_a type_a n_features_a``, the same with ``_b``, ``tap view n_rows
        estimator status``, and ``cka`` (0 … 1; the unbiased estimate may be a little below 0), or ``angle_mean`` and
        ``angle_max`` in radian, ``overlap`` (mean squared cosine) and ``n_directions``, fewer than asked for where a
        layer has no more above its dtype's rounding. ``status`` is ``finite``; ``constant`` where a layer's samples
        differ by no more than rounding (a dead layer), and ``nonfinite``, which both leave the numbers NaN.

    Raises:
        ConfigError: If ``tap``, ``view``, ``measure``, ``estimator`` or ``directions`` is impossible, or what was asked
            for needs fewer features or a single batch.
        UnknownNameError: If ``layers`` matches nothing in one of the models.
        ShapeError: If there is no batch, or too few samples, a layer has not one row a sample, or layers are called in
            some batches only.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
        >>> _ = torch.nn.init.orthogonal_(model[0].weight)
        >>> found = similarity(model, torch.randn(64, 3))
        >>> found["cka"].round(6).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    _check(view, measure, estimator, directions)
    sides = [model_a] if model_b is None else [model_a, model_b]
    watches = [_Watch(select_layers(model, layers, tap=tap), tap, view) for model in sides]
    gathering = _Gathering(view, measure, estimator)
    bar = tqdm(desc="similarity", unit="batch", delay=2, leave=False, disable=None if progress else True)
    with ExitStack() as stack:
        stack.enter_context(bar)
        networks = [stack.enter_context(evaluating(model, device=device)) for model in sides]
        for network, watch in zip(networks, watches, strict=True):
            stack.enter_context(attached(network, watch.chosen, tap=tap, on_tensor=watch.take))
        nonempty = (batch for batch in as_batches(batches) if n_samples(batch))
        held = next(nonempty, None)
        while held is not None:
            following = next(nonempty, None)
            gathering.only = gathering.only and following is None
            for watch in watches:  # all before the first pass: both models may be one
                watch.start(n_samples(held), as_grams=gathering.takes_grams)
            for network in networks:
                run(network, moved(held, device_of(network)))
            gathering.take([part for watch in watches for part in watch.parts(networks[0])])
            held = following
            bar.update()
    return gathering.table(watches, tap=tap, directions=directions)


def _check(view: str, measure: str, estimator: str, directions: int) -> None:
    """ConfigError for what cannot be."""
    if view not in SAMPLE_VIEWS:
        raise ConfigError(f"view={view!r} has not one row a sample: choose one of {', '.join(SAMPLE_VIEWS)}")
    if measure not in {"cka", "angles"}:
        raise ConfigError(f"measure={measure!r} is neither 'cka' nor 'angles'")
    if estimator not in {"auto", "exact", "minibatch"}:
        raise ConfigError(f"estimator={estimator!r} is none of 'auto', 'exact', 'minibatch'")
    if measure == "angles" and estimator == "minibatch":
        raise ConfigError("estimator='minibatch' has no angles: it never sees samples of two batches together")
    if not isinstance(directions, int) or isinstance(directions, bool) or directions < 1:
        raise ConfigError(f"directions={directions!r} is not a number of directions, at least 1")


class _Watch:
    """What the layers of one model gave for the batch under way, and what they are."""

    def __init__(self, chosen: Mapping[str, nn.Module], tap: str, view: str) -> None:
        self.chosen = chosen
        self.calls: dict[str, tuple[LayerCall, int, str]] = {}
        self._tap, self._view = tap, view
        self._n, self._as_grams = 0, False
        self._now: dict[str, Any] = {}

    def start(self, n: int, *, as_grams: bool) -> None:
        """A batch of n samples follows."""
        self._n, self._as_grams = n, as_grams
        self._now.clear()

    def take(self, call: LayerCall, tensor: Tensor) -> None:
        """Take what one hook saw: products of its rows at once, or a copy of them where they are few."""
        rows = blocks(tensor.detach(), self._view).flatten(1)
        if len(rows) != self._n:
            raise ShapeError(
                f"layer {call.key!r} has {len(rows)} rows for {self._n} samples at tap={self._tap!r}: similarity needs "
                "one row a sample; choose other layers"
            )
        known = self.calls.setdefault(call.key, (call, rows.shape[1], str(tensor.dtype).removeprefix("torch.")))
        if known[1] != rows.shape[1]:
            raise ShapeError(f"layer {call.key!r} had {known[1]} features and now has {rows.shape[1]}")
        self._now[call.key] = gram(rows) if self._as_grams or rows.shape[1] > WIDEST else rows.clone()

    def parts(self, beside: nn.Module) -> list[Any]:
        """What was taken of all layers, on the device of the first model."""
        if self._now.keys() != self.calls.keys():
            missing = next(key for key in self.calls if key not in self._now)
            raise ShapeError(f"layer {missing!r} was called in some batches only: its rows would not be the others'")
        here = device_of(beside)
        return [
            tuple(p.to(here) for p in part) if isinstance(part, tuple) else part.to(here) for part in self._now.values()
        ]


class _Gathering:
    """Sums over batches, by the estimator that fits."""

    def __init__(self, view: str, measure: str, estimator: Estimator) -> None:
        self.only = True
        self._view, self._measure, self._estimator = view, measure, estimator
        self._sums: Covariances | Grams | None = None

    @property
    def takes_grams(self) -> bool:
        """Whether layers are to give products of rows, not rows."""
        return isinstance(self._sums, Grams) if self._sums is not None else self._estimator == "minibatch"

    def take(self, parts: list[Any]) -> None:
        """Take one batch: rows, or products of rows, of every layer."""
        if not parts:
            raise ShapeError("no chosen layer saw a floating-point tensor: the forward pass does not call them")
        if self._sums is None:
            self._sums = self._start(parts)
        if isinstance(self._sums, Covariances):
            self._sums.update(parts)
            return
        if not (self._sums.unbiased or self.only):
            raise ConfigError(
                f"the layers have more than {WIDEST:,} features together at view={self._view!r}, so that "
                f"{'angles need' if self._measure == 'angles' else 'the exact estimate needs'} all samples in one "
                "batch: pass one batch, fewer layers or view='pooled', or, for CKA, estimator='minibatch'"
            )
        self._sums.update([part if isinstance(part, tuple) else gram(part) for part in parts])

    def _start(self, parts: list[Any]) -> Covariances | Grams:
        """The sums that fit the first batch."""
        if all(isinstance(part, torch.Tensor) for part in parts) and sum(part.shape[1] for part in parts) <= WIDEST:
            return Covariances([part.shape[1] for part in parts])
        exact = self._estimator == "exact" or self._measure == "angles" or (self._estimator == "auto" and self.only)
        return Grams(unbiased=not exact)

    def table(self, watches: list[_Watch], *, tap: str, directions: int) -> pd.DataFrame:
        """One row a pair of layers."""
        if self._sums is None:
            raise ShapeError("batches holds no samples: every batch was empty, or there was none")
        (copies,) = fetched([self._sums.tensors()])
        if not copies or self._sums.n_rows < 2:
            raise ShapeError(
                "similarity needs two samples at least, and four in a batch where it is estimated by batches"
            )
        found = self._sums.products(copies)
        calls = [cell for watch in watches for cell in watch.calls.values()]
        roundoff = [UNIT_ROUNDOFF[dtype] for *_, dtype in calls]
        rows = range(len(watches[0].calls))
        columns = range(len(calls))[-len(watches[-1].calls) :]
        pairs = [(i, j) for i in rows for j in columns]
        estimator = "minibatch" if isinstance(self._sums, Grams) and self._sums.unbiased else "exact"
        table = _pairs(calls, pairs, found.statuses(roundoff)).assign(
            tap=tap, view=self._view, n_rows=found.n_rows, estimator=estimator
        )
        finite = (table["status"] == "finite").to_numpy()
        if self._measure == "cka":
            cka = linear_cka(found)
            return table.assign(cka=np.where(finite, [cka[i, j] for i, j in pairs], np.nan))
        leading = (
            self._sums.directions(copies, directions)
            if isinstance(self._sums, Covariances)
            else self._sums.directions(directions)
        )
        return table.assign(**_angles(leading, found, pairs, roundoff))


def _pairs(calls: list[tuple[LayerCall, int, str]], pairs: list[tuple[int, int]], statuses: list[str]) -> pd.DataFrame:
    """What each pair is of."""
    columns: dict[str, list[Any]] = {}
    for side, which in (("a", [i for i, _ in pairs]), ("b", [j for _, j in pairs])):
        columns |= {
            f"layer_{side}": [calls[i][0].layer for i in which], f"depth_{side}": [calls[i][0].depth for i in which],
            f"call_{side}": [calls[i][0].call for i in which], f"type_{side}": [calls[i][0].type for i in which],
            f"n_features_{side}": [calls[i][1] for i in which],
        }  # fmt: skip
    columns["status"] = [min(statuses[i], statuses[j], key=STATUSES.index) for i, j in pairs]
    return pd.DataFrame(columns)


def _angles(
    leading: Directions, found: Products, pairs: list[tuple[int, int]], roundoff: list[float]
) -> dict[str, Any]:
    """Angles of each pair, over the directions that both layers have above rounding."""
    with np.errstate(invalid="ignore"):
        above = leading.values > (np.square(roundoff) * found.total)[:, None]
    counts = above.sum(1)
    common = [int(min(counts[i], counts[j])) for i, j in pairs]
    angles = [principal_angles(leading, i, j, count=k) for (i, j), k in zip(pairs, common, strict=True)]
    return {
        "angle_mean": [a.mean() if len(a) else np.nan for a in angles],
        "angle_max": [a.max() if len(a) else np.nan for a in angles],
        "overlap": [np.mean(np.cos(a) ** 2) if len(a) else np.nan for a in angles],
        "n_directions": common,
    }

"""The probe: attached to a model, it turns what passes through chosen layers into spectra, and keeps no activation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal

import pandas as pd
from threadpoolctl import ThreadpoolController

from deepprobe.errors import ConfigError
from deepprobe.hooks.attach import ForwardState, attached
from deepprobe.hooks.select import LayerSelection, rank_limit, select_layers
from deepprobe.linalg.matricize import RESAMPLED_VIEWS, SHUFFLED_VIEWS, check_view
from deepprobe.probes.cell import Cell, Reading, cell_for
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor, nn

    from deepprobe.records.layer import LayerCall
    from deepprobe.records.spectrum import Spectrum

METHODS = ("qr", "gram")


class Probe:
    """Watches the chosen layers of a model while people run their own loop.

    Hooks are set on entering the context (before ``torch.compile``, if the compiled model is to be watched) and removed
    on leaving it, whatever happens. Outside ``recording()`` each costs one test. Rows of different training steps
    belong to different networks: call ``reset()`` between them.

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        layers: Glob, class, predicate, or several; by default every layer with weights, or for ``block`` every block.
        tap: ``input``, ``output`` or ``block``.
        view: ``samples``, ``channels``, ``pooled``, ``hosvd1`` … ``hosvd3`` or ``tokens``.
        rows: ``"all"``, or how many random positions a sample to use in the ``channels`` and ``tokens`` views.
        seed: Of the random positions and of the permutations.
        count_units: Count dead, constant and rare units over all rows; False leaves that to the rows used.
        certify: Settle layers that come out singular at precision by exact ranks.
        method: ``"qr"`` or ``"gram"``.
        error_groups: Groups of samples, typically 16, for the jackknife's standard error of log10 κ over live units, in
            the views ``channels``, ``pooled`` and ``tokens``; 0 for none.
        shuffled_null: Also give κ of the same rows after each unit's maps were permuted over the samples of a batch, in
            the views ``channels`` and ``pooled``.
        compilable: Whether the model may be compiled while the probe is attached; False saves importing the compiler.

    Raises:
        ConfigError: If an argument has an impossible value.
        UnknownNameError: If ``layers`` matches nothing.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> with Probe(model, tap="input") as probe:
        ...     for step in range(3):
        ...         with probe.recording():
        ...             _ = model(torch.randn(32, 8))
        >>> probe.table()[["layer", "n_rows"]].values.tolist()
        [['0', 96], ['2', 96]]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: LayerSelection = None,
        tap: str = "output",
        view: str = "channels",
        rows: int | Literal["all"] = "all",
        seed: int = 0,
        count_units: bool = True,
        certify: bool = False,
        method: str = "qr",
        error_groups: int = 0,
        shuffled_null: bool = False,
        compilable: bool = True,
    ) -> None:
        if not (rows == "all" or (isinstance(rows, int) and not isinstance(rows, bool) and rows > 0)):
            raise ConfigError(f"rows={rows!r} is neither 'all' nor a number of positions, at least 1")
        if method not in METHODS:
            raise ConfigError(f"method={method!r} is not one of {', '.join(METHODS)}")
        self._model, self._tap, self._seed, self._compilable = model, tap, seed, compilable
        self.layers = select_layers(model, layers, tap=tap)
        _check_resampling(check_view(view), error_groups, shuffled_null=shuffled_null)
        positions = None if rows == "all" else rows
        self._reading = Reading(view, positions, method, count_units, certify, error_groups, shuffled_null)
        self._cells: dict[str, tuple[LayerCall, Cell]] = {}
        self._stack = ExitStack()
        self._state: ForwardState | None = None
        self._last = False

    def __enter__(self) -> Probe:
        """Set the hooks; nothing is recorded yet."""
        attachment = attached(
            self._model, self.layers, tap=self._tap, on_tensor=self._take, compilable=self._compilable
        )
        self._state = self._stack.enter_context(attachment)
        self._state.active = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove every hook."""
        self._stack.close()
        self._state = None

    @contextmanager
    def recording(self, *, last: bool = False) -> Iterator[None]:
        """Record the forward passes inside.

        Args:
            last: No more rows will come after these: wide layers are reduced at once instead of kept.

        Raises:
            ConfigError: If the probe is not attached.
        """
        if self._state is None:
            raise ConfigError("the probe is not attached: use it as a context manager, `with Probe(model) as probe:`")
        self._state.reset()
        self._state.active, self._last = True, last
        try:
            with one_blas_thread():
                yield
                self._settle()
        finally:
            if self._state is not None:
                self._state.active = False

    def reset(self) -> None:
        """Forget all rows: what follows belongs to another network."""
        self._cells.clear()

    def spectra(self, *, floors: dict[str, float] | None = None) -> dict[str, Spectrum]:
        """Spectrum of each layer call, in depth order.

        Args:
            floors: Measured floors a row by layer call, from ``replay.measured_floors``.

        Returns:
            From layer call (``"conv1"``, ``"relu#2"``) to its spectrum.
        """
        floors = floors or {}
        ordered = sorted(self._cells.items(), key=lambda item: (item[1][0].depth, item[1][0].order))
        cells = {key: cell for key, (_, cell) in ordered}
        with one_blas_thread(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            found = pool.map(lambda key: cells[key].spectrum(floor_a_row=floors.get(key, float("nan"))), cells)
            return dict(zip(cells, found, strict=True))

    def table(self) -> pd.DataFrame:
        """One row a layer call, in depth order; the columns of ``condition_numbers``."""
        return pd.DataFrame([spectrum.row() for spectrum in self.spectra().values()])

    def _take(self, call: LayerCall, tensor: Tensor) -> None:
        """Take what one hook saw."""
        known = self._cells.get(call.key)
        if known is None:
            module = self.layers.get(call.layer)
            limit = (
                (None, False) if module is None else rank_limit(module, self._tap, self._reading.view, axes=tensor.ndim)
            )
            cell = cell_for(call, tensor, reading=self._reading, limit=limit, seed=derive_seed(self._seed, call.key))
            known = self._cells[call.key] = (call, cell)
        known[1].update(tensor, last=self._last)

    def _settle(self) -> None:
        """Fold in the drawn rows of the cells that have many; on this thread, for others would cost torch's a core."""
        for _, cell in self._cells.values():
            if cell.is_full:
                cell.settle()


def _check_resampling(view: str, error_groups: int, *, shuffled_null: bool) -> None:
    """ConfigError where a standard error or a shuffled null is not to be had."""
    is_count = isinstance(error_groups, int) and not isinstance(error_groups, bool)
    if not (is_count and (error_groups == 0 or error_groups > 1)):
        raise ConfigError(f"error_groups={error_groups!r} is neither 0, for none, nor a number of groups, at least 2")
    if error_groups and view not in RESAMPLED_VIEWS:
        raise ConfigError(f"error_groups={error_groups}: view={view!r} has none, only {', '.join(RESAMPLED_VIEWS)}")
    if shuffled_null and view not in SHUFFLED_VIEWS:
        raise ConfigError(f"shuffled_null=True: view={view!r} has none, only {', '.join(SHUFFLED_VIEWS)}")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """SciPy's and NumPy's BLAS on one thread each: beside torch's own threads they took 17.7 s for 1.0 s of work."""
    with _controller().select(internal_api="openblas").limit(limits=1):
        yield


@cache
def _controller() -> ThreadpoolController:
    """The libraries loaded by now; looked up once, for the search takes milliseconds."""
    return ThreadpoolController()

"""The probe: attached to a model, it turns what passes through chosen layers into spectra, and keeps no activation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import pandas as pd

from deepprobe.distributed import Ranks
from deepprobe.errors import ConfigError
from deepprobe.hooks.attach import ForwardState, attached
from deepprobe.hooks.select import LayerSelection, rank_limit, select_layers
from deepprobe.linalg.matricize import POSITION_VIEWS, RESAMPLED_VIEWS, SHUFFLED_VIEWS, check_view
from deepprobe.linalg.threads import one_blas_thread as one_blas_thread
from deepprobe.linalg.transfer import fetched
from deepprobe.probes.cell import Cell, cell_for
from deepprobe.probes.gram_cell import GramCell, settle_together
from deepprobe.probes.positions import Positions
from deepprobe.probes.reading import METHODS, Reading
from deepprobe.probes.state import ProbeState, merged
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor, nn

    from deepprobe.records.layer import LayerCall
    from deepprobe.records.spectrum import Spectrum


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
        seed: Of the random positions, which layers of one resolution share, and of the permutations.
        count_units: Count dead, constant and rare units over all rows; False leaves that to the rows used.
        certify: Settle layers that come out singular at precision by exact ranks.
        method: ``"qr"``, on the CPU; ``"gram"``, on the device of the activations, without waiting for it inside
            ``recording()`` (but for ``certify``); ``"whitened"``, there too, accurate nearly as QR, which waits once a
            layer, at the first rows; ``"auto"``, which on CUDA is ``"gram"`` for activations up to float32, whose own
            rounding hides its floor, ``"whitened"`` for float64 and ``"qr"`` for the view ``samples``, whose rows are
            kept on the device until the report; else ``"qr"``.
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
        method: str = "auto",
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
        positions = None if rows == "all" or view not in POSITION_VIEWS else rows
        self._reading = Reading(view, positions, method, count_units, certify, error_groups, shuffled_null)
        self._positions = _positions(positions, seed)
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

    def reset(self, *, seed: int | None = None) -> None:
        """Forget all rows: what follows belongs to another network; positions go on to be drawn, or anew of a seed."""
        self._cells.clear()
        if seed is not None:
            self._seed = seed
            self._positions = _positions(self._reading.positions, seed)

    def state(self) -> ProbeState:
        """What was gathered so far, on the host: to be merged with that of other processes. The probe goes on.

        Fetching it waits for the device, once.
        """
        self._settle()
        tensors = [cell.tensors() for _, cell in self._cells.values()]
        copies = iter(fetched([part for parts in tensors for part in parts]))
        return ProbeState(
            {
                key: (call, cell.gathered([next(copies) for _ in parts]))
                for (key, (call, cell)), parts in zip(self._cells.items(), tensors, strict=True)
            }
        )

    def spectra(self, *, floors: dict[str, float] | None = None, ranks: Ranks | None = None) -> dict[str, Spectrum]:
        """Spectrum of each layer call, in depth order.

        Args:
            floors: Measured floors a row by layer call, from ``replay.measured_floors``.
            ranks: The processes that share the rows between them; all must call. One process alone by default.

        Returns:
            From layer call (``"conv1"``, ``"relu#2"``) to its spectrum, over the rows of all processes; on another
            rank than the first an empty one.

        Raises:
            ShapeError: If a layer has other units in another process.
        """
        state = self.state()
        state.floors = floors or {}
        return merged((ranks or Ranks()).gather(state)).spectra()

    def table(self, *, ranks: Ranks | None = None) -> pd.DataFrame:
        """One row a layer call, in depth order; the columns of ``condition_numbers``. Arguments as in ``spectra``."""
        return pd.DataFrame([spectrum.row() for spectrum in self.spectra(ranks=ranks).values()])

    def _take(self, call: LayerCall, tensor: Tensor) -> None:
        """Take what one hook saw."""
        if call.order == 0:
            self._start_pass()
        known = self._cells.get(call.key)
        if known is None:
            module = self.layers.get(call.layer)
            limit = (
                (None, False) if module is None else rank_limit(module, self._tap, self._reading.view, axes=tensor.ndim)
            )
            cell = cell_for(
                call, tensor, reading=self._reading, limit=limit, positions=self._positions, seed=self._seed
            )
            known = self._cells[call.key] = (call, cell)
        known[1].update(tensor, last=self._last)

    def _start_pass(self) -> None:
        """Another forward pass begins: new positions, once the drawn rows of the last one have been multiplied."""
        settle_together(cell for _, cell in self._cells.values() if isinstance(cell, GramCell))
        if self._positions is not None:
            self._positions.renew()

    def _settle(self) -> None:
        """Fold in drawn rows: on a GPU those of the pass that ends, else of the cells that have many.

        On this thread, for others would cost torch's a core.
        """
        self._start_pass()
        for _, cell in self._cells.values():
            if cell.is_full:
                cell.settle()


def _positions(count: int | None, seed: int) -> Positions | None:
    """What draws so many positions a sample, if not all are used."""
    return None if count is None else Positions(count, derive_seed(seed, "positions"))


def _check_resampling(view: str, error_groups: int, *, shuffled_null: bool) -> None:
    """ConfigError where a standard error or a shuffled null is not to be had."""
    is_count = isinstance(error_groups, int) and not isinstance(error_groups, bool)
    if not (is_count and (error_groups == 0 or error_groups > 1)):
        raise ConfigError(f"error_groups={error_groups!r} is neither 0, for none, nor a number of groups, at least 2")
    if error_groups and view not in RESAMPLED_VIEWS:
        raise ConfigError(f"error_groups={error_groups}: view={view!r} has none, only {', '.join(RESAMPLED_VIEWS)}")
    if shuffled_null and view not in SHUFFLED_VIEWS:
        raise ConfigError(f"shuffled_null=True: view={view!r} has none, only {', '.join(SHUFFLED_VIEWS)}")

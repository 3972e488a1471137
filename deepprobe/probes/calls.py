"""The two calls that most people need: a table, or the spectra behind it, of a model over batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from tqdm.auto import tqdm

from deepprobe.distributed import Ranks
from deepprobe.errors import ShapeError
from deepprobe.hooks.passes import as_batches, device_of, evaluating, moved, n_samples, run
from deepprobe.probes.probe import Probe
from deepprobe.probes.replay import measured_floors
from deepprobe.probes.state import merged
from deepprobe.seeding import derive_seed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from deepprobe.hooks.select import LayerSelection
    from deepprobe.records.spectrum import Spectrum

ALONE = Ranks()
"""One process alone."""


def spectra(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: LayerSelection = None,
    tap: str = "output",
    view: str = "channels",
    rows: int | Literal["all"] = "all",
    device: torch.device | str | None = None,
    seed: int = 0,
    replay: int = 0,
    certify: bool = False,
    method: str = "auto",
    error_groups: int = 0,
    shuffled_null: bool = False,
    progress: bool = True,
    ranks: Ranks = ALONE,
) -> dict[str, Spectrum]:
    """Singular spectra of what a model's layers compute on given batches, in one forward pass a batch.

    The model runs eagerly in ``eval()`` without gradients, autocast or TF32; modes, devices and random states are
    restored, no hook stays, and outputs are bit-equal to those without the probe. Memory does not grow with the number
    of batches, except that views of more than 1,024 units keep up to 1,024 rows (``docs/definitions.md``).

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts; uneven and empty batches are fine.
        layers: A glob over dotted names or several, a module class or several, or a predicate
            ``(name, module) -> bool``; by default every layer with weights, for the tap ``block`` every block.
        tap: ``input`` (what a layer receives), ``output`` (what it gives) or ``block`` (a block's output).
        view: How a tensor becomes rows: ``samples``, ``channels``, ``pooled``, ``hosvd1`` … ``hosvd3``, ``tokens``.
            A 2-D tensor is rows × units in every view.
        rows: ``"all"``, or how many random positions of each sample to use; units are counted over all in any case.
        device: Where to run; by default where the model is. A model that had to move is moved back.
        seed: Of the random positions and of the permutations.
        replay: Samples to run again in float64, to measure the arithmetic's own floor; 0 for none.
        certify: Settle layers that come out singular at precision by an exact rank (views of up to 1,024 units).
        method: ``"qr"``, on the CPU, accurate to κ = 1e14; ``"gram"``, on the device of the activations, blind below
            4e-8 of ‖H‖_F; ``"whitened"``, there too, nearly as accurate as QR while later rows resemble the first, and
            less certain where not; ``"auto"``, which on CUDA is ``"gram"`` for float32 and halves, ``"whitened"`` for
            float64 and ``"qr"`` for the view ``samples``, and elsewhere ``"qr"``.
        error_groups: Groups of samples, typically 16 (0: none), for the standard error of log10 κ over live units by
            delete-one-group jackknife (Efron & Stein 1981): ``condition_number_se``, in dex. Views ``channels``,
            ``pooled`` and ``tokens``, up to 1,024 units; each group keeps a triangle. A row of a 2-D tensor counts as a
            sample.
        shuffled_null: Also give κ over live units of the same rows after each unit's maps were permuted over the
            samples of their batch (some tens at least, or little is shuffled): ``condition_number_shuffled``. Views
            ``channels`` and ``pooled``, up to 4,096 units.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.
        ranks: The processes of a distributed job, each of which passes its own batches; all of them must call. Rank 0
            is given what one process would find over the batches of all, in the order of the ranks: to rounding
            (20 eps κ) with ``rows="all"``; drawn positions and permutations are other ones than a single process
            would draw.

    Returns:
        From layer call (``"conv1"``, ``"relu#2"`` for a second call) to ``Spectrum``, in depth order; ``.row()`` is the
        row of ``condition_numbers``. A layer that the forward pass does not call has none: ``out_proj`` inside
        ``nn.MultiheadAttention`` is used as a weight only. Empty on other ranks than the first.

    Raises:
        ConfigError: If ``tap``, ``view``, ``rows``, ``method`` or ``error_groups`` is not one there is, or the view has
            no standard error or no shuffled null.
        UnknownNameError: If ``layers`` matches nothing.
        ShapeError: If there is no batch, a tensor does not fit the view, or no chosen layer saw a real tensor.
        SpectrumError: If the replay is asked of a model that cannot be copied or run in float64.

    Example:
        >>> import torch
        >>> found = spectra(torch.nn.Linear(3, 3, bias=False), [torch.eye(3)], tap="input")
        >>> round(found[""].condition_number, 12)
        1.0
    """
    probe = Probe(
        model,
        layers=layers,
        tap=tap,
        view=view,
        rows=rows,
        seed=seed if ranks.is_main else derive_seed(seed, "rank", ranks.rank),
        certify=certify,
        method=method,
        error_groups=error_groups,
        shuffled_null=shuffled_null,
        compilable=False,
    )
    floors: dict[str, float] = {}
    with evaluating(model, device=device) as network, probe:
        target = device_of(network)
        taken = 0
        for batch, last in _with_last(_nonempty(as_batches(batches)), progress=progress):
            taken += n_samples(batch)
            batch = moved(batch, target)
            with probe.recording(last=last and ranks.is_alone):  # what is closed cannot be merged
                run(network, batch)
            if replay and not floors:
                floors = measured_floors(network, batch, probe.layers, tap=tap, view=view, samples=replay)
    state = probe.state()
    state.floors = floors
    found_samples, found_tensors = ranks.agree([taken > 0, bool(state.cells)])
    if not found_samples:
        raise ShapeError("batches holds no samples: every batch was empty, or there was none")
    if not found_tensors:
        raise ShapeError(
            f"none of the {len(probe.layers)} chosen layers saw a floating-point tensor at tap={tap!r}:"
            " the forward pass does not call them, or gives them integers"
        )
    return merged(ranks.gather(state)).spectra()


def condition_numbers(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: LayerSelection = None,
    tap: str = "output",
    view: str = "channels",
    rows: int | Literal["all"] = "all",
    device: torch.device | str | None = None,
    seed: int = 0,
    replay: int = 0,
    certify: bool = False,
    method: str = "auto",
    error_groups: int = 0,
    shuffled_null: bool = False,
    progress: bool = True,
    ranks: Ranks = ALONE,
) -> pd.DataFrame:
    """Per-layer condition numbers of what a model computes on given batches: one row a layer call, in depth order.

    Args:
        model: Any module.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts.
        layers: Which layers, as in ``spectra``, like all that follows.
        tap: ``input``, ``output`` or ``block``.
        view: How a tensor becomes rows.
        rows: ``"all"``, or how many random positions of each sample.
        device: Where to run; by default where the model is.
        seed: Of the random positions and of the permutations.
        replay: Samples to run again in float64; 0 for none.
        certify: Settle singular-at-precision layers by an exact rank.
        method: ``"auto"``, ``"qr"``, ``"gram"`` or ``"whitened"``.
        error_groups: Groups of samples for ``condition_number_se``, in dex; 0 for none.
        shuffled_null: Whether to give ``condition_number_shuffled``.
        progress: Show a bar once it takes more than two seconds.
        ranks: The processes that each pass their own batches; rank 0 is given the table over all of them, the others
            an empty one.

    Returns:
        DataFrame with ``depth layer call type tap view n_rows n_features dtype status condition_number
        condition_number_low condition_number_high …``; every measure of the centred matrix again as ``centred_…``.
        ``condition_number`` is inf where ``status`` says singular; ``docs/definitions.md`` defines each column.

    Raises:
        ConfigError: If ``tap``, ``view``, ``rows``, ``method`` or ``error_groups`` is not one there is, or the view has
            no standard error or no shuffled null.
        UnknownNameError: If ``layers`` matches nothing.
        ShapeError: If there is no batch, or a tensor does not fit the view.
        SpectrumError: If the replay is asked of a model that cannot be copied or run in float64.

    Example:
        >>> import torch
        >>> table = condition_numbers(torch.nn.Linear(3, 2), [torch.randn(64, 3)], tap="input")
        >>> table[["depth", "layer", "n_rows", "n_features", "status"]].values.tolist()
        [[1, '', 64, 3, 'finite']]
    """
    found = spectra(
        model,
        batches,
        layers=layers,
        tap=tap,
        view=view,
        rows=rows,
        device=device,
        seed=seed,
        replay=replay,
        certify=certify,
        method=method,
        error_groups=error_groups,
        shuffled_null=shuffled_null,
        progress=progress,
        ranks=ranks,
    )
    return pd.DataFrame([spectrum.row() for spectrum in found.values()])


def _nonempty(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches that hold samples."""
    return (batch for batch in batches if n_samples(batch))


def _with_last(batches: Iterator[Any], *, progress: bool) -> Iterator[tuple[Any, bool]]:
    """Each batch with whether it is the last, one read ahead."""
    bar = tqdm(desc="probing", unit="batch", delay=2, leave=False, disable=None if progress else True)
    with bar:
        held = next(batches, None)
        while held is not None:
            following = next(batches, None)
            yield held, following is None
            bar.update()
            held = following

"""Singular values of the Jacobian of a network's outputs by its input, sample by sample.

J_i = ∂f(x_i)/∂x_i, k outputs by d inputs (Saxe et al. 2014; Pennington et al. 2017 ask for all of its singular values
near 1). Row j of J_i is one vector-Jacobian product; as samples do not see each other, one backward pass gives row j
of every sample of a batch. So k backward passes give all singular values, to the accuracy of the arithmetic.

Cost: k + 1 backward passes by the input alone (one checks that samples are independent) and one forward pass, in all
about k + 2 to k + 4 forward passes over the same samples. Memory: n k d numbers for the n samples of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from deepprobe.errors import ShapeError
from deepprobe.linalg.decompose import singular_values
from deepprobe.probes.jacobians.graph import Graph, Mode, Output, differentiable, graphs, pullback
from deepprobe.probes.jacobians.vectors import unit_vector
from deepprobe.records.spectrum import Spectrum, Units, frobenius_norm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor, nn

MOST_OUTPUTS = 4096
"""Outputs above which a row a backward pass is refused."""

MEASURES = ("sigma_max", "sigma_min", "condition_number", "jacobian_norm")
"""What ``jacobian_summary`` gives quartiles of."""


def jacobian_spectra(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    n_samples: int = 16,
    mode: Mode = "eval",
    output: Output | None = None,
    in_float64: bool = False,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[Spectrum]:
    """Singular spectrum of the input-to-output Jacobian of each sample.

    Modes, buffers, ``.grad`` fields and random states are restored and no hook stays; autocast and TF32 are off.

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts.
        n_samples: How many samples, the first ones.
        mode: ``"eval"``: normalised by running statistics. ``"train"``: as the network trains, by the statistics of
            each whole batch, which are held constant while differentiating (what a sample itself adds to them, a share
            of 1 / batch size, is left out); dropout drops.
        output: From what the model returns to the tensor that is meant; by default the tensor itself, its ``logits``,
            or the only floating-point tensor in it.
        in_float64: Differentiate a float64 copy: a Jacobian that overflows float32 or is lost in its rounding.
        device: Where to run; by default where the model is.
        seed: Of what the model draws in training mode.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        One ``Spectrum`` a sample, of min(k, d) values, k rows and d columns, ``dtype`` that of the network. Its status
        is ``nonfinite`` where the Jacobian holds NaN or infinity and ``zero`` where no output depends on the input.

    Raises:
        ConfigError: If ``mode`` is neither of the two or ``n_samples`` no number from 1 on.
        ShapeError: If there is no sample, no floating-point input, no output of one row a sample, more than 4,096
            outputs a sample, or if samples see each other.
        SpectrumError: If the model cannot be copied for float64.

    Example:
        >>> import torch
        >>> _ = torch.nn.init.orthogonal_((layer := torch.nn.Linear(5, 3)).weight)
        >>> (found,) = jacobian_spectra(layer, torch.ones(1, 5))
        >>> found.singular_values.round(6).tolist()
        [1.0, 1.0, 1.0]
    """
    found: list[Spectrum] = []
    bar = tqdm(desc="Jacobians", unit="backward pass", delay=2, leave=False, disable=None if progress else True)
    with differentiable(model, mode=mode, in_float64=in_float64, device=device, seed=seed) as network, bar:
        for graph in graphs(
            network, batches, layers={}, samples=n_samples, output=output, in_float64=in_float64
        ):  # fmt: skip
            jacobians = _jacobians(graph, bar)
            found += [_spectrum(matrix, graph) for matrix in jacobians.cpu().double().numpy()]
    return found


def input_jacobian(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    n_samples: int = 16,
    mode: Mode = "eval",
    output: Output | None = None,
    in_float64: bool = False,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Largest and smallest singular value, condition number and norm of each sample's input-to-output Jacobian.

    Args:
        model: Any module.
        batches: Iterable of tensors, of (input, target) pairs, or of dicts.
        n_samples: How many samples, as in ``jacobian_spectra``, like all that follows.
        mode: ``"eval"`` or ``"train"``.
        output: Which tensor of what the model returns.
        in_float64: Differentiate a float64 copy.
        device: Where to run.
        seed: Of what the model draws in training mode.
        progress: Show a bar once it takes more than two seconds.

    Returns:
        One row a sample: ``sample status sigma_max sigma_min condition_number condition_number_low
        condition_number_high jacobian_norm numerical_rank effective_rank n_outputs n_inputs dtype mode``. ``sigma_min``
        is the min(k, d)-th value and ``jacobian_norm`` ‖J‖_F, in outputs per unit of input. NaN where ``status`` is
        ``nonfinite``; ``condition_number`` is inf where it is ``zero`` or ``singular-at-precision``.

    Raises:
        ConfigError: If ``mode`` is neither of the two or ``n_samples`` no number from 1 on.
        ShapeError: As in ``jacobian_spectra``.
        SpectrumError: If the model cannot be copied for float64.

    Example:
        >>> import torch
        >>> _ = torch.nn.init.orthogonal_((layer := torch.nn.Linear(5, 3)).weight)
        >>> input_jacobian(layer, torch.ones(2, 5))[["sample", "status", "n_outputs", "n_inputs"]].values.tolist()
        [[0, 'finite', 3, 5], [1, 'finite', 3, 5]]
    """
    found = jacobian_spectra(
        model,
        batches,
        n_samples=n_samples,
        mode=mode,
        output=output,
        in_float64=in_float64,
        device=device,
        seed=seed,
        progress=progress,
    )
    return pd.DataFrame([_row(i, spectrum) | {"mode": mode} for i, spectrum in enumerate(found)])


def jacobian_summary(table: pd.DataFrame) -> pd.Series:
    """Median and quartiles over samples of what ``input_jacobian`` gave.

    Quantiles are values that occurred (inverted distribution function), so that infinite ones stay infinite; samples
    without a number are counted, not averaged.

    Args:
        table: What ``input_jacobian`` returns.

    Returns:
        ``sigma_max`` (the median), ``sigma_max_q25``, ``sigma_max_q75`` and so on of ``sigma_min``,
        ``condition_number`` and ``jacobian_norm``; NaN where no sample has a number. ``n_samples``, ``n_nonfinite`` and
        ``n_zero`` count samples.
    """
    numbers: dict[str, float] = {}
    for measure in MEASURES:
        values = table[measure].dropna().to_numpy("float64")
        for name, share in ((measure, 0.5), (f"{measure}_q25", 0.25), (f"{measure}_q75", 0.75)):
            numbers[name] = float(np.quantile(values, share, method="inverted_cdf")) if len(values) else float("nan")
    counts = {f"n_{status}": int((table["status"] == status).sum()) for status in ("nonfinite", "zero")}
    return pd.Series({**numbers, "n_samples": len(table), **counts})


def _jacobians(graph: Graph, bar: tqdm[Any]) -> Tensor:
    """The Jacobian of every sample, shape (n, k, d): a backward pass a row."""
    k = graph.outputs.n_units
    if k > MOST_OUTPUTS:
        raise ShapeError(
            f"the output has {k:,} values a sample, and each costs a backward pass; "
            f"choose at most {MOST_OUTPUTS:,}: output=lambda returned: …"
        )
    shape = (graph.n_samples, k, graph.inputs.n_units)
    found = torch.empty(shape, dtype=graph.inputs.dtype, device=graph.inputs.device)
    for j in range(k):
        (row,) = pullback([graph.outputs], [unit_vector(graph.outputs, j)], [graph.inputs])
        found[:, j] = row.reshape(graph.n_samples, -1)
        bar.update()
    return found


def _spectrum(matrix: NDArray[np.float64], graph: Graph) -> Spectrum:
    """Spectrum of one sample's Jacobian, with an honest status where there is none."""
    lost = int(matrix.size - np.isfinite(matrix).sum())
    values = np.zeros(0) if lost else singular_values(matrix)
    return Spectrum(
        singular_values=values,
        n_rows=matrix.shape[0],
        n_features=matrix.shape[1],
        dtype=str(graph.inputs.dtype).removeprefix("torch."),
        frobenius=float("nan") if lost else frobenius_norm(values),
        view="jacobian",
        rank_bound=min(matrix.shape),
        units=Units(n_nonfinite=lost),
        over_values=True,
    )


def _row(sample: int, spectrum: Spectrum) -> dict[str, Any]:
    """One row of the table."""
    lost = spectrum.status == "nonfinite"
    names = ("sigma_max", "sigma_min", "condition_number", "condition_number_low", "condition_number_high")
    return {
        "sample": sample,
        "status": spectrum.status,
        **{name: getattr(spectrum, name) for name in names},
        "jacobian_norm": spectrum.frobenius,
        "numerical_rank": float("nan") if lost else spectrum.numerical_rank,
        "effective_rank": spectrum.effective_rank,
        "n_outputs": spectrum.n_rows,
        "n_inputs": spectrum.n_features,
        "dtype": spectrum.dtype,
    }

"""What the arithmetic itself can know: the same pass in float64, and how far every representation lies from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepprobe.errors import SpectrumError
from deepprobe.hooks.attach import attached
from deepprobe.hooks.passes import device_of, moved, run
from deepprobe.linalg.decompose import singular_values
from deepprobe.linalg.matricize import blocks, unfoldings
from deepprobe.linalg.rows import Rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deepprobe.records.layer import LayerCall


def measured_floors(
    model: nn.Module, batch: Any, layers: Mapping[str, nn.Module], *, tap: str, view: str, samples: int
) -> dict[str, float]:
    """Spectral norm of what rounding adds to each representation, *a row*: ``‖H - H_64‖_2 / √n``.

    H comes from the model as it is, H_64 from a float64 copy on the same samples. Multiplied by √n it bounds (Weyl) how
    far any singular value of an n-row matrix of such rows lies from the exact one.

    Args:
        model: In evaluation mode, without gradients (``evaluating``).
        batch: On the model's device.
        layers: What ``select_layers`` chose.
        tap: As in ``spectra``.
        view: As in ``spectra``.
        samples: How many samples of the batch to run; their tensors are held at once.

    Returns:
        From layer call to the floor a row, in the unit of the activations; inf where either pass was not finite.

    Raises:
        SpectrumError: If the model cannot be copied, or not run in float64.
    """
    batch = _first(batch, samples)
    kept: dict[str, Tensor] = {}
    with attached(model, layers, tap=tap, on_tensor=lambda call, t: kept.update({call.key: t.detach().clone()})):
        run(model, batch)
    floors: dict[str, float] = {}

    def compare(call: LayerCall, exact: Tensor) -> None:
        stored = kept.pop(call.key, None)
        if stored is not None:
            floors[call.key] = _floor_a_row(stored.double() - exact.double(), view)

    try:
        twin = copy.deepcopy(model).double()
    except Exception as error:  # whatever a user's __deepcopy__ raises
        raise SpectrumError(f"replay: the model cannot be copied ({error}); say replay=0") from error
    same = {name: module for name, module in twin.named_modules() if name in layers}
    try:
        with attached(twin, same, tap=tap, on_tensor=compare):
            run(twin, moved(batch, device_of(twin), torch.float64))
    except RuntimeError as error:
        raise SpectrumError(f"replay: the model does not run in float64 ({error}); say replay=0") from error
    return floors


def _floor_a_row(difference: Tensor, view: str) -> float:
    """Spectral norm of a difference, in the view, over the root of its rows."""
    if not torch.isfinite(difference).all():
        return float("inf")
    if view.startswith("hosvd") and difference.ndim != 2:
        norms = torch.linalg.matrix_norm(unfoldings(difference, view), ord=2)
        return float(norms.median()) / float(np.sqrt(unfoldings(difference, view).shape[1]))
    parts = blocks(difference, view)
    rows = Rows(parts.shape[1], by_rows=True)
    rows.update(parts.cpu().numpy(), last=True)
    factor = rows.result()
    return float(singular_values(factor.raw)[0] / np.sqrt(factor.n_rows))


def _first(batch: Any, samples: int) -> Any:
    """The first samples of a batch, containers kept."""
    if isinstance(batch, torch.Tensor):
        return batch[:samples] if batch.ndim else batch
    if isinstance(batch, Mapping):
        return {key: _first(value, samples) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(_first(value, samples) for value in batch)
    return batch

"""What one update of the optimizer did to each kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from deepprobe.linalg.precision import wide_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepprobe.hooks.kernels import Kernel


def update_table(chosen: Sequence[Kernel], before: Sequence[Tensor]) -> pd.DataFrame:
    """One row a kernel, after an update: ratio of update to weight, norms of gradient and weight; one synchronisation.

    ``update_ratio = ‖W_t − W_{t−1}‖_F / ‖W_{t−1}‖_F`` (about 1e-3 where training goes well: Karpathy's rule of thumb),
    inf for weights that were zero; ``gradient_norm``, of what the parameter's ``grad`` holds, NaN where it is frozen;
    ``weight_norm = ‖W_t‖_F``. All norms are summed up in float64.

    Args:
        chosen: Kernels as they are after the update.
        before: Copies of their parameters from before it, in the same order.
    """
    after = [kernel.parameter.detach() for kernel in chosen]
    changes = list(torch._foreach_sub(after, list(before)))
    parts = (changes, list(before), gradients_of(chosen), after)
    changed, old, gradient, new = torch.stack([norms(part) for part in parts]).cpu()
    table = pd.DataFrame([kernel.columns(tap="update") for kernel in chosen])
    return table.assign(update_ratio=(changed / old).numpy(), gradient_norm=gradient.numpy(), weight_norm=new.numpy())


def gradients_of(chosen: Sequence[Kernel]) -> list[Tensor]:
    """What each kernel's ``grad`` holds, dense: zeros where nothing reached it, NaN where it is frozen."""
    return [
        torch.full_like(w, float("nan") if not w.requires_grad else 0.0).detach() if w.grad is None
        else w.grad.to_dense() if w.grad.is_sparse else w.grad
        for w in (kernel.parameter for kernel in chosen)
    ]  # fmt: skip


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Norm of each tensor, shape (tensors,), on the first one's device; summed up in float64 where it has that."""
    device = tensors[0].device
    dtype = wide_dtype(device)
    return torch.stack([norm.to(device) for norm in torch._foreach_norm(list(tensors), 2, dtype=dtype)])

"""The callback that watches the first steps of a training: the network between updates, and each update itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from deepprobe.diagnosis.derivatives import precision_floors
from deepprobe.diagnosis.roles import ACTIVATION, WEIGHTED, roles
from deepprobe.diagnosis.watching import watching
from deepprobe.hooks.kernels import Kernel, kernels
from deepprobe.hooks.passes import differentiating
from deepprobe.hooks.select import select_layers
from deepprobe.hooks.statistics import batch_statistics
from deepprobe.probes.updates import gradients_of, norms, update_table
from deepprobe.training.evaluation import Tally, classification_loss
from deepprobe.training.learning_rate import learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepprobe.hooks.select import LayerSelection
    from deepprobe.records.step import Step
    from deepprobe.training import Context

SAMPLES = 64
"""Samples of the probe batch: as many as are compared with each other (``watching.GRAM_SAMPLES``)."""

LAYER_COLUMNS = (
    "step", "layer", "depth", "call", "tap", "view", "type", "dtype", "n_rows", "n_features", "sketched", "n_units",
    "mean", "rms", "max_abs", "share_zero", "share_saturated", "share_nonfinite", "n_dead", "dead_share", "cosine",
    "spread", "effective_rank", "numerical_rank", "precision",
)  # fmt: skip
"""Columns of ``Observer.layers``."""


class Enough(Exception):  # noqa: N818 - leaves the training, not the package
    """All steps asked for have been seen."""


class Observer:
    """Callback for ``train`` that changes nothing, and ends it by ``Enough`` after the last step it is to see.

    The network is seen on the first samples of the context's ``probe_batches``, always the same, in evaluation mode but
    that batch normalisation uses their statistics, as it does in training; so nothing drops out, neither modules nor
    functions nor attention. Buffers, modes and random states are put back.

    Args:
        steps: Updates to see.
        samples: Samples of the probe batch.
        replays: Steps at which that batch is also run in float64.
        layers: Which layers' outputs and kernels; by default every non-linearity that is a module (in a network without
            one every layer with weights), and every kernel.
        progress: Show a bar once it takes more than two seconds.
    """

    def __init__(
        self, *, steps: int, samples: int, replays: frozenset[int], layers: LayerSelection, progress: bool
    ) -> None:
        self.schedule = self
        self._last, self._samples, self._replays, self._chosen = steps, samples, replays, layers
        self._progress = progress
        self._layers: list[pd.DataFrame] = []
        self._kernels: list[pd.DataFrame] = []
        self._steps: list[dict[str, float]] = []
        self._roles: dict[str, str] = {}
        self._watched: list[Kernel] = []
        self._parameters: list[nn.Parameter] = []
        self._batch = torch.empty(0), torch.empty(0)
        self._before: list[Tensor] = []  # the update under way: kernels' weights, norms of gradients
        self._raw: tuple[Tensor, Tensor] | None = None

    def is_due(self, step: Step) -> bool:
        """Every step up to the last one to be seen."""
        return step.index <= self._last

    @property
    def reached(self) -> str:
        """How far it has come, in words."""
        done = len(self._steps) - 1
        return f"after {done} of {self._last} steps" if done > 0 else "before the first step was over"

    @property
    def layers(self) -> pd.DataFrame:
        """One row a step (from 0, the untrained network) and layer call, with LAYER_COLUMNS."""
        return pd.concat(self._layers, ignore_index=True)

    @property
    def kernels(self) -> pd.DataFrame:
        """One row an update (1 leads to step 1) and kernel: as ``update_table``, and ``weight_rms weight_max growth``.

        ``gradient_norm`` is that before clipping, ``growth`` the norm of the weights over that at step 0.
        """
        first = self._kernels[0]["weight_norm"].to_numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            grown = [table.assign(growth=table["weight_norm"] / first) for table in self._kernels]
        return pd.concat(grown[1:] or [grown[0].iloc[:0]], ignore_index=True)

    @property
    def steps(self) -> pd.DataFrame:
        """One row a step: ``lr gradient_norm clip_factor`` of the update that led to it; loss, predictions.

        ``clip_factor`` is what clipping multiplied the gradient by. ``loss accuracy n_predicted_classes
        top_prediction_share majority_share`` are of the probe batch, ``chance`` the entropy of its labels in nats: the
        loss of always answering their shares.
        """
        return pd.DataFrame(self._steps)

    @contextmanager
    def around_training(self, context: Context) -> Iterator[None]:
        """Look what there is to watch."""
        self._roles = _watched(context.model, self._chosen)
        self._watched = kernels(context.model)
        self._parameters = [p for p in context.model.parameters() if p.requires_grad]
        xs, ys = zip(*context.probe_batches, strict=True)
        self._batch = torch.cat(xs)[: self._samples], torch.cat(ys)[: self._samples]
        weights = [kernel.parameter.detach() for kernel in self._watched]
        self._kernels.append(self._kernel_rows(weights).assign(step=0))
        self._bar = tqdm(
            total=self._last, desc="autopsy", unit="step", delay=2, leave=False,
            disable=None if self._progress else True,
        )  # fmt: skip
        with self._bar:
            yield

    def on_gradients(self) -> None:
        """Keep the norms of the gradients as they are before clipping, on the device."""
        whole = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in self._parameters if p.grad is not None]
        total = torch.linalg.vector_norm(norms(whole)) if whole else torch.zeros(())
        self._raw = norms(gradients_of(self._watched)), total

    @contextmanager
    def around_update(self, context: Context) -> Iterator[None]:
        """Watch one update; of one that was not made, since its loss was not finite, nothing is kept."""
        self._before = [kernel.parameter.detach().clone() for kernel in self._watched]
        yield
        table = self._kernel_rows(self._before)
        if self._raw is not None:
            table["gradient_norm"] = self._raw[0].cpu().numpy()
        self._kernels.append(table.assign(step=context.step.index))
        self._bar.update()

    def _kernel_rows(self, before: list[Tensor]) -> pd.DataFrame:
        """What is known of every kernel, after an update."""
        weights = [kernel.parameter.detach() for kernel in self._watched]
        table = update_table(self._watched, before)
        greatest = torch.stack([w.abs().amax().double().cpu() for w in weights]).numpy()
        size = np.array([w.numel() for w in weights]) ** 0.5
        return table.assign(weight_rms=table["weight_norm"] / size, weight_max=greatest)

    def __call__(self, context: Context) -> None:
        """Look at the network as it stands.

        Raises:
            Enough: At the last step.
        """
        table, numbers = self._look(context)
        self._layers.append(table.assign(step=context.step.index).reindex(columns=list(LAYER_COLUMNS)))
        self._steps.append({"step": context.step.index} | self._of_update(context) | numbers)
        if context.step.index >= self._last:
            raise Enough

    def _look(self, context: Context) -> tuple[pd.DataFrame, dict[str, float]]:
        """Rows of all layers, and loss and predictions, on the probe batch."""
        x, y = self._batch
        with differentiating(context.model, seed=context.seed) as network, torch.no_grad():
            with batch_statistics(network), watching(network, self._roles, len(x)) as watch:
                logits = network(x)
            table = watch.tables()[0]
            floors = precision_floors(network, x, self._roles) if context.step.index in self._replays else {}
        tally = Tally()
        tally.add(logits, y, loss=classification_loss(logits, y))
        shares = torch.bincount(y).double() / len(y)
        chance = float(torch.special.entr(shares).sum())
        return _completed(table, floors), tally.read() | {"chance": chance}

    def _of_update(self, context: Context) -> dict[str, float]:
        """Learning rate, and norm of the whole gradient before clipping, of the update that led here."""
        config, index = context.config, context.step.index
        if config is None or self._raw is None or index == 0:
            return dict.fromkeys(("lr", "gradient_norm", "clip_factor"), float("nan"))
        norm = float(self._raw[1])
        rate = learning_rate(config, index - 1, iterations_per_epoch=context.step.iterations_per_epoch)
        factor = 1.0 if config.clip_norm is None or norm <= config.clip_norm else config.clip_norm / norm
        return {"lr": rate, "gradient_norm": norm, "clip_factor": factor}


def _watched(model: nn.Module, layers: LayerSelection) -> dict[str, str]:
    """Roles of the modules whose outputs are looked at, by name."""
    found = roles(model)
    if layers is not None:
        return {name: found.get(name, WEIGHTED) for name in select_layers(model, layers)}
    wanted = ACTIVATION if ACTIVATION in found.values() else WEIGHTED
    return {name: role for name, role in found.items() if role == wanted}


def _completed(table: pd.DataFrame, floors: dict[str, float]) -> pd.DataFrame:
    """Rows of layers with the share of dead units and, where there was a replay, the error of float32 over sigma_1."""
    keys: Any = table["layer"].where(table["call"] == 1, table["layer"] + "#" + table["call"].astype(str))
    a_row = table["sigma_max"] / table["n_rows"].clip(upper=SAMPLES) ** 0.5
    floor = keys.map(floors).astype("float64")
    return table.assign(dead_share=table["n_dead"] / table["n_units"], precision=floor / a_row)

"""The facts that rules are applied to: gathered in a few passes over the first samples, before or after training.

What is seen of layers and kernels is seen as the network trains, on one batch (the first, of at most SAMPLES samples):
batch normalisation uses that batch's statistics. ``eval_`` columns and ``outputs.eval_…`` are of evaluation mode. For
Jacobian, shattering and precision the statistics of that batch are held fixed, so that samples are independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from deepprobe.diagnosis.batch_facts import Inputs, Labels, Outputs, first_samples, input_of
from deepprobe.diagnosis.derivatives import Jacobian, jacobian, precision_floors, shattering
from deepprobe.diagnosis.roles import ACTIVATION, BLOCK, NORM, WEIGHTED, roles
from deepprobe.diagnosis.training_pass import scores_of, training_pass
from deepprobe.diagnosis.watching import GRAM_SAMPLES, watching
from deepprobe.errors import ConfigError, ShapeError
from deepprobe.hooks.labels import LABEL_KEYS, labels_of
from deepprobe.hooks.passes import as_batches, device_of, differentiating, evaluating, moved, n_samples, run
from deepprobe.hooks.select import LayerSelection, select_layers, unwrapped
from deepprobe.hooks.statistics import batch_statistics
from deepprobe.probes.gradients import checked_loss, default_loss, gradient_signal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deepprobe.diagnosis.structure import Structure
    from deepprobe.probes.gradients import Loss

SAMPLES = 128
"""Samples, at most, of the batch that layers and kernels are seen on."""

ALL_SAMPLES = 1024
"""Samples, at most, that inputs, labels and outputs are judged by."""

PARTS = 4
"""Micro-batches for the signal-to-noise ratio of gradients, each of four samples at least."""

PASSES = (
    "forward and backward",
    "gradient noise",
    "Jacobian",
    "neighbouring gradients",
    "float64 replay",
    "evaluation",
)
"""Names of the passes, for the bar."""


@dataclass(frozen=True)
class Setting:
    """How evidence was gathered.

    Attributes:
        n_samples: Samples that layers and kernels were seen on.
        seed: Of what the model draws.
        torch: Version.
        device: Where the network ran.
        has_loss: Whether there was a loss, and so gradients.
    """

    n_samples: int
    seed: int
    torch: str
    device: str
    has_loss: bool


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a network and its data.

    Attributes:
        layers: One row a layer call in the order of execution, the LAYER columns and ``role`` (block, weighted,
            activation, norm), ``n_units``, moments (``mean rms max_abs share_zero share_saturated share_nonfinite``),
            ``n_dead`` of gated activations, and between samples, uncentred, ``cosine`` (mean over pairs), ``spread``
            (share of ‖H‖_F that differs between samples), ``effective_rank`` and ``numerical_rank`` of the view
            ``samples``, ``sigma_max``; ``gradient_norm`` (of the mean loss with respect to the call's output);
            ``eval_rms eval_cosine eval_spread`` of evaluation mode; ``precision`` (relative error of float32 against
            float64, spectral norm).
        norms: One row a call of a batch normalisation: ``values_per_channel n_constant_channels mean_shift
            scale_shift`` (medians over channels: running mean off the batch's, in batch standard deviations; running
            standard deviation off the batch's, in dex; NaN before training).
        kernels: One row a kernel: ``fan_in fan_out weight_rms weight_norm he_gain glorot_gain n_zero_units
            n_twin_units normalised gradient_norm gradient_snr update_ratio`` (``kernel_facts``).
        inputs: Range, constant features, duplicates; None where the network is not given numbers.
        labels: Classes and their shares; None without integer labels.
        outputs: Loss, accuracy, predictions; None where the network gives no matrix of scores.
        jacobian: Singular values from input to scores; None where there is no such matrix.
        gradient_correlation: Mean cosine between the input gradients of neighbouring points between two samples
            (Balduzzi et al. 2017); NaN where unknown.
        gradient_correlation_noise: Its standard error if gradients were white noise.
        structure: Depth, widths, normalisations, shortcuts, parameters.
        setting: How all this was gathered.
        lr: Learning rate that updates are judged by, if any.
    """

    layers: pd.DataFrame
    norms: pd.DataFrame
    kernels: pd.DataFrame
    inputs: Inputs | None
    labels: Labels | None
    outputs: Outputs | None
    jacobian: Jacobian | None
    gradient_correlation: float
    gradient_correlation_noise: float
    structure: Structure
    setting: Setting
    lr: float | None = None

    @property
    def path(self) -> pd.DataFrame:
        """The representation by depth: rows of blocks, of activations, of normalisations or of layers with weights.

        The first of these roles that has three rows at least, else the last. What a normalisation has yet to scale is
        no representation, so that layers with weights come last.
        """
        for role in (BLOCK, ACTIVATION, NORM, WEIGHTED):
            rows = self.layers[(self.layers["role"] == role) & ~self.layers["layer"].isin(self.zero_starts)]
            if len(rows) >= 3:
                break
        return rows.reset_index(drop=True)

    @property
    def inner_path(self) -> pd.DataFrame:
        """The path without answers whose size the target sets: those of a regression, or a single one."""
        path = self.path
        if len(path) and path["role"].iloc[-1] != BLOCK:
            free = self.labels is None and path["role"].iloc[-1] == WEIGHTED
            path = path.iloc[:-1] if free or path["n_features"].iloc[-1] == 1 else path
        return path

    @property
    def zero_starts(self) -> tuple[str, ...]:
        """What is zero throughout and will not stay so: kernels with a gradient, scales of normalisations and branches.

        Last layers of branches, or of the network, are begun like that on purpose (Goyal et al. 2017, Zhang et al.
        2019): nothing flows back through them before the first step, and everything from the second on.
        """
        kernels = self.kernels
        shut = kernels[(kernels["weight_norm"] == 0) & (kernels["gradient_norm"] > 0)]
        return (*shut["layer"], *self.structure.zero_scales)

    @property
    def head_starts_at_zero(self) -> bool:
        """Whether the last kernel is zero and has a gradient, so that the first answers say nothing."""
        return len(self.kernels) > 0 and str(self.kernels["layer"].iloc[-1]) in self.zero_starts

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not looked at, and why, one sentence each."""
        found = []
        if not self.structure.activations and self.structure.depth > 1:
            found.append("Dead and saturated units were not looked at: no activation is a module.")
        if not self.setting.has_loss:
            found.append("Gradients were not looked at: there are no labels, and no loss was given.")
        elif self.labels is None:
            found.append("The size of weights and Jacobian was not judged: labels are not one class a sample.")
        if self.layers["precision"].isna().all():
            found.append("Rounding was not judged: the network draws in evaluation mode too, or has no float32 copy.")
        return tuple(found)

    @property
    def has_learned(self) -> bool:
        """Whether predictions beat the commonest label by more than chance (four standard errors), in either mode."""
        if self.outputs is None or self.labels is None:
            return False
        share = self.labels.majority_share
        needed = share + 4 * (share * (1 - share) / self.labels.n_samples) ** 0.5
        return bool(max(self.outputs.accuracy, self.outputs.eval_accuracy) > needed)


def gather(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    layers: LayerSelection = None,
    lr: float | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """Gather the evidence of a network on its data, in about a dozen passes over one batch.

    The model is left as it was: modes, buffers, gradients, random states, no hook. Nothing is trained.

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        batches: Tensors, (input, target) pairs or dicts. The first is the batch that layers are seen on, at most
            SAMPLES of it; all, up to ALL_SAMPLES, count for inputs, labels and outputs. Without targets, and without
            ``loss``, nothing is known of gradients.
        loss: ``loss(model, batch)``, the mean over samples; by default cross-entropy, or a dict model's own.
        layers: Which layers ``layers`` and ``kernels`` are to hold, as in ``select_layers``; by default blocks, layers
            with weights, non-linearities and normalisations.
        lr: Learning rate of plain SGD, for ``update_ratio``.
        device: Where to run; by default where the model is.
        seed: Of what the model draws.
        progress: Show a bar with the name of the pass, on terminals and in notebooks.

    Returns:
        The evidence.

    Raises:
        ConfigError: If ``lr`` is no positive number, or ``loss`` none that takes (model, batch) and fits the batches.
        ShapeError: If there is no sample, or the network does not run on the batch as it trains.
        UnknownNameError: If ``layers`` matches nothing.

    Example:
        >>> import torch
        >>> found = gather(torch.nn.Linear(3, 2), (torch.randn(64, 3), torch.randint(0, 2, (64,))), lr=0.1)
        >>> found.kernels[["layer", "fan_in", "fan_out"]].values.tolist()
        [['', 3, 2]]
    """
    _check_rate(lr)
    kept = _first_batches(as_batches(batches, paired=loss is not None))
    batch = first_samples(kept[0], SAMPLES)
    loss = checked_loss(loss) if loss is not None else _loss_of(model, batch, device)
    watched = roles(unwrapped(model))
    if layers is not None:
        chosen = select_layers(model, layers)
        watched = {name: role for name, role in watched.items() if name in chosen}
    bar = tqdm(total=len(PASSES), desc=PASSES[0], unit="pass", leave=False, disable=None if progress else True)

    def over() -> None:
        """Say that a pass is over, and which one begins."""
        bar.update()
        bar.set_description(PASSES[min(int(bar.n), len(PASSES) - 1)])

    with bar:
        with differentiating(model, device=device, seed=seed) as network:
            here = moved(batch, device_of(network))
            place = str(device_of(network))
            seen = training_pass(network, here, loss, roles=watched, lr=lr)
            over()
        kernels = _with_signal(seen.kernels, model, batch, loss, device, seed)
        over()
        found_jacobian = jacobian(model, batch, seen.scores, device=device, seed=seed)
        over()
        with differentiating(model, device=device, seed=seed) as network:
            with batch_statistics(network), torch.no_grad():  # which stay for what follows
                run(network, here)
            correlation, noise = shattering(network, here, seen.scores)
            over()
            table = _with_precision(seen.layers, network, here, watched)
            over()
        with evaluating(model, device=device) as network:
            table = _with_evaluation(table, network, here, watched)
            eval_scores = [_eval_scores(network, b) for b in kept]
            over()
    labels = [labels_of(b) for b in kept]
    return Evidence(
        layers=table,
        norms=seen.norms,
        kernels=kernels,
        inputs=Inputs.of([input_of(b) for b in kept], labels),
        labels=Labels.of(labels),
        outputs=Outputs.of(seen.scores, labels_of(batch), seen.loss, eval_scores, labels),
        jacobian=found_jacobian,
        gradient_correlation=correlation,
        gradient_correlation_noise=noise,
        structure=seen.structure,
        setting=Setting(n_samples(batch), seed, torch.__version__, place, has_loss=loss is not None),
        lr=lr,
    )


def _check_rate(lr: Any) -> None:
    """ConfigError if a learning rate is given that is no positive number."""
    number = isinstance(lr, Real) and not isinstance(lr, bool)
    if lr is not None and not (number and 0 < lr < float("inf")):
        raise ConfigError(f"lr={lr!r}: a learning rate is a positive number")


def _first_batches(batches: Iterable[Any]) -> list[Any]:
    """Batches that hold samples, until there are ALL_SAMPLES."""
    kept: list[Any] = []
    taken = 0
    for batch in batches:
        n = n_samples(batch)
        if n:
            kept.append(first_samples(batch, ALL_SAMPLES - taken))
            taken += n
        if taken >= ALL_SAMPLES:
            break
    if not kept:
        raise ShapeError("batches holds no samples: every batch was empty, or there was none")
    return kept


def _loss_of(model: nn.Module, batch: Any, device: Any) -> Loss | None:
    """The default loss; None where a batch is no more than an input: alone, or a dict that no loss comes from."""
    if isinstance(batch, Mapping) and not any(key in batch for key in LABEL_KEYS):
        with evaluating(model, device=device) as network, suppress(RuntimeError, ValueError, IndexError):
            found = run(network, moved(batch, device_of(network)))  # where it fails, the first pass says why
            return default_loss if isinstance(getattr(found, "loss", None), Tensor) else None
        return None
    alone = isinstance(batch, Tensor) or (isinstance(batch, (tuple, list)) and len(batch) == 1)
    return None if alone else default_loss


def _with_signal(
    rows: pd.DataFrame, model: nn.Module, batch: Any, loss: Loss | None, device: Any, seed: int
) -> pd.DataFrame:
    """Kernels with ``gradient_snr`` from micro-batches; NaN without a loss or with too few samples."""
    parts = min(PARTS, n_samples(batch) // 4)
    if loss is None or parts < 2 or rows.empty:
        return rows.assign(gradient_snr=float("nan"))
    found = gradient_signal(
        model, [batch], loss=loss, micro_batches=parts, device=device, seed=seed, progress=False
    ).set_index("layer")["gradient_snr"]
    return rows.assign(gradient_snr=rows["layer"].map(found))


def _with_precision(table: pd.DataFrame, network: nn.Module, batch: Any, watched: Mapping[str, str]) -> pd.DataFrame:
    """Layers with ``precision``."""
    floors = precision_floors(network, batch, watched)
    keys = table["layer"].where(table["call"] == 1, table["layer"] + "#" + table["call"].astype(str))
    a_row = table["sigma_max"] / table["n_rows"].clip(upper=GRAM_SAMPLES) ** 0.5
    return table.assign(precision=keys.map(floors).astype("float64") / a_row)


def _eval_scores(network: nn.Module, batch: Any) -> Tensor | None:
    """What the network gives in evaluation mode; ShapeError if it does not run on the batch."""
    try:
        return scores_of(run(network, moved(batch, device_of(network))))
    except (RuntimeError, ValueError, IndexError) as error:  # torch's words for what does not fit
        raise ShapeError(f"the network does not run on one of the batches in eval(): {error}") from error


def _with_evaluation(table: pd.DataFrame, network: nn.Module, batch: Any, watched: Mapping[str, str]) -> pd.DataFrame:
    """Layers with what they are in evaluation mode."""
    with watching(network, watched, n_samples(batch)) as watch:
        run(network, batch)
    seen = watch.tables()[0].set_index(["layer", "call"])[["rms", "cosine", "spread"]]
    return table.join(seen.add_prefix("eval_"), on=["layer", "call"])

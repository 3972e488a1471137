"""How deep may one go? The prediction over depths."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from deepprobe.diagnosis.prediction.predict import will_it_train
from deepprobe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import nn

    from deepprobe.diagnosis.prediction.calibration import Calibration
    from deepprobe.probes.gradients import Loss

DEPTHS = (8, 14, 20, 32, 44, 56, 80, 110)
"""Depths of basic-block networks, within those that were calibrated."""


@dataclass(frozen=True, eq=False)
class TrainableDepth:
    """Predictions by depth.

    Attributes:
        table: One row a depth, ascending: ``depth probability trains outside`` and the features; ``outside`` is in
            words what is unlike the calibration, empty where nothing is.
        deepest: Greatest depth up to which every depth asked for is more likely to train than not; None if none is.
    """

    table: pd.DataFrame
    deepest: int | None

    def __str__(self) -> str:
        """In words: the deepest, what not to rely on, and a line a depth."""
        return f"{self._says()}\n\n{self._shown().to_string(index=False)}"

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<p>{html.escape(self._says())}</p>{self._shown().to_html(index=False)}"

    def _says(self) -> str:
        """The answer in one or two sentences."""
        depths = ", ".join(map(str, self.table["depth"]))
        answer = "At none of these depths" if self.deepest is None else f"Up to depth {self.deepest}"
        unsure = (self.table["outside"] != "").any()
        warning = " Do not rely on the depths that lie outside what it was calibrated on." if unsure else ""
        return f"{answer} it is predicted to train (asked about {depths}).{warning}"

    def _shown(self) -> pd.DataFrame:
        """What a reader needs of the table."""
        shown = self.table[["depth", "probability", "trains"]].astype({"trains": object})
        shown["probability"] = self.table["probability"].map("{:.2f}".format)
        shown["trains"] = self.table["trains"].map({True: "yes", False: "no"})
        shown["outside the calibration"] = self.table["outside"].where(self.table["outside"] != "", "–")
        return shown


def trainable_depth(
    build: Callable[[int], nn.Module],
    batch: Any,
    *,
    lr: float,
    depths: Sequence[int] = DEPTHS,
    momentum: float = 0.9,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    using: Calibration | None = None,
    progress: bool = True,
) -> TrainableDepth:
    """Predict for networks of several depths whether they will train, and how deep one may go.

    Args:
        build: From a depth to a new network of that depth, such as
            ``lambda depth: dp.create_model("plainnet", depth=depth, seed=0)``.
        batch: As in ``will_it_train``.
        lr: Learning rate.
        depths: Depths to try.
        momentum: Of SGD.
        loss: As in ``will_it_train``.
        device: Where to run; by default where each network is.
        seed: Of what the networks draw as they run.
        using: Another calibration than the package's.
        progress: Show a bar once it takes more than two seconds, on a terminal or in a notebook.

    Returns:
        Table and deepest trainable depth.

    Raises:
        ConfigError: If there is no depth, or as in ``will_it_train``.
        ShapeError: If the batch holds fewer than two samples.
        UnknownNameError: If no layer has a kernel.
    """
    if not depths:
        raise ConfigError("depths is empty; name at least one")
    rows = []
    for depth in tqdm(sorted(depths), desc="depths", unit="network", delay=2, disable=None if progress else True):
        found = will_it_train(
            build(depth), batch, lr=lr, momentum=momentum, loss=loss, device=device, seed=seed, using=using
        )
        values = found.features.set_index("feature")["value"].to_dict()
        about = {"depth": depth, "probability": found.probability, "trains": found.trains}
        rows.append(about | {"outside": ", ".join(found.outside)} | values)
    table = pd.DataFrame(rows)
    unbroken = table.loc[table["trains"].cummin(), "depth"]
    return TrainableDepth(table, int(unbroken.iloc[-1]) if len(unbroken) else None)

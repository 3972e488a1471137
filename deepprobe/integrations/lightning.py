"""PyTorch Lightning: deepprobe's callbacks and run in a person's own Trainer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from deepprobe.extras import missing
from deepprobe.integrations.adapter import Adapter

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise missing("lightning", extra="lightning", error=error) from error

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class DeepprobeCallback(Adapter, Callback):
    """Callback for Lightning's Trainer that gives the same run and table as ``deepprobe.train``.

    Layers are named as in the LightningModule. A step is an update of the weights, so that accumulated batches count
    once. What the module logs is recorded at the end of every epoch. Training goes on as if it were not there, bit for
    bit. ``trainer.fit(..., ckpt_path=...)`` goes on with the run, which forgets what came after the checkpoint.

    Args:
        *arguments: As in ``integrations.adapter.Adapter``.
        submodule: Dotted name of the part of the LightningModule that is looked at, which takes the batches; by
            default all of it.
        **options: As in ``integrations.adapter.Adapter``.

    Raises:
        RunError: As training begins: if the folder holds something else, or a run that is complete.
        ConfigError: As training begins: if the training loader has no length and ``iterations_per_epoch`` is not given.
    """

    led_by = "lightning"

    def __init__(self, *arguments: Any, submodule: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.submodule = submodule
        self._resumed: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What Lightning's checkpoint keeps: the run and the step that it had come to."""
        return {"run": self.run.name, "step": self._step.index} if self._run is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on, in the training that begins next, where the checkpoint was written."""
        self._resumed = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        resumed, self._resumed = self._resumed, {}
        self._begin(
            pl_module.get_submodule(self.submodule),
            step=resumed.get("step", trainer.global_step),
            continues=resumed.get("run"),
            n_iterations=_updates(trainer),
            device=pl_module.device,
            seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
            loaders=[*_flat(trainer.val_dataloaders), *_flat(trainer.train_dataloader)],
        )
        self._updates_seen = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The first batch of an update, or another one."""
        self._before_update()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The last batch of an update, if the weights have changed."""
        if trainer.global_step != self._updates_seen:
            self._updates_seen = trainer.global_step
            self._after_update()
            self._advance()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what was logged."""
        self._log(trainer.callback_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self._end("complete")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End early."""
        self._end("interrupted", f"{type(exception).__name__}: {exception}", error=exception)


def _updates(trainer: Trainer) -> float:
    """Updates in an epoch, the last of which may have fewer batches; infinite where the loader has no length."""
    batches: float = trainer.num_training_batches
    return batches if batches == float("inf") else -(-batches // trainer.accumulate_grad_batches)


def _flat(loaders: Any) -> list[Any]:
    """Loaders out of what Lightning calls loaders: one, none, or nested lists and tables of them."""
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return [loader for one in loaders for loader in _flat(one)]
    return [] if loaders is None else [loaders]

"""Hugging Face Transformers: deepprobe's callbacks and run in a person's own Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepprobe.extras import missing
from deepprobe.integrations.adapter import Adapter

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing("transformers", extra="huggingface", error=error) from error

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments

_NAMES = {"train_loss": "train_loss_overall"}
"""The Trainer's ``loss`` is of the steps since it was last logged, its ``train_loss`` of all since it began."""


class DeepprobeCallback(Adapter, TrainerCallback):
    """Callback for Hugging Face's Trainer that gives the same run and table as ``deepprobe.train``.

    A step is an update of the weights, so that accumulated batches count once. What the Trainer logs is recorded, that
    of evaluations as the split ``validation``. Training goes on as if it were not there, bit for bit.
    ``trainer.train(resume_from_checkpoint=...)`` goes on with the run, which forgets what came after the checkpoint.

    The Trainer tells its callbacks of no error: where ``trainer.train()`` may raise and the model is used on, call
    ``close()`` in a ``finally``.

    Args:
        *arguments: As in ``integrations.adapter.Adapter``.
        **options: As in ``integrations.adapter.Adapter``.

    Raises:
        RunError: As training begins: if the folder holds something else, or a run that is complete.
        ConfigError: As training begins: if the training loader has no length and ``iterations_per_epoch`` is not given.
    """

    led_by = "huggingface"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *,
        model: nn.Module, train_dataloader: Any = None, eval_dataloader: Any = None, **others: Any,
    ) -> None:  # fmt: skip
        """Begin."""
        batches = len(train_dataloader) if hasattr(train_dataloader, "__len__") else float("inf")
        self._begin(
            model,
            step=state.global_step,
            n_iterations=batches if batches == float("inf") else -(-batches // args.gradient_accumulation_steps),
            device=args.device,
            seed=args.seed,
            loaders=[eval_dataloader, train_dataloader],
        )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """The first batch of an update."""
        self._before_update()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """The weights have changed."""
        self._after_update()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """The update is done."""
        self._advance()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *,
        logs: dict[str, Any] | None = None, **others: Any,
    ) -> None:  # fmt: skip
        """Keep what was logged."""
        self._log({_NAMES.get(name, name): value for name, value in (logs or {}).items() if name != "epoch"})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """End."""
        self._end("complete")

    def close(self) -> None:
        """End early, if training has not ended: hooks go, and the run is ``interrupted``."""
        self._end("interrupted", "training ended early")

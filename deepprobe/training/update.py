"""One update of the weights: forward, loss, backward, clipping, optimizer; no number leaves the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from deepprobe.errors import ConfigError, OutOfMemoryError
from deepprobe.training.evaluation import arithmetic, classification_loss
from deepprobe.training.nonfinite import LossGuard, LossGuardOfCPU

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from deepprobe.distributed import Ranks
    from deepprobe.training.config import TrainConfig
    from deepprobe.training.stream import Part

_SAYS_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


class Updater:
    """The model as it is trained – compiled, or wrapped for several processes – and its optimizer.

    Args:
        model: Already on the device.
        config: Settings.
        device: Where model and batches are.
        ranks: The processes that train together.
        on_gradients: Called in turn at each update, before gradients are clipped and used.

    Raises:
        ConfigError: If nothing of the model is trained.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        *,
        device: torch.device,
        ranks: Ranks,
        on_gradients: Sequence[Callable[[], None]] = (),
        looks_at_once: bool = False,
    ) -> None:
        self.on_gradients = on_gradients
        self.model, self.config, self.device, self.ranks = model, config, device, ranks
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.parameters, config, name=type(model).__name__)
        self.guard = (
            LossGuardOfCPU(ranks=ranks) if looks_at_once else LossGuard(self.optimizer, device=device, ranks=ranks)
        )
        self._forward: Callable[[Tensor], Tensor] = model
        self._apart: Callable[[], AbstractContextManager[Any]] = nullcontext

    def wrap(self) -> None:
        """Wrap and compile the model, as asked for; hooks that are to see training must be set by now."""
        forward: Any = self.model
        if not self.ranks.is_alone:
            ids = [self.device.index or 0] if self.device.type == "cuda" else None
            forward = torch.nn.parallel.DistributedDataParallel(forward, device_ids=ids, gradient_as_bucket_view=True)
            self._apart = forward.no_sync
        self._forward = torch.compile(forward, dynamic=False) if self.config.compile else forward

    def __call__(self, part: Part, *, rate: float) -> tuple[Tensor, Tensor]:
        """Change the weights by one batch.

        Args:
            part: This rank's part of the batch.
            rate: Learning rate.

        Returns:
            (logits, mean loss) of this rank's part, detached.

        Raises:
            OutOfMemoryError: If the device has too little memory.
            ConfigError: If there are several processes, and parameters that take no part in the loss.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for parameter in self.parameters:  # optimizer.zero_grad() takes as long as two layers of LeNet-300-100
            parameter.grad = None
        try:
            logits, loss = self._gradients(part)
            if self.guard.holds(loss):
                return logits, loss
            for change in self.on_gradients:
                change()
            if self.config.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if "finished reduction" in str(error):  # DistributedDataParallel's words for a gradient that never came
                raise ConfigError(
                    "some parameters of the model take no part in the loss; processes that train together need the "
                    "gradient of each: freeze those parameters (requires_grad=False), or train in one process"
                ) from error
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(self._advice(part.x)) from error
        return logits, loss

    def _gradients(self, part: Part) -> tuple[Tensor, Tensor]:
        """Sum the gradients of the micro-batches; ranks exchange theirs once, with the last one."""
        n = self.config.micro_batches
        if n == 1:
            return self._gradient(part.x, part.y, self._weight(len(part.x), part.n_in_all))
        pieces = [(x, y) for x, y in zip(part.x.tensor_split(n), part.y.tensor_split(n), strict=True) if len(x)]
        found = []
        for i, (x, y) in enumerate(pieces, start=1):
            with self._apart() if i < len(pieces) else nullcontext():
                found.append(self._gradient(x, y, self._weight(len(x), part.n_in_all)))
        shares = [len(x) / len(part.x) for x, _ in pieces]
        loss = torch.stack([share * loss for share, (_, loss) in zip(shares, found, strict=True)]).sum()
        return torch.cat([logits for logits, _ in found]), loss

    def _gradient(self, x: Tensor, y: Tensor, weight: float | Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of the mean loss times a weight."""
        if self.config.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with arithmetic(self.device, self.config.precision):
            logits = self._forward(x)
        loss = classification_loss(logits, y, label_smoothing=self.config.label_smoothing)
        weighted = loss if isinstance(weight, float) and weight == 1 else loss * weight
        weighted.backward()  # type: ignore[no-untyped-call]
        return logits.detach(), loss.detach()

    def _weight(self, n: int, n_in_all: int | Tensor) -> float | Tensor:
        """What the mean over n samples counts in that over all; ranks' gradients are averaged, hence their number."""
        return n * self.ranks.world_size / n_in_all

    def _advice(self, x: Tensor) -> str:
        """What did not fit, and what to try."""
        config, n = self.config, sum(p.numel() for p in self.model.parameters())
        name = getattr(self.model, "deepprobe_config", {}).get("name", type(self.model).__name__)
        tries = [f"micro_batches={2 * config.micro_batches} (the same update, but for batch normalisation)"]
        tries += [f"batch_size={config.batch_size // 2}"] if config.batch_size > 1 else []
        tries += ["precision='bf16'"] if config.precision == "fp32" else []
        return (
            f"{self.device} is out of memory in a step of {name} ({n:,} parameters) on inputs of "
            f"shape {tuple(x.shape)}, in {config.micro_batches} micro-batch(es), in {config.precision}; "
            f"try {', or '.join(tries)}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has too little memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _SAYS_OUT_OF_MEMORY)


def _optimizer(parameters: list[nn.Parameter], config: TrainConfig, *, name: str) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over the parameters that are trained."""
    if not parameters:
        raise ConfigError(f"the {name} has no parameters to train")
    # Fused: one kernel for all of the 490 parameters that 164 layers have, and what LossGuard needs.
    if config.optimizer == "sgd":
        sgd = torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov,
            weight_decay=config.weight_decay, fused=True,
        )  # fmt: skip
        if config.momentum:  # fused, it fails on parameters whose first gradient comes later than that of others
            sgd.state.update({p: {"momentum_buffer": torch.zeros_like(p, requires_grad=False)} for p in parameters})
        return sgd
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)

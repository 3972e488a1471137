"""What attributions cost, as multiples of one forward pass over the same samples, run in turn in one process.

    python benchmarks/attribution_cost.py [--model resnet56] [--samples 32] [--steps 32] [--rounds 3] [--threads 1]

Processor time, random images of 14 × 14 pixels. Methods that captum computes a layer or a unit at a time are timed on
some layers and said a layer. Beside conductance stands captum by hand, a layer a call, as it would be without
``attribution.together``. Quote the medians, with the machine: on a shared one single runs vary by tens of per cent.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from captum.attr import LayerConductance
from torch import Tensor, nn

from deepprobe.attribution import ablation_curves, attributions, unit_damage
from deepprobe.hooks import select_layers
from deepprobe.models import create_model


def processor_time(call: Callable[[], object]) -> float:
    """Seconds of processor time of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(name: str, call: Callable[[], object], forward: Callable[[], object], *, rounds: int, per: int = 1) -> None:
    """Print a call's cost in forward passes, divided by ``per``: median and range over rounds, run in turn."""
    ratios = []
    for _ in range(rounds):
        bare = statistics.median(processor_time(forward) for _ in range(3))
        ratios.append(processor_time(call) / bare / per)
    print(f"{name:<58}{statistics.median(ratios):>9.1f}  ({min(ratios):.1f} … {max(ratios):.1f})", flush=True)


def by_hand(model: nn.Module, layers: list[nn.Module], batch: tuple[Tensor, Tensor], steps: int) -> None:
    """Conductance of some layers by captum alone, eight samples a pass as ``attributions`` does with 32 steps."""
    model.eval()
    for layer in layers:
        for x, y in zip(batch[0].split(8), batch[1].split(8), strict=True):
            LayerConductance(model, layer).attribute(x, target=y, n_steps=steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet56")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = create_model(options.model, num_classes=10, in_channels=1, input_size=14, seed=0)
    batch = (torch.randn(options.samples, 1, 14, 14), torch.arange(options.samples) % 10)
    names = list(select_layers(model))
    some = names[:: max(1, len(names) // 3)][:3]
    print(f"{options.model}, {len(names)} layers, {options.samples} samples, {options.steps} steps, torch "
          f"{torch.__version__}, {options.threads} thread(s)\n{'':<58}forward passes")  # fmt: skip

    @torch.no_grad()
    def forward() -> Tensor:
        return model.eval()(batch[0])

    def timed(name: str, call: Callable[[], object], *, per: int = 1) -> None:
        measure(name, call, forward, rounds=options.rounds, per=per)

    def found(method: str, layers: list[str] | None = None) -> Callable[[], object]:
        return lambda: attributions(model, batch, method, layers=layers, n_steps=options.steps, progress=False)

    forward()
    for method in ("gradient-x-activation", "grad-cam", "conductance", "internal-influence"):
        timed(f"{method}, all layers", found(method))
    modules = [model.get_submodule(name) for name in some]
    timed("conductance, captum by hand, a layer", lambda: by_hand(model, modules, batch, options.steps), per=3)
    for method in ("integrated-gradients", "feature-ablation"):
        timed(f"{method}, a layer", found(method, some), per=3)
    timed("damage of single units, a layer", lambda: unit_damage(model, batch, layers=some, progress=False), per=3)
    units = attributions(model, batch, "gradient-x-activation", progress=False)
    timed(
        "ablation curves, all layers, a pass",
        lambda: ablation_curves(model, batch, units, order=["top"], rankings=["weight_magnitude"], progress=False),
        per=7,
    )


if __name__ == "__main__":
    main()

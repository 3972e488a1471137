"""What a diagnosis, a prediction and an autopsy cost, in forward passes over the same samples; CPU time of one process.

    python benchmarks/diagnosis_cost.py [--network resnet164] [--size 14] [--samples 128] [--rounds 3] [--threads 1]

Each runs in turn with a bare forward pass without gradients; the autopsy's figure is that of one of its steps. Quote
the medians, with the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import deepprobe as dp

STEPS = 4
"""Of the autopsy."""


def seconds(job: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a job."""
    start = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet164")
    parser.add_argument("--size", type=int, default=14)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = dp.create_model(given.network, in_channels=1, input_size=given.size, seed=0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(given.samples, 1, given.size, given.size, generator=generator)
    pair = images, torch.randint(10, (given.samples,), generator=generator)
    config = dp.TrainConfig(epochs=STEPS, batch_size=given.samples, validation_share=0.0)

    @torch.no_grad()
    def bare() -> None:
        model(images)

    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "diagnose": (lambda: dp.diagnose(model, [pair], lr=0.1, progress=False), 1),
        "will_it_train": (lambda: dp.will_it_train(model, pair, lr=0.1), 1),
        f"autopsy, a step of {STEPS}": (lambda: dp.autopsy(model, pair, config, steps=STEPS, progress=False), STEPS),
    }
    print(f"{given.network}, {given.samples} images of {given.size} × {given.size}, {given.threads} thread(s)")
    bare()
    for name, (job, parts) in jobs.items():
        rounds = [(seconds(bare), seconds(job)) for _ in range(given.rounds)]
        wall, cpu = ([mine[i] / plain[i] / parts for plain, mine in rounds] for i in (0, 1))
        took = statistics.median(mine[0] for _, mine in rounds)
        print(
            f"{name:22s} CPU {statistics.median(cpu):6.1f} ({min(cpu):.1f} … {max(cpu):.1f})"
            f"   wall {statistics.median(wall):6.1f}   {took:6.1f} s in all",
            flush=True,
        )


if __name__ == "__main__":
    main()

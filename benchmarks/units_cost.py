"""What units and similarity cost, as a multiple of a forward pass over the same samples, in CPU time.

    python benchmarks/units_cost.py [--rounds 5] [--threads 1] [--network resnet56] [--images 256] [--device cpu]

Images are 32 × 32, batches of 64, all weighted layers. Both are run in turn in one process; quote the medians, with the
machine. The multiples contain the measure's own forward pass: 1 would be free.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from deepprobe.models import create_model
from deepprobe.probes import distributions, similarity, unit_profiles

BATCH = 64


def seconds(job: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall and CPU seconds of a job."""
    start = time.perf_counter(), time.process_time()
    job()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = create_model(given.network, seed=0).eval().to(given.device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(given.images, 3, 32, 32, generator=generator).to(given.device)
    labels = torch.randint(10, (given.images,), generator=generator)
    pairs = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    batches = [x for x, _ in pairs]

    @torch.no_grad()
    def bare() -> None:
        for batch in batches:
            model(batch)

    jobs: dict[str, Callable[[], object]] = {
        "unit_profiles": lambda: unit_profiles(model, pairs, progress=False),
        "distributions": lambda: distributions(model, batches, progress=False),
        "similarity, pooled, exact": lambda: similarity(model, batches, progress=False),
        "similarity, pooled, minibatch": lambda: similarity(model, batches, estimator="minibatch", progress=False),
        "similarity, samples, minibatch": lambda: similarity(model, batches, view="samples", progress=False),
        "similarity, angles": lambda: similarity(model, batches, measure="angles", progress=False),
    }
    print(f"{given.network}, {given.images} images, torch {torch.__version__}, {given.device}, {given.threads} threads")
    for name, job in jobs.items():
        job()
        rounds = [(seconds(bare, given.device), seconds(job, given.device)) for _ in range(given.rounds)]
        wall, cpu = ([mine[i] / plain[i] for plain, mine in rounds] for i in (0, 1))
        print(
            f"{name:32s} CPU {statistics.median(cpu):5.2f} ({min(cpu):.2f} … {max(cpu):.2f})"
            f"   wall {statistics.median(wall):5.2f}   {statistics.median(m[0] for _, m in rounds):6.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()

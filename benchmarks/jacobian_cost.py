"""What Jacobians cost, in forward passes without gradients over the same samples; CPU time of one process.

    python benchmarks/jacobian_cost.py [--model resnet164] [--size 32] [--samples 16] [--rounds 3] [--threads 1]

Each measure runs in turn with a bare forward pass. Quote the medians, with the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from deepprobe.models import create_model
from deepprobe.probes import gradient_autocorrelation, gradient_correlation, input_jacobian, layer_jacobians


def seconds(job: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    job()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet164")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = create_model(options.model, input_size=options.size, seed=0).eval()
    n = options.samples
    images = torch.randn(n, 3, options.size, options.size)

    @torch.no_grad()
    def bare() -> None:
        model(images)

    measures: dict[str, Callable[[], object]] = {
        "input_jacobian, eval": lambda: input_jacobian(model, images, n_samples=n),
        "input_jacobian, train": lambda: input_jacobian(model, images, n_samples=n, mode="train"),
        "input_jacobian, in float64": lambda: input_jacobian(model, images, n_samples=n, in_float64=True),
        "layer_jacobians, norms only": lambda: layer_jacobians(model, images, n_samples=n, steps=0),
        "layer_jacobians, with 10 steps a segment": lambda: layer_jacobians(model, images, n_samples=n),
        "gradient_correlation": lambda: gradient_correlation(model, images, n_samples=n),
        "gradient_autocorrelation": lambda: gradient_autocorrelation(model, images[0], images[1], n_points=n),
    }
    print(f"{options.model}, {n} images of {options.size} × {options.size}, {options.threads} thread(s)", flush=True)
    bare()
    for name, job in measures.items():
        ratios = []
        for _ in range(options.rounds):
            before = seconds(bare)
            cost = seconds(job)
            ratios.append(2 * cost / (before + seconds(bare)))
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(f"{name:42s} {middle:7.1f} forward passes ({low:.1f} … {high:.1f})", flush=True)


if __name__ == "__main__":
    main()

"""What the measures of a diagnosis are on networks that train, and on some that do not: the ground of its thresholds.

    python benchmarks/diagnosis_calibration.py                                  # the table of docs/diagnosis.md
    python benchmarks/diagnosis_calibration.py --networks resnet20 --epochs 1   # does it run at all?

Networks of the zoo on handwritten digits, seed 0, untrained and, where they train within minutes, trained. Findings
are printed below each network's row: those on trained networks must be true, and so they are worth reading.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepprobe as dp
from deepprobe.diagnosis import Diagnosis

NETWORKS: dict[str, tuple[int, int, float]] = {
    "lenet300_100": (8, 15, 0.05), "lenet5": (28, 10, 0.02), "vgg11_bn": (32, 2, 0.01), "resnet20": (8, 6, 0.05),
    "resnet56": (8, 5, 0.05), "resnet110": (8, 10, 0.02), "resnet164": (8, 0, 0.05), "preresnet164": (8, 0, 0.05),
    "plainnet20": (8, 0, 0.05), "plainnet56": (8, 0, 0.05), "plainnet110": (8, 0, 0.05), "plainnet164": (8, 0, 0.05),
}  # fmt: skip
"""Name: pixels, epochs of training (0: untrained only), learning rate."""

HEADINGS = (
    "network", "rms ratio", "least spread", "effective rank, last", "gradient first / last", "σ_max of Jacobian",
    "neighbouring gradients' cosine", "precision", "dead", "loss / chance",
)  # fmt: skip


def digits(split: str, size: int) -> tuple[Tensor, Tensor]:
    """Images of a split, resized."""
    images, labels = dp.load_dataset("digits", split=split).tensors()
    return (images if size == 8 else F.interpolate(images, size)), labels


def examined(model: nn.Module, size: int, lr: float) -> Diagnosis:
    """The diagnosis on the first 256 test images, in two batches."""
    x, y = digits("test", size)
    return dp.diagnose(model, [(x[:128], y[:128]), (x[128:256], y[128:256])], lr=lr)


def row(name: str, diagnosis: Diagnosis) -> str:
    """One line of the table, and what was found."""
    evidence = diagnosis.evidence
    path, outputs, jacobian = evidence.path, evidence.outputs, evidence.jacobian
    ratio = path["rms"] / path["rms"].iloc[0]
    assert outputs is not None
    assert jacobian is not None
    cells = [
        name,
        f"{ratio.min():.2g} … {ratio.max():.2g}",
        f"{path['spread'].min():.2g}",
        f"{path['effective_rank'].iloc[-1]:.2g}",
        f"{path['gradient_norm'].iloc[0] / path['gradient_norm'].iloc[-1]:.2g}",
        f"{jacobian.sigma_max:.2g}",
        f"{evidence.gradient_correlation:.2f}",
        f"{path['precision'].max():.1g}",
        f"{np.nanmax([*(evidence.layers['n_dead'] / evidence.layers['n_units']), 0.0]):.2f}",
        f"{outputs.loss / outputs.loss_at_chance:.2g}",
    ]
    found = "".join(f"\n    {f.severity:.2f} {f.rule}: {f.says}" for f in diagnosis.findings)
    return f"| {' | '.join(cells)} |{found}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, help="in place of each network's own")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| {' | '.join(HEADINGS)} |")
    for name in options.networks:
        size, epochs, lr = NETWORKS[name]
        epochs = epochs if options.epochs is None else options.epochs
        model = dp.create_model(name, in_channels=1, input_size=size, seed=0)
        print(row(f"{name} untrained", examined(model, size, 0.05)), flush=True)
        if epochs:
            dp.train(model, digits("train", size), config=dp.TrainConfig(epochs=epochs, lr=lr, seed=0), quiet=True)
            print(row(f"{name} trained", examined(model, size, 0.05)), flush=True)


if __name__ == "__main__":
    main()

"""What one global round of pruning costs, in time and memory, beside the ways that PyTorch offers.

    python benchmarks/selection.py                                    # ResNet-50, 25.5 million weights, 20 %
    python benchmarks/selection.py --model resnet164 --size 32 --fraction 0.99 --density 0.5
    python benchmarks/selection.py --model resnet20 --size 32 --rounds 1   # does it run at all?

    prune      deepprobe.pruning.prune: scores, exact selection, masks, weights set to zero
    torch      torch.nn.utils.prune.global_unstructured with L1Unstructured: exact
    kthvalue   magnitudes in one vector, torch.kthvalue, masks above the threshold (inexact where magnitudes are equal)

Times are of jobs that run in turn in one process; memory is the peak beyond what the network takes, each job in its own
process. Quote the medians, with the machine; on a busy one take --clock cpu.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import deepprobe as dp
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.removal import prune

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def network(options: argparse.Namespace) -> tuple[nn.Module, Masks]:
    """The network, and what an earlier round has left of it."""
    channels = {"num_classes": 1000 if options.size >= 128 else 10, "in_channels": 3, "input_size": options.size}
    model = dp.create_model(options.model, seed=0, **channels).to(options.device)
    masks = Masks.dense(model)
    return model, prune(model, "random", fraction=1 - options.density) if options.density < 1 else masks


def with_deepprobe(model: nn.Module, masks: Masks, fraction: float) -> int:
    return prune(model, "magnitude", "global", fraction, masks=masks).n_kept


def with_torch(model: nn.Module, masks: Masks, fraction: float) -> int:
    layers = [(module, "weight") for name, module in model.named_modules() if f"{name}.weight" in masks]
    torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=fraction)
    return sum(int(module.weight_mask.count_nonzero()) for module, _ in layers)


def with_kthvalue(model: nn.Module, masks: Masks, fraction: float) -> int:
    weights = {name: p for name, p in model.named_parameters() if name in masks}
    with torch.no_grad():
        flat = torch.cat([p.abs()[masks[name]] for name, p in weights.items()])
        threshold = flat.kthvalue(len(flat) - round(len(flat) * (1 - fraction))).values
        kept: dict[str, Tensor] = {name: (p.abs() > threshold) & masks[name] for name, p in weights.items()}
        for name, p in weights.items():
            p.mul_(kept[name])
    return sum(int(mask.count_nonzero()) for mask in kept.values())


WAYS: dict[str, Callable[[nn.Module, Masks, float], int]] = {
    "prune": with_deepprobe, "torch": with_torch, "kthvalue": with_kthvalue,
}  # fmt: skip


def prepared(way: str, options: argparse.Namespace) -> tuple[nn.Module, Masks]:
    """A new network for one job: torch's leaves its own behind changed."""
    model, masks = network(options)
    if way == "torch" and options.density < 1:
        for name, module in model.named_modules():
            if f"{name}.weight" in masks:
                torch_prune.custom_from_mask(module, "weight", masks[f"{name}.weight"])
    return model, masks


def seconds(way: str, options: argparse.Namespace) -> tuple[float, int]:
    """Time of one job, the device's queue included, and how many weights it left."""
    model, masks = prepared(way, options)
    wait = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    wait()
    start = clock()
    n_kept = WAYS[way](model, masks, options.fraction)
    wait()
    return clock() - start, n_kept


def extra_bytes(way: str, options: argparse.Namespace) -> float:
    """Peak memory of one job a weight, beyond what was there before it; NaN where it cannot be read."""
    torch.set_num_threads(options.threads)
    small = argparse.Namespace(**{**vars(options), "model": "resnet8", "size": 32})
    WAYS[way](*prepared(way, small), options.fraction)  # what is loaded once and never again
    model, masks = prepared(way, options)
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        WAYS[way](model, masks, options.fraction)
        return (torch.cuda.max_memory_allocated() - before) / masks.n_weights
    if not CLEAR.exists():
        return float("nan")
    CLEAR.write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    WAYS[way](model, masks, options.fraction)
    return (resident("VmHWM") - before) / masks.n_weights


def resident(field: str) -> int:
    """Bytes of this process in memory now (VmRSS), or at most so far (VmHWM)."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument(
        "--size", type=int, default=224, help="pixels of the images; from 128 on there are 1000 classes"
    )
    parser.add_argument("--fraction", type=float, default=0.2)
    parser.add_argument(
        "--density", type=float, default=1.0, help="share of the weights that an earlier round has left"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: of all threads, this process only"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of layers that a random network loses
    torch.set_num_threads(options.threads)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    left: dict[str, int] = {}
    for i in range(options.rounds + 1):  # the first to warm up
        for way in list(WAYS) if i % 2 else reversed(WAYS):
            took, left[way] = seconds(way, options)
            times[way] += [took] if i else []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = pool.starmap(extra_bytes, [(way, options) for way in WAYS], chunksize=1)
    masks = network(options)[1]
    asked = masks.n_kept - round(masks.n_kept * options.fraction)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"cpu, {options.threads} threads"
    print(
        f"torch {torch.__version__}, {name}; {options.model}, {masks.n_weights:,} weights, {options.density:.0%} kept, "
        f"{options.fraction:.0%} of these to go: {asked:,} stay; {options.rounds} rounds, {options.clock} time; "
        "medians (min … max)"
    )
    for way, each in zip(WAYS, memory, strict=True):
        ratios = [theirs / ours for theirs, ours in zip(times[way], times["prune"], strict=True)]
        print(
            f"{way:10s} {statistics.median(times[way]):8.3f} s   × {statistics.median(ratios):6.2f} ({min(ratios):.2f} "
            f"… {max(ratios):.2f})   {each:5.1f} bytes a weight   {left[way]:,} stay ({left[way] - asked:+d})"
        )


if __name__ == "__main__":
    main()

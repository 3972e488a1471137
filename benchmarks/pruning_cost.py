"""What pruning costs, as ratios of two things run in turn in one process.

    python benchmarks/pruning_cost.py --only disk traffic
    python benchmarks/pruning_cost.py --only experiment --epochs 2
    python benchmarks/pruning_cost.py --only step masks --rounds 1 --model resnet20   # does it run at all?

    step        ``train`` on LeNet-300-100 against a bare loop of the same updates that keeps and measures nothing
    masks       training steps whose removed weights stay at zero, by each way, against steps without masks
    disk        bytes of a network's masks as a file, against one byte and four bytes a weight
    traffic     bytes of buffers that DistributedDataParallel sends before each forward pass
    experiment  a lottery experiment on LeNet-300-100 against the bare steps that it contains

LeNet-300-100 trains as in Frankle & Carbin (2019): MNIST (from DEEPPROBE_DATA), 5,000 images for validation, batches of
60, Adam at 1.2e-3. Quote the medians, with the machine: single runs on a shared one vary by tens of per cent.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune

import deepprobe as dp
from deepprobe.pruning import Masks, random_masks
from deepprobe.runs.masks import write_masks
from deepprobe.seeding import derive_seed
from deepprobe.training.stream import split_off

VALIDATION = 1 / 12
"""Share of MNIST's 60,000 images that is held out."""

SMALL, LARGE = (1, 8), (16, 32)
"""Batch and size in pixels of the steps that masks are measured beside."""


def clock(options: argparse.Namespace) -> float:
    """Seconds of CPU of this process, or of a clock on the wall."""
    return time.process_time() if options.cpu_time else time.perf_counter()


def in_turn(jobs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each job gives, round by round, beginning with another one each time, after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in jobs}
    names = list(jobs)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            value = jobs[name]()
            if i:
                found[name].append(value)
    return found


def say(what: str, ours: list[float], theirs: list[float], *, unit: float = 1.0) -> None:
    """The median ratio, its range, and what the first costs more."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    more = statistics.median(a - b for a, b in zip(ours, theirs, strict=True)) / unit
    print(
        f"{what:44s} {statistics.median(ratios):6.3f} ({min(ratios):.3f} … {max(ratios):.3f})   {more * 1e3:+8.3f} ms",
        flush=True,
    )


class LeNet:
    """LeNet-300-100 on MNIST: data, network, settings, and a loop that does nothing but train."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.train, self.test = (dp.load_dataset("mnist", split=split).tensors() for split in ("train", "test"))
        if options.images:
            self.train = tuple(part[: options.images] for part in self.train)
        self.config = dp.TrainConfig(
            epochs=options.epochs, batch_size=60, optimizer="adam", lr=1.2e-3, weight_decay=0.0, schedule="constant",
            validation_share=VALIDATION, device="cpu",
        )  # fmt: skip
        (self.x, self.y), _ = split_off(self.train, share=VALIDATION, seed=0)

    def network(self, seed: int = 0) -> nn.Module:
        return dp.create_model("lenet-300-100", num_classes=10, in_channels=1, input_size=28, seed=seed)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of ``train``: the same order, drawn in the same way."""
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "order", epoch))
        for chosen in torch.randperm(len(self.x), generator=generator).split(self.config.batch_size):
            yield self.x.index_select(0, chosen), self.y.index_select(0, chosen)

    def bare(self, trainings: int = 1) -> float:
        """Seconds of as many trainings, one after the other, as a lean loop makes them."""
        seconds = 0.0
        for _ in range(trainings):
            network = self.network().train()
            optimizer = torch.optim.Adam(network.parameters(), lr=self.config.lr, fused=True)
            begun = clock(self.options)
            for epoch in range(self.config.epochs):
                for x, y in self.batches(epoch):
                    optimizer.zero_grad()
                    F.cross_entropy(network(x), y).backward()
                    optimizer.step()
            seconds += clock(self.options) - begun
        return seconds


def step(options: argparse.Namespace) -> None:
    """A step of ``train`` with no folder and no held-out data, its start and end included."""
    work = LeNet(options)

    def ours() -> float:
        network, begun = work.network(), clock(options)
        dp.train(
            network, (work.x, work.y), quiet=True,
            config=dp.TrainConfig(**work.config.as_dict() | {"validation_share": 0.0}),
        )  # fmt: skip
        return clock(options) - begun

    found = in_turn({"ours": ours, "bare": work.bare}, options.rounds)
    n_steps = options.epochs * len(list(work.batches(0)))
    print(f"LeNet-300-100, {n_steps:,} steps, a bare one {statistics.median(found['bare']) / n_steps * 1e3:.3f} ms")
    say("train / bare loop", found["ours"], found["bare"], unit=n_steps)


class Steps:
    """Training steps of one network: seconds of so many, with whatever keeps its removed weights at zero."""

    def __init__(self, options: argparse.Namespace, *, batch: int, size: int) -> None:
        self.options, self.forward = options, lambda: None
        self.network = dp.create_model(options.model, num_classes=10, in_channels=3, input_size=size, seed=0)
        self.masks = random_masks(Masks({n: kept(m, 0.2) for n, m in Masks.dense(self.network).items()}), seed=0)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True
        )
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(batch, 3, size, size, generator=generator)
        self.y = torch.randint(10, (batch,), generator=generator)
        if batch == 1:
            self.network.eval()  # batch normalisation cannot train on one value a channel

    def attached(self) -> Steps:
        self.masks.attach(self.optimizer, self.network)
        return self

    def reparametrised(self) -> Steps:
        for name, mask in self.masks.items():
            prune.custom_from_mask(self.network.get_submodule(name.removesuffix(".weight")), "weight", mask.float())
        return self

    def before_each_forward(self) -> Steps:
        """As open_lth does: each weight times its float mask."""
        pairs = [(p, self.masks[n].float()) for n, p in self.network.named_parameters() if n in self.masks]

        def forward() -> None:
            for parameter, mask in pairs:
                parameter.data *= mask

        self.forward = forward
        return self

    def __call__(self) -> float:
        begun = clock(self.options)
        for _ in range(self.options.steps):
            self.forward()
            self.optimizer.zero_grad()
            F.cross_entropy(self.network(self.x), self.y).backward()
            self.optimizer.step()
        return clock(self.options) - begun


def kept(mask: Tensor, share: float) -> Tensor:
    """A mask with that share of its weights."""
    flat = torch.zeros(mask.numel(), dtype=torch.bool)
    flat[: max(1, round(share * mask.numel()))] = True
    return flat.reshape(mask.shape)


def masks(options: argparse.Namespace) -> None:
    """Each way to keep weights at zero beside the same steps without masks."""
    for batch, size in (SMALL, LARGE):
        jobs = {
            "no masks": Steps(options, batch=batch, size=size),
            "Masks.attach": Steps(options, batch=batch, size=size).attached(),
            "torch.nn.utils.prune": Steps(options, batch=batch, size=size).reparametrised(),
            "before each forward pass": Steps(options, batch=batch, size=size).before_each_forward(),
        }
        found = in_turn(dict(jobs), options.rounds if batch > 1 else options.rounds * 5)
        bare = found.pop("no masks")
        print(
            f"{options.model}, batch {batch}, {size} × {size}, 20 % kept, SGD with momentum; "
            f"a step without masks {statistics.median(bare) / options.steps * 1e3:.1f} ms"
        )
        for name, seconds in found.items():
            say(f"{name} / no masks", seconds, bare, unit=options.steps)


def disk(options: argparse.Namespace) -> None:
    """Bytes of the masks' file, and how long it takes to write and read."""
    work = Steps(options, batch=1, size=32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.safetensors"
        begun = time.perf_counter()
        write_masks(path, work.masks.arrays())
        written = time.perf_counter()
        assert Masks.load(path, work.network) == work.masks
        read, n_bytes = time.perf_counter(), path.stat().st_size
    n = work.masks.n_weights
    print(
        f"masks of {options.model}: {n_bytes:,} bytes for {n:,} weights; 1/{n / n_bytes:.1f} of a byte a weight, "
        f"1/{4 * n / n_bytes:.1f} of four; written in {(written - begun) * 1e3:.0f} ms, read and checked in "
        f"{(read - written) * 1e3:.0f} ms"
    )


def traffic(options: argparse.Namespace) -> None:
    """Bytes of the buffers that DistributedDataParallel itself lists for sending."""
    kinds: dict[str, Callable[[Steps], object]] = {
        "no masks": lambda work: work, "Masks.attach": Steps.attached, "torch.nn.utils.prune": Steps.reparametrised,
    }  # fmt: skip
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for name, prepare in kinds.items():
            work = Steps(options, batch=2, size=32)
            prepare(work)
            wrapped = DistributedDataParallel(work.network)
            n_bytes = sum(buffer.nbytes for buffer in wrapped.modules_buffers)
            print(f"{name:44s} {n_bytes:>12,} bytes of buffers before each forward pass of {options.model}")
    finally:
        dist.destroy_process_group()


def experiment(options: argparse.Namespace) -> None:
    """Everything that ``run_lottery`` does at its defaults, on a disk, against bare steps."""
    work = LeNet(options)
    config = dp.LotteryConfig(training=work.config, rounds=5, prune=0.2, allocation="layerwise", rates={"output": 0.5})

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            begun = clock(options)
            found = dp.run_lottery(
                "lenet-300-100", (work.train, work.test), config, out=Path(folder) / "lottery", quiet=True,
                model_options={"num_classes": 10, "in_channels": 1, "input_size": 28},
            ).table()  # fmt: skip
            seconds = clock(options) - begun
        assert len(found) == config.rounds + 1
        return seconds

    found = in_turn({"ours": ours, "bare": lambda: work.bare(config.rounds + 1)}, options.rounds)
    print(
        f"5 rounds of LeNet-300-100, {config.rounds + 1} trainings of {options.epochs} epoch(s): "
        f"{statistics.median(found['ours']):.2f} s, bare steps {statistics.median(found['bare']):.2f} s"
    )
    say("experiment / bare steps", found["ours"], found["bare"], unit=config.rounds + 1)


PARTS = {"step": step, "masks": masks, "disk": disk, "traffic": traffic, "experiment": experiment}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="preresnet164", help="of masks, disk and traffic")
    parser.add_argument("--steps", type=int, default=1, help="of a measurement of masks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="of each training of LeNet-300-100")
    parser.add_argument("--images", type=int, help="of MNIST to train on; all by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="seconds of CPU, where others use the machine")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, cpu, {options.threads} threads; {options.rounds} rounds; seconds "
        f"{'of CPU' if options.cpu_time else 'on the wall'}; medians (min … max)"
    )
    for part in options.only:
        PARTS[part](options)


if __name__ == "__main__":
    main()

"""What a training step costs, as ratios of two things run in turn in one process.

    python benchmarks/training_step.py --only bare probes
    python benchmarks/training_step.py --only loader lightning --rounds 3
    python benchmarks/training_step.py --device cuda --precision bf16 --channels-last --steps 50
    python benchmarks/training_step.py --model resnet8 --size 8 --steps 2 --rounds 1   # does it run at all?

    bare       deepprobe's step against a hand-written loop of the same mathematics
    loader     deepprobe's step with crops and flips against the same in a Dataset behind a DataLoader with workers
    lightning  deepprobe's step against Lightning's loop (where lightning is installed)
    probes     each probe at its default settings, as a share of an epoch of 50,000 images with one such probe
    compiled   compiled steps against eager ones, deepprobe's both
    peak       floating-point operations a second, and their share of the processor's peak (--peak, or known GPUs)
    profile    the kernels in which a step's time goes

Quote the medians, with the machine: single runs on a shared one vary by tens of per cent.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import deepprobe as dp

EPOCH = 50_000
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 operations a second, by what stands in a GPU's name."""


class Work:
    """The same work for all loops: a network, images, settings, and clocks that wait for the device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.batch, self.steps, self.size = options.batch, options.steps, options.size
        generator = torch.Generator().manual_seed(0)
        n = self.batch * self.steps
        self.images = torch.randn(n, 3, self.size, self.size, generator=generator).to(self.device)
        self.labels = torch.randint(10, (n,), generator=generator).to(self.device)

    def model(self) -> nn.Module:
        model = dp.create_model(self.options.model, num_classes=10, in_channels=3, input_size=self.size, seed=0)
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.options.channels_last else model

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def arithmetic(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.options.precision == "bf16" else nullcontext()

    def ready(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        return images.contiguous(memory_format=torch.channels_last) if self.options.channels_last else images

    def seconds(self, job: Callable[[], object]) -> float:
        """Wall time of a job, the device's queue included."""
        self._wait()
        start = time.perf_counter()
        job()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def hand_written(self, batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> float:
        """Seconds of a loop as anyone would write it."""
        model = self.model().train()
        optimizer = self.optimizer(model)

        def loop() -> None:
            for images, labels in batches():
                optimizer.zero_grad(set_to_none=True)
                with self.arithmetic():
                    logits = model(self.ready(images))
                F.cross_entropy(logits.float(), labels.to(self.device)).backward()
                optimizer.step()

        return self.seconds(loop)

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches of the tensors on the device."""
        order = torch.randperm(len(self.images), device=self.device)
        for chosen in order.split(self.batch):
            yield self.images[chosen], self.labels[chosen]

    def deepprobe(self, measure: str = "seconds", **settings: object) -> float:
        """Seconds that deepprobe's loop says it took for the same steps, or those in callbacks."""
        callbacks = settings.pop("callbacks", ())
        config = dp.TrainConfig(
            **{
                "epochs": 1, "batch_size": self.batch, "lr": 1e-3, "schedule": "constant", "validation_share": 0.0,
                "device": self.options.device, "precision": self.options.precision,
                "channels_last": self.options.channels_last, **settings,
            }
        )  # fmt: skip
        run = dp.train(self.model(), (self.images, self.labels), config=config, callbacks=callbacks, quiet=True)
        metrics = run.metrics()
        return float(metrics[(metrics["split"] == "train") & (metrics["measure"] == measure)]["value"].iloc[-1])


def alternately(
    first: Callable[[], float], second: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, round by round in changing order, after one round to warm up."""
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds + 1):
        order = ((0, first), (1, second)) if i % 2 else ((1, second), (0, first))
        for which, job in order:
            seconds = job()
            if i:
                found[which].append(seconds)
    return found


def say(what: str, ours: list[float], theirs: list[float], *, work: Work) -> None:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    speed = work.batch * work.steps / statistics.median(ours)
    print(
        f"{what:44s} {statistics.median(ratios):6.3f} ({min(ratios):.3f} … {max(ratios):.3f})   {speed:,.0f} samples/s",
        flush=True,
    )


def bare(work: Work) -> None:
    """Against a hand-written loop over the same tensors."""
    ours, theirs = alternately(work.deepprobe, lambda: work.hand_written(work.in_order), work.options.rounds)
    say("deepprobe / hand-written loop", ours, theirs, work=work)


class Augmented(Dataset[tuple[Tensor, int]]):
    """Images that are padded, cropped and flipped one by one, as in most scripts."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.cpu(), labels.cpu().tolist()
        self.pad = images.shape[-1] // 8

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        size = self.images.shape[-1]
        padded = F.pad(self.images[index], (self.pad,) * 4)
        y, x = torch.randint(2 * self.pad + 1, (2,)).tolist()
        image = padded[:, y : y + size, x : x + size]
        return (image.flip(-1) if torch.rand(()) < 0.5 else image), self.labels[index]


def loader(work: Work) -> None:
    """Against images that workers augment one by one."""
    loader = DataLoader(
        Augmented(work.images, work.labels), batch_size=work.batch, shuffle=True, num_workers=work.options.workers,
        pin_memory=work.device.type == "cuda", persistent_workers=work.options.workers > 0,
    )  # fmt: skip
    for _ in loader:  # the workers are started before the clock
        pass
    ours, theirs = alternately(
        lambda: work.deepprobe(augmentation="pad-crop-flip"),
        lambda: work.hand_written(lambda: iter(loader)),
        work.options.rounds,
    )
    say(f"deepprobe / DataLoader, {work.options.workers} workers, augmented", ours, theirs, work=work)


def lightning(work: Work) -> None:
    """Against Lightning's loop."""
    try:
        import lightning as L
    except ImportError:
        print("lightning is not installed")
        return

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = work.model()

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return F.cross_entropy(self.model(work.ready(batch[0])).float(), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return work.optimizer(self)

    class Clock(L.Callback):
        seconds = 0.0

        def on_train_start(self, *_: object) -> None:
            work._wait()
            self.seconds -= time.perf_counter()

        def on_train_end(self, *_: object) -> None:
            work._wait()
            self.seconds += time.perf_counter()

    batches = DataLoader(TensorDataset(work.images, work.labels), batch_size=work.batch, shuffle=True)

    def theirs() -> float:
        clock = Clock()
        L.Trainer(
            max_epochs=1, accelerator="gpu" if work.device.type == "cuda" else "cpu", devices=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[clock],
            precision="bf16-mixed" if work.options.precision == "bf16" else "32-true",
        ).fit(Module(), batches)  # fmt: skip
        return clock.seconds

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        say("deepprobe / Lightning", *alternately(work.deepprobe, theirs, work.options.rounds), work=work)


def probes(work: Work) -> None:
    """Each probe as a share of an epoch of 50,000 images."""
    images = work.images[:128], work.labels[:128]
    kinds: dict[str, Callable[[], object]] = {
        "spectra": lambda: dp.ProbeCallback(batches=[images]),
        "gradients": lambda: dp.GradientCallback(batches=[images]),
        "weights": lambda: dp.WeightCallback(),
    }
    work.deepprobe()  # to warm up
    step = statistics.median(work.deepprobe() for _ in range(work.options.rounds)) / work.steps
    epoch, together = step * EPOCH / work.batch, 0.0
    print(f"a step {step:.4f} s, an epoch of {EPOCH:,} images {epoch:.0f} s; probes of {len(images[0])} images:")
    for name, make in kinds.items():
        seconds = [work.deepprobe("seconds_in_callbacks", callbacks=[make()]) for _ in range(work.options.rounds)]
        together += statistics.median(seconds)
        print(
            f"  {name:10s} {statistics.median(seconds):8.2f} s   {statistics.median(seconds) / epoch:8.3%}", flush=True
        )
    for name, kind in (("updates", dp.UpdateCallback), ("in-flight", dp.InFlightCallback)):
        watched, alone = alternately(
            lambda k=kind: work.deepprobe(callbacks=[k("1it")]), work.deepprobe, work.options.rounds
        )
        seconds = (statistics.median(watched) - statistics.median(alone)) / work.steps
        together += max(seconds, 0.0) if name == "updates" else 0.0
        print(f"  {name:10s} {seconds:8.2f} s   {seconds / epoch:8.3%}   (each watched update)", flush=True)
    print(f"  spectra, weights and updates, the default of deepprobe train, together: {together / epoch:.3%}")


def compiled(work: Work) -> None:
    """Compiled steps against eager ones; the first epoch, in which is compiled, does not count."""

    def seconds(*, compile: bool) -> float:
        return work.deepprobe(compile=compile, epochs=2)

    found = alternately(lambda: seconds(compile=True), lambda: seconds(compile=False), work.options.rounds)
    say("compiled / eager", *found, work=work)


def peak(work: Work) -> None:
    """Floating-point operations a second."""
    model = work.model().train()
    images, labels = work.ready(work.images[: work.batch]), work.labels[: work.batch]
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(images), labels).backward()
    step = statistics.median(work.deepprobe() for _ in range(work.options.rounds)) / work.steps
    name = torch.cuda.get_device_name() if work.device.type == "cuda" else "cpu"
    known = work.options.peak or next((value for key, value in PEAKS.items() if key in name), None)
    share = f", {counter.get_total_flops() / step / known:.2%} of {known:.3g}" if known else ", peak unknown: --peak"
    print(f"{counter.get_total_flops():.3g} operations a step, {counter.get_total_flops() / step:.3g} a second{share}")


def profiled(work: Work) -> None:
    """Where a step's time goes."""
    work.deepprobe()
    on_gpu = work.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        work.deepprobe()
    by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=60))


PARTS = {
    "bare": bare, "loader": loader, "lightning": lightning, "probes": probes, "compiled": compiled, "peak": peak,
    "profile": profiled,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet164")
    parser.add_argument("--size", type=int, default=32, help="pixels of the images, which have three channels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="updates in each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--peak", type=float, help="operations a second that the processor can do at most")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=PARTS, help="all by default, on a CPU all but compiled")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"cpu, {options.threads} threads"
    print(
        f"torch {torch.__version__}, {name}; {options.model}, {options.size} × {options.size}, batch {options.batch}, "
        f"{options.precision}{', channels last' if options.channels_last else ''}; {options.rounds} rounds of "
        f"{options.steps} steps; medians (min … max)"
    )
    work = Work(options)
    for part in options.only or [name for name in PARTS if name != "compiled" or work.device.type == "cuda"]:
        PARTS[part](work)


if __name__ == "__main__":
    main()

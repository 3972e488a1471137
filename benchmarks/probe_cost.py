"""What a probe costs, as ratios of two things run in turn in one process.

    python benchmarks/probe_cost.py [--rounds 5] [--threads 2] [--only pass flight samples memory idle]

The network is ``preresnet164`` on 32 × 32 images, batches of 64, every weighted layer (167 with projections).
Quote the medians, with the machine: single runs on a shared one vary by tens of per cent.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from deepprobe.models import create_model
from deepprobe.probes import Probe, spectra

BATCH = 64


def alternately(
    bare: Callable[[], object], probed: Callable[[], object], rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Ratios probed / bare of wall and CPU time, round by round, after one round to warm up; and the bare seconds."""
    wall, cpu, seconds = [], [], []
    for i in range(rounds + 1):
        times = []
        for job in (bare, probed) if i % 2 else (probed, bare):
            start = time.perf_counter(), time.process_time()
            job()
            times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        without, with_probe = times if i % 2 else times[::-1]
        if i:
            wall.append(with_probe[0] / without[0])
            cpu.append(with_probe[1] / without[1])
            seconds.append(without[0])
    return wall, cpu, seconds


def say(what: str, wall: list[float], cpu: list[float], seconds: list[float]) -> None:
    print(
        f"{what:58s} wall {statistics.median(wall):6.3f} ({min(wall):.3f} … {max(wall):.3f})"
        f"   CPU {statistics.median(cpu):6.3f}   bare {statistics.median(seconds):.2f} s",
        flush=True,
    )


def passes(rounds: int) -> None:
    """A probe pass over 1,024 images against the bare forward passes."""
    model = create_model("preresnet164", seed=0).eval()
    batches = list(torch.randn(1024, 3, 32, 32).split(BATCH))

    @torch.no_grad()
    def bare() -> None:
        for batch in batches:
            model(batch)

    for rows in (4, "all"):
        for tap in ("input", "output"):
            result = alternately(bare, lambda r=rows, t=tap: spectra(model, batches, rows=r, tap=t), rounds)
            say(f"probe pass, 1,024 images, channels, {tap}s, rows={rows}", *result)


def samples(rounds: int) -> None:
    """The samples view of 128 images for all block outputs."""
    model = create_model("preresnet164", seed=0).eval()
    images = torch.randn(128, 3, 32, 32)

    @torch.no_grad()
    def bare() -> None:
        model(images)

    found: list[float] = []

    def probed() -> None:
        start = time.perf_counter()
        spectra(model, [images], tap="block", view="samples")
        found.append(time.perf_counter() - start)

    say("samples view, 128 images, all 55 block outputs", *alternately(bare, probed, rounds))
    print(f"{'':58s} {statistics.median(found):.1f} s in all")


def training_step(model: nn.Module) -> Callable[[], None]:
    """One SGD step on fixed images."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, targets = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()

    return step


def flight(rounds: int) -> None:
    """In flight, p = 4 random positions, every weighted layer: each step, and every fourth; and hooks that idle."""
    model = create_model("preresnet164", seed=0)
    step = training_step(model)

    def four_steps() -> None:
        for _ in range(4):
            step()

    def recorded(every: int) -> Callable[[], None]:
        probe = Probe(model, tap="input", rows=4, count_units=False, compilable=False)

        def steps() -> None:
            with probe:
                for i in range(4):
                    if every and i % every == 0:
                        with probe.recording():
                            step()
                    else:
                        step()

        return steps

    for every, what in ((1, "each step"), (4, "every fourth step"), (0, "idle hooks")):
        say(f"training steps, in flight, p = 4, {what}", *alternately(four_steps, recorded(every), rounds))


def peak_memory(images: int, rows: str) -> float:
    """Peak resident memory in MB of a fresh process that probes so many images (none: the bare pass)."""
    code = f"""
import resource, torch
from deepprobe.models import create_model
from deepprobe.probes import spectra
torch.set_num_threads({torch.get_num_threads()})
model = create_model("preresnet164", seed=0).eval()
def batches(n):
    for _ in range(n // {BATCH}):
        yield torch.randn({BATCH}, 3, 32, 32)
if {images}:
    spectra(model, batches({images}), rows={rows})
else:
    with torch.no_grad():
        for batch in batches(256):
            model(batch)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def memory(_: int) -> None:
    """Peak memory of a probe pass over more and more images, less that of the bare pass."""
    bare = peak_memory(0, "4")
    for rows in ("4", "'all'"):
        for images in (256, 1024, 2048):
            extra = peak_memory(images, rows) - bare
            print(f"peak memory over the bare pass ({bare:.0f} MB), rows={rows}, {images} images: {extra:.0f} MB")


PARTS = {"pass": passes, "samples": samples, "flight": flight, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds; medians (min … max)")
    for part in arguments.only:
        PARTS[part](arguments.rounds)
    print(f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()

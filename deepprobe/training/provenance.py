"""On what a run was made, and what tells one run's model and data from another's."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from collections.abc import Sized
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from deepprobe.training.stream import is_pair

if TYPE_CHECKING:
    from torch import nn

    from deepprobe.distributed import Ranks
    from deepprobe.training.stream import Data

PACKAGES = ("deepprobe", "torch", "numpy", "scipy", "pandas")
SAMPLES_HASHED = 64


def provenance(model: nn.Module, *, seed: int, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Versions, machine, device, threads, processes, seed, commit, time, digest of initial weights; plain values."""
    on_gpu = device.type == "cuda"
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": ranks.world_size,
        "seed": seed,
        "commit": _commit(),
        "initial_weights": weights_digest(model),
    }


def describe_network(model: nn.Module) -> dict[str, Any]:
    """Name, options and parameter count of a model, as plain values."""
    config = getattr(model, "deepprobe_config", None)
    named = dict(config) if isinstance(config, dict) else {"name": type(model).__name__}
    return {**named, "parameters": sum(p.numel() for p in model.parameters())}


def describe_data(data: Data) -> dict[str, Any]:
    """Number and digest of two tensors, or the length of a loader."""
    if not is_pair(data):
        return {"type": type(data).__name__, "batches": len(data) if isinstance(data, Sized) else None}
    x, y = data
    digest = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    chosen = x[:: max(1, len(x) // SAMPLES_HASHED)]
    for tensor in (chosen, y):
        digest.update(_bytes(tensor))
    return {"samples": len(x), "shape": list(x.shape[1:]), "sha256": digest.hexdigest()}


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of names and values of a model's state dict."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    """Content of a tensor, in logical order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


@cache
def _version(package: str) -> str | None:
    """Installed version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the repository that the process stands in, or None."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

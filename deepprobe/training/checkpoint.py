"""Checkpoints: written aside and renamed, read without running anything that is in them.

Reading is in this order, and every failure is a CheckpointError that names the file: the archive (``archive.py``: its
sizes and CRCs, and what its pickle asks for), ``torch.load(weights_only=True)``, and each tensor's size against the
bytes that are really there.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from deepprobe.errors import CheckpointError
from deepprobe.runs.atomic import written_aside
from deepprobe.training.archive import check_archive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORMAT = 1
MAX_BYTES = 64 * 2**30
MAX_HEADER_BYTES = 4 * 2**20
"""Of a safetensors file: 40,000 tensors."""
HOLES_FROM, HOLES_SHARE = 256 * 2**20, 16
"""A file of that size with less than one part in so many on the disk is made of holes, and reading it fills memory."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        weights: The model's state dict.
        deepprobe_config: Name and options of the zoo model that these weights belong to; None if the file does not say.
        about: What the run said of itself (data set, input size, …).
        training: All that is needed to resume; None in a file of weights alone.
    """

    weights: dict[str, Tensor]
    deepprobe_config: dict[str, Any] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] | None = None


def save_checkpoint(
    path: Path | str,
    model: nn.Module,
    *,
    about: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's weights, and what is needed to rebuild it if it came from the zoo.

    Args:
        path: The file, by custom ``.pt``; its folder must be there.
        model: Its state dict is written, and its ``deepprobe_config`` if it has one.
        about: Plain values to keep beside.
        training: State to resume from, of plain values and tensors.

    Raises:
        RunError: If the file cannot be written; a file of that name is untouched then.
    """
    config = getattr(model, "deepprobe_config", None)
    content = {
        "format": FORMAT,
        "deepprobe_config": None if config is None else dict(config),
        "about": dict(about or {}),
        "training": None if training is None else dict(training),
        "model": {name: tensor.detach() for name, tensor in model.state_dict().items()},
    }
    with written_aside(Path(path)) as aside, aside.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # what torch makes of a full disk
            raise _disk_error(error) from error


def _disk_error(error: BaseException) -> OSError:
    """The system's error behind one of torch, which only says that its zip was not finished."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError):
            return behind
        behind = behind.__context__
    return OSError(f"{type(error).__name__}: {str(error).splitlines()[0]}")


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint, a state dict written by ``torch.save``, or a safetensors file. Nothing in it is executed.

    Args:
        path: The file; ``.safetensors`` is read as such.

    Returns:
        Its content, tensors on the CPU.

    Raises:
        CheckpointError: If it is missing, damaged, hostile, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with path.open("rb") as file:
            _check_size(path, file)
            return _read_safetensors(path, file) if path.suffix == ".safetensors" else _read_archive(path, file)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def load_weights(model: nn.Module, path: Path | str) -> Checkpoint:
    """Load a file's weights into a model whose names and shapes are exactly the same.

    Args:
        model: Takes the weights; unchanged if they do not fit.
        path: As in ``load_checkpoint``.

    Returns:
        What the file holds.

    Raises:
        CheckpointError: As ``load_checkpoint``; or if names, shapes or kinds of number differ.
    """
    checkpoint = load_checkpoint(path)
    put_weights(model, checkpoint.weights, origin=str(path))
    return checkpoint


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], *, origin: str) -> None:
    """Copy weights into a model whose names and shapes are exactly the same.

    Args:
        model: Takes the weights; unchanged if they do not fit.
        weights: A state dict.
        origin: Where they came from, for the message.

    Raises:
        CheckpointError: If names, shapes or kinds of number differ.
    """
    own = model.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    words = [f"{len(n)} {what} ({n[0]!r})" for n, what in ((missing, "missing"), (extra, "not in the model")) if n]
    for name in own.keys() & weights.keys():
        if own[name].shape != weights[name].shape:
            words.append(f"{name!r} is {tuple(weights[name].shape)}, not {tuple(own[name].shape)}")
        elif own[name].is_floating_point() != weights[name].is_floating_point():
            words.append(f"{name!r} is {weights[name].dtype}, not {own[name].dtype}")
    if words:
        raise CheckpointError(
            f"the weights of {origin} are not those of this {type(model).__name__}: {'; '.join(sorted(words)[:5])}"
        )
    model.load_state_dict(dict(weights), strict=True)


def _check_size(path: Path, file: IO[bytes]) -> None:
    """Refuse a file that is too large, or large and not really there."""
    about = os.fstat(file.fileno())
    if about.st_size > MAX_BYTES:
        raise CheckpointError(f"{path} has {about.st_size:,} bytes; at most {MAX_BYTES:,} are read")
    there = getattr(about, "st_blocks", about.st_size) * 512
    if about.st_size > HOLES_FROM and there < about.st_size // HOLES_SHARE:
        raise CheckpointError(f"{path} is made of holes: {there:,} of its {about.st_size:,} bytes are on the disk")


def _read_archive(path: Path, file: IO[bytes]) -> Checkpoint:
    """The checkpoint, or the state dict, in a zip as torch.save writes it."""
    try:
        check_archive(file)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    except Exception as error:  # a hostile or torn file makes its reader raise anything
        raise CheckpointError(
            f"{path} is no checkpoint, or damaged: expected a zip as torch.save writes it ({_first_line(error)})"
        ) from error
    file.seek(0)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # as above
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_first_line(error)}") from error
    for where, tensor in _tensors(content):
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: tensor {where} claims {tensor.numel():,} elements and holds "
                f"{tensor.untyped_storage().nbytes():,} bytes"
            )
    return _of_content(path, content)


def _tensors(content: Any, where: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested tables and lists, and where it is."""
    stack = [(where, content)]
    seen: set[int] = set()
    while stack:
        where, value = stack.pop()
        if isinstance(value, Tensor):
            yield where, value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [(f"{where}.{str(key)[:100]}".lstrip("."), item) for key, item in pairs]


def _of_content(path: Path, content: Any) -> Checkpoint:
    """The checkpoint in what was read, whether ours or a bare state dict."""
    if isinstance(content, dict) and content and all(isinstance(v, Tensor) for v in content.values()):
        content = {"format": FORMAT, "model": content}
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{path} holds no weights: expected a table 'model' of tensors, or a state dict")
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {content.get('format')!r}; this version of deepprobe reads {FORMAT}")
    weights = content["model"]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        raise CheckpointError(f"{path} is damaged: expected every weight to be a tensor with a name")
    tables = {key: content.get(key) for key in ("deepprobe_config", "about", "training")}
    for key, value in tables.items():
        if value is not None and not (isinstance(value, dict) and all(isinstance(k, str) for k in value)):
            raise CheckpointError(f"{path} is damaged: expected {key!r} to be a table")
    return Checkpoint(weights, tables["deepprobe_config"], tables["about"] or {}, tables["training"])


def _read_safetensors(path: Path, file: IO[bytes]) -> Checkpoint:
    """Weights of a safetensors file, with the model's name and options if its metadata have them."""
    try:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(f"{path} has a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
        header = json.loads(file.read(length))
        config = json.loads(header.get("__metadata__", {}).get("deepprobe_config", "null"))
        file.seek(0)
        weights = load_safetensors(file.read())
    except CheckpointError:
        raise
    except Exception as error:  # a hostile or torn file makes its reader raise anything
        raise CheckpointError(f"{path} cannot be read as safetensors: {_first_line(error)}") from error
    return Checkpoint(weights, config if isinstance(config, dict) else None)


def _first_line(error: Exception) -> str:
    """What an error says, short."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__

"""What goes wrong while a run is trained, in the words of the command: its options, and how to go on."""

from __future__ import annotations

import re
import shlex
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from deepprobe.cli.job import NOT_OF_A_RUN
from deepprobe.cli.resume import MAY_CHANGE, kept_settings
from deepprobe.errors import ConfigError, DeepprobeError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import DataclassInstance

    from deepprobe.cli.job import Job

COMPILERS = ("torch._dynamo", "torch._inductor")


@contextmanager
def told_in_options(job: Job) -> Iterator[None]:
    """Context of one run, in which errors are told as somebody at the command line can use them.

    Raises:
        KeyboardInterrupt: With the run's name and the command that goes on.
        ConfigError: With the names of options.
        RunError: Where the folder holds another run, with the options that differ.
        DeepprobeError: In one line, where the network could not be compiled.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(_how_to_go_on(job, str(stop))) from stop
    except ConfigError as error:
        raise ConfigError(in_options(str(error), type(job.options))) from error
    except RunError as error:
        if "of another configuration" not in str(error) or not (words := _other_options(job)):
            raise
        raise RunError(f"{job.path} holds a run of another configuration ({words}); choose another --out") from error
    except Exception as error:  # the compilers raise errors of many classes with no common base
        if not type(error).__module__.startswith(COMPILERS):
            raise
        raise DeepprobeError(f"--compile: {_why_not_compiled(error)}") from error


def in_options(text: str, cls: type[DataclassInstance]) -> str:
    """A complaint about settings, with the names that they have on the command line."""
    names = "|".join(f.name for f in fields(cls))
    return re.sub(rf"(?<![\w.'-])({names})([=:])", _as_option, text.removeprefix("TrainConfig: "))


def _as_option(match: re.Match[str]) -> str:
    """``batch_size=`` as ``--batch-size `` and ``warmup_epochs:`` as ``--warmup-epochs:``."""
    return f"--{match[1].replace('_', '-')}{' ' if match[2] == '=' else match[2]}"


def _how_to_go_on(job: Job, stopped: str) -> str:
    """Where a run was stopped, and the command that goes on with it, and with those asked for together with it."""
    from deepprobe.runs.manifest import MANIFEST

    if not (job.path / MANIFEST).is_file():
        return f"{job.name}: {stopped or 'interrupted before it had begun'}"
    several = job.options.out if len(job.study.runs) > 1 else job.path
    command = f"deepprobe train --resume {shlex.quote(str(job.options.resume or several))}"
    return f"{job.name}: {stopped or 'interrupted within a step; to go on from its last checkpoint'}: {command}"


def _other_options(job: Job) -> str:
    """Options in which a run that is there differs from what is asked for, in words; empty if in none."""
    try:
        kept = type(job.options)(**kept_settings(job.path, type(job.options)))
    except DeepprobeError:
        return ""
    own = ("models", "seeds", *MAY_CHANGE, *NOT_OF_A_RUN)
    names = [f.name for f in fields(job.options) if f.name not in own]
    return "; ".join(
        f"--{name.replace('_', '-')}: {_shown(before)} in the folder, {_shown(now)} asked for"
        for name in names
        if (before := getattr(kept, name)) != (now := getattr(job.options, name))
    )


def _shown(value: Any) -> str:
    """The value of an option, as it is written."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _why_not_compiled(error: Exception) -> str:
    """The first line of what the compiler says, instead of its hundreds."""
    cause = getattr(error, "inner_exception", error)
    line = next((line.strip() for line in str(cause).splitlines() if line.strip()), "it does not say why")
    return (
        f"torch could not compile the network ({type(cause).__name__}: {line[:300]}); "
        "give the command again, or leave --compile out, with another --out"
    )

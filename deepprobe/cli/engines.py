"""Where ``deepprobe lottery`` runs its tasks: the engine that ``--engine`` names."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from deepprobe.cli.subject import read_values
from deepprobe.errors import ConfigError, nearest

if TYPE_CHECKING:
    from deepprobe.cli.lottery import LotteryOptions
    from deepprobe.pruning.lottery.tasks import Engine


def engine_of(options: LotteryOptions) -> Engine:
    """The engine that is asked for.

    Raises:
        ConfigError: If it has no such option, or not that value of it.
        MissingPackageError: If its package is not installed; the message names the extra.
    """
    from deepprobe.integrations import engines

    cls: Any = {"local": engines.LocalEngine, "ray": engines.RayEngine, "slurm": engines.SlurmEngine}[options.engine]
    values = read_values(options.engine_options, option="engine-options", example="n_workers=4")
    known = [field.name for field in fields(cls) if field.name not in ("quiet", "folder")]
    for name in values:
        if name not in known:
            raise ConfigError(f"--engine-options: the engine {options.engine} has no {name!r}; {nearest(name, known)}")
    own = {"folder": options.out} if options.engine == "slurm" else {}
    try:
        engine: Engine = cls(**own, **values, quiet=options.quiet)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"--engine-options {' '.join(options.engine_options)}: {error}") from error
    return engine

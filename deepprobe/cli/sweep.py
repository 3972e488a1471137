"""The experiments that ``deepprobe lottery`` is asked for: models × prune rates, checked before any training."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from deepprobe.cli.complaints import in_options
from deepprobe.cli.job import training_config
from deepprobe.errors import ConfigError
from deepprobe.records.step import parse_schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepprobe.cli.lottery import LotteryOptions
    from deepprobe.pruning import LotteryConfig


READ = ("prune", "densities", "rates", "control_rounds", "seeds")
"""Settings that stand on the command line in other words, or under another name."""


@dataclass(frozen=True)
class Trial:
    """One experiment of a command.

    Attributes:
        model: Name of the network.
        path: Folder of the experiment.
        config: How it is made.
    """

    model: str
    path: Path
    config: LotteryConfig


def trials(options: LotteryOptions, *, names: set[str]) -> list[Trial]:
    """The experiments, in the order in which they are made.

    Args:
        options: What was asked for.
        names: Options that were given, and are no defaults.

    Returns:
        One a model and prune rate, each in a folder of its own where there are several.

    Raises:
        ConfigError: If a share, a rate or a setting is wrong, or two of them rule each other out.
    """
    for option in ("evaluate_every", "early_bird_every"):
        try:
            parse_schedule(getattr(options, option) or "1ep")
        except ConfigError as error:
            raise ConfigError(f"--{option.replace('_', '-')} {error}") from None
    if options.gradual:
        _check_gradual(options.gradual)
    if options.control_rounds and not options.controls:
        raise ConfigError(f"--control-rounds {' '.join(options.control_rounds)}: there are none without --controls")
    if options.densities and (idle := sorted(names & {"rounds", "prune"})):
        raise ConfigError(f"--{' --'.join(idle)}: --densities says what each round leaves; give one or the other")
    shares = dict.fromkeys(share(word, option="prune") for word in options.prune)
    models = dict.fromkeys(options.models)
    is_one = len(shares) * len(models) == 1
    return [
        Trial(
            model=model,
            path=options.out if is_one else options.out / _folder(model, pruned, has_densities=bool(options.densities)),
            config=lottery_config(options, prune=pruned),
        )
        for model in models
        for pruned in shares
    ]


def lottery_config(options: LotteryOptions, *, prune: float) -> LotteryConfig:
    """How an experiment is made; ConfigError, in the names of options, if its settings do not fit together."""
    from deepprobe.pruning import LotteryConfig

    named = {f.name for f in fields(LotteryConfig)} - set(READ) - {"training"}
    try:
        training = training_config(options, seed=0)
    except ConfigError as error:
        raise ConfigError(in_options(str(error), type(options))) from error
    try:
        return LotteryConfig(
            **{name: getattr(options, name) for name in named},
            training=training,
            prune=prune,
            densities=tuple(share(word, option="densities") for word in options.densities) or None,
            rates=rates(options.rates),
            control_rounds=tuple(
                whole(word, option="control-rounds", least=0, most=1000) for word in options.control_rounds
            )
            or None,
            seeds=seeds(options.seeds),
        )
    except ConfigError as error:
        text = str(error).removeprefix("LotteryConfig: ")
        text = re.sub(r"\b(\w+)\.\d+=", r"\1=", text)  # which of several values is wrong is seen from the value
        raise ConfigError(in_options(text, type(options))) from error


def seeds(words: Sequence[str]) -> tuple[int, ...]:
    """Seeds from ``--seeds``: one number is how many, several are the seeds themselves.

    Raises:
        ConfigError: If a word is no number in range.

    Example:
        >>> seeds(("3",)), seeds(("3", "7"))
        ((0, 1, 2), (3, 7))
    """
    if len(words) > 1:
        return tuple(dict.fromkeys(whole(word, option="seeds", least=0, most=2**31 - 1) for word in words))
    return tuple(range(whole(words[0], option="seeds", least=1, most=10_000)))


def whole(word: str, *, option: str, least: int, most: int) -> int:
    """A whole number from a word; ConfigError if it is none, or out of range."""
    if not word.isdecimal() or len(word) > 10 or not least <= int(word) <= most:
        raise ConfigError(f"--{option} {word}: write a whole number from {least} to {most:,}")
    return int(word)


def share(word: str, *, option: str) -> float:
    """A share from a word.

    Args:
        word: A percentage with its sign, or a share.
        option: Where it was given, for the message.

    Returns:
        The share, between 0 and 1 and neither of them.

    Raises:
        ConfigError: If it is no such share.

    Example:
        >>> share("20%", option="prune"), share("0.2", option="prune")
        (0.2, 0.2)
    """
    number = word.removesuffix("%").strip()
    try:
        value = Fraction(number) / (100 if word.endswith("%") else 1) if len(number) < 20 else None
    except (ValueError, ZeroDivisionError):
        value = None
    if value is None or "/" in number:
        raise ConfigError(f"--{option} {word!r} is no share; write it as 20% or 0.2")
    if not 0 < value < 1:
        meant = f"; for {number} percent write {number}%" if 1 <= value < 100 and number == word else ""
        raise ConfigError(f"--{option} {word}: a share lies between 0 and 1 (0% and 100%) and is neither{meant}")
    return float(value)


def rates(words: Sequence[str]) -> dict[str, float]:
    """Factors by layer from words such as ``output=0.5``.

    Raises:
        ConfigError: If a word is not of this form.

    Example:
        >>> rates(("classifier.fc1=1", "output=50%"))
        {'classifier.fc1': 1.0, 'output': 0.5}
    """
    found: dict[str, float] = {}
    for word in words:
        layer, sign, value = word.rpartition("=")
        number = value.removesuffix("%")
        try:
            found[layer] = float(number) / (100 if number != value else 1)
        except ValueError:
            sign = ""
        if not sign or not layer:
            raise ConfigError(f"--rates {word!r}: write LAYER=FACTOR, for example output=0.5")
    return found


def _check_gradual(text: str) -> None:
    """ConfigError, with the name of the option, if the text is no schedule of gradual pruning."""
    from deepprobe.pruning.gradual import CubicSchedule

    try:
        CubicSchedule.parse(text)
    except ConfigError as error:
        raise ConfigError(f"--gradual {error}") from None


def _folder(model: str, pruned: float, *, has_densities: bool) -> str:
    """Name of the folder of one experiment of several."""
    return model if has_densities else f"{model}-prune{100 * pruned:.6g}"

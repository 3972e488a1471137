"""Settings of a lottery-ticket experiment: every one checked before the first training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, Strict, model_validator
from pydantic.dataclasses import dataclass

from deepprobe.errors import ConfigError, nearest
from deepprobe.pruning.allocation import kept_after, shares_of
from deepprobe.pruning.criteria import BEFORE_TRAINING, CRITERIA, NEEDS_INITIAL
from deepprobe.pruning.gradual import CubicSchedule
from deepprobe.pruning.rewinding import Rewinding
from deepprobe.records.step import parse_schedule
from deepprobe.training.config import TrainConfig, telling_config_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

Control = Literal["reinit", "random-mask", "shuffled-mask", "dense", "sibling"]

WITHOUT_EFFECT = ("seeds", "controls", "control_rounds", "rounds", "densities")
"""Settings that add trainings to an experiment, or leave some out, and change none."""

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@telling_config_errors
@dataclass(frozen=True, config=STRICT, kw_only=True)
class LotteryConfig:
    """How tickets are found. Values of the wrong type, out of range, or unknown are a ConfigError.

    Attributes:
        training: How every network is trained; its seed is replaced by those of ``seeds``.
        rounds: Rounds of pruning after the dense training, which is round 0.
        prune: Share of the weights left that each round removes.
        densities: Share of the weights that is left after each round, descending; in place of rounds and prune.
        pruning: iterative (each round prunes the network of the round before); one-shot (each prunes the dense
            network, to its own density); gradual (each is one training from the start, pruned along the way by the
            cubic schedule of Zhu & Gupta 2018).
        gradual: From when to when, and how often, gradual pruning removes weights: "1ep..5ep/100it".
        criterion: What is removed first, one of ``CRITERIA``.
        criterion_samples: Training samples that criteria with gradients look at.
        score_at: Which weights are scored: those of the trained network (end), or those that it is rewound to (start),
            as methods for pruning before training do; by default as the criterion is meant.
        allocation: global (weights of all layers compete), or layerwise (each loses the same share, times its rate).
        rates: Glob over layer names, or ``output`` for the last one, to the factor on its share; with layerwise.
        protect: Globs over names of layers that are never pruned, and not counted.
        rewind: To where a pruned network goes back: init, 500it, 2ep, lr, lr:2ep, fine-tune, none
            (``pruning.rewinding``).
        controls: Branches beside the ticket: reinit (same mask, new initial weights, trained from step 0), random-mask
            (as many weights in each layer, anywhere), shuffled-mask (each unit keeps its number of connections),
            dense (nothing pruned, one training of as many epochs as all that led to the ticket), sibling (same ticket,
            other order of the data, with the error barrier between the two).
        control_rounds: Rounds that get controls; all by default.
        seeds: Seeds of initial weights and order of the data; one chain of tickets each.
        evaluate_every: When the network is measured on validation and test set, beside each epoch's end: "100it".
        early_bird_every: When a mask is drawn and compared with those before ("1ep"), to see from when on the ticket is
            known (``EarlyBirdCallback``); never by default.
        probe_samples: Samples on which condition numbers are taken at the end of each training; 0 for none.
    """

    training: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    rounds: Annotated[int, Field(ge=1, le=1000)] = 12
    prune: Annotated[float, Field(gt=0, lt=1)] = 0.2
    densities: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Strict(False)] | None = None
    pruning: Literal["iterative", "one-shot", "gradual"] = "iterative"
    gradual: str = ""
    criterion: str = "magnitude"
    criterion_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    score_at: Literal["start", "end"] | None = None
    allocation: Literal["global", "layerwise"] = "global"
    rates: dict[str, Annotated[float, Field(ge=0)]] = dataclasses.field(default_factory=dict)
    protect: Annotated[tuple[str, ...], Strict(False)] = ()
    rewind: str = "init"
    controls: Annotated[tuple[Control, ...], Strict(False)] = ()
    control_rounds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Strict(False)] | None = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Strict(False), Field(min_length=1)] = (0,)
    evaluate_every: str = "1ep"
    early_bird_every: str | None = None
    probe_samples: Annotated[int, Field(ge=0, le=1_000_000)] = 512

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Settings that rule each other out."""
        if self.criterion not in CRITERIA:
            raise ConfigError(f"criterion={self.criterion!r}: there is no such criterion; "
                              f"{nearest(self.criterion, CRITERIA)}")  # fmt: skip
        for when in (self.evaluate_every, self.early_bird_every):
            if when is not None:
                parse_schedule(when)
        self.rewinding.config(self.training)
        if self.rates and self.allocation != "layerwise":
            raise ConfigError(f"rates={self.rates}: rates of layers need allocation='layerwise'")
        if self.densities is not None and not shares_of(self.densities):
            raise ConfigError("densities=(): name at least one")
        self._check_states()
        if self.control_rounds is not None and max(self.control_rounds, default=0) > self.n_rounds:
            raise ConfigError(f"control_rounds={self.control_rounds}: there are rounds 1 … {self.n_rounds}")
        if (self.pruning == "gradual") != bool(self.gradual):
            raise ConfigError(
                f"pruning={self.pruning!r}, gradual={self.gradual!r}: gradual pruning says from when to when, and how "
                "often: gradual='1ep..5ep/100it'; other pruning does not"
            )
        if self.pruning == "gradual":
            self._check_gradual()
        return self

    def _check_states(self) -> None:
        """ConfigError where masks would keep weights that earlier rounds have set to zero."""
        if self.pruning != "iterative" or self.rewinding.kind == "weights":
            return
        elsewhere = [control for control in ("random-mask", "shuffled-mask") if control in self.controls]
        what = f"controls={elsewhere}" if elsewhere else f"criterion={self.criterion!r}, scored before training,"
        if elsewhere or self.scores_start:
            raise ConfigError(
                f"{what} would keep weights that earlier rounds have removed, and rewind={self.rewind!r} does not "
                "bring them back; rewind weights ('init', '500it'), or take pruning='one-shot'"
            )

    def _check_gradual(self) -> None:
        """ConfigError where one training that prunes along the way has no such thing."""
        CubicSchedule.parse(self.gradual)
        if self.rewinding != Rewinding("weights") or "sibling" in self.controls:
            raise ConfigError(
                f"pruning='gradual' trains each network from the start and rewinds nothing, and has no sibling; here "
                f"rewind={self.rewind!r} and controls={list(self.controls)}"
            )
        if self.criterion in NEEDS_INITIAL:
            raise ConfigError(f"criterion={self.criterion!r} cannot be used while the network trains; try 'magnitude'")

    @property
    def rewinding(self) -> Rewinding:
        """``rewind``, read; ConfigError if it is of no known form."""
        return Rewinding.parse(self.rewind)

    @property
    def n_rounds(self) -> int:
        """Rounds after the dense one."""
        return self.rounds if self.densities is None else len(self.densities)

    @property
    def scores_start(self) -> bool:
        """Whether the weights that are rewound to are scored, not the trained ones."""
        return self.criterion in BEFORE_TRAINING if self.score_at is None else self.score_at == "start"

    def kept(self, sizes: Mapping[str, int], number: int) -> int | dict[str, int]:
        """How many weights a round keeps, of parameters of these sizes: of all together, or of each."""
        return kept_after(sizes, self.shares(number), allocation=self.allocation, rates=self.rates)

    def shares(self, number: int) -> list[Any]:
        """What each round up to this one removes of what is left."""
        return [self.prune] * number if self.densities is None else list(shares_of(self.densities[:number]))

    def trainings_until(self, number: int) -> int:
        """Trainings of all epochs that a round's ticket has behind it in the end."""
        return {"iterative": number + 1, "one-shot": 2, "gradual": 1}[self.pruning]

    def rounds_of(self, branch: str) -> list[int]:
        """Rounds in which a branch is trained, ascending."""
        first = 0 if branch in ("ticket", "sibling") else 1
        everything = branch == "ticket" or self.control_rounds is None
        asked = range(self.n_rounds + 1) if everything else self.control_rounds
        return sorted({number for number in asked or () if number >= first})

    def as_dict(self) -> dict[str, Any]:
        """Every setting as plain values, such as JSON and TOML hold."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["training"] = self.training.as_dict()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    def identity(self) -> dict[str, Any]:
        """Settings that differ from the defaults and change what a training of the experiment is."""
        default = LotteryConfig().as_dict()
        own = {k: v for k, v in self.as_dict().items() if v != default[k] and k not in (*WITHOUT_EFFECT, "training")}
        if self.densities is not None:
            own.pop("prune", None)
        training = self.training.identity()
        training.pop("seed", None)
        return own | {"training": training}

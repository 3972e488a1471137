"""What is wrong with a network: every rule on the evidence, ranked."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepprobe.diagnosis.evidence import Evidence, gather
from deepprobe.diagnosis.rules import RULES
from deepprobe.records.finding import Finding, findings_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    import torch
    from torch import nn

    from deepprobe.hooks.select import LayerSelection
    from deepprobe.probes.gradients import Loss

HEALTHY = "No rule found anything."


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found, the most severe first.

    Attributes:
        findings: Ranked.
        evidence: What the rules looked at.
    """

    findings: tuple[Finding, ...]
    evidence: Evidence

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not looked at, and why, one sentence each."""
        return self.evidence.notes

    def table(self) -> pd.DataFrame:
        """One row a finding (``records.finding.COLUMNS``)."""
        return findings_table(self.findings)

    def __str__(self) -> str:
        found = [_words(i, f) for i, f in enumerate(self.findings, start=1)] or [HEALTHY]
        return "\n\n".join(found + [f"Note: {note}" for note in self.notes])

    def _repr_html_(self) -> str:
        """For notebooks; names of layers come from the model and are escaped."""
        items = (
            f"<li><b>{html.escape(f.rule)}</b> ({f.severity:.2f}): {html.escape(f.says)}<br>"
            f"<small>{html.escape(_evidence(f))}<br>{html.escape(f.advice)}</small></li>"
            for f in self.findings
        )
        notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in self.notes)
        return (f"<ol>{''.join(items)}</ol>" if self.findings else f"<p>{HEALTHY}</p>") + notes


def diagnose(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    lr: float | None = None,
    loss: Loss | None = None,
    layers: LayerSelection = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Diagnosis:
    """Say what is wrong with a network, before or after training, with the evidence and what the literature suggests.

    The model is left as it was; nothing is trained. Every rule, its threshold and its source: ``docs/diagnosis.md``.

    Args:
        model: Any module; DistributedDataParallel and compiled wrappers are looked through.
        batches: Tensors, (input, target) pairs or dicts; the first batch, of 64 to 128 samples, matters most.
        lr: Learning rate of plain SGD to judge updates by; without one they are not judged.
        loss: ``loss(model, batch)``, as in ``gather``, like all that follows.
        layers: Which layers; by default all.
        device: Where to run; by default where the model is.
        seed: Of what the model draws.
        progress: Show a bar with the name of the pass, on terminals and in notebooks.

    Returns:
        The diagnosis; ``print`` it, or see ``.table()``, ``.evidence`` and ``.notes``.

    Raises:
        ConfigError: If ``lr`` is no positive number, or ``loss`` none that takes (model, batch) and fits the batches.
        ShapeError: If there is no sample, or the network does not run on the batch as it trains.
        UnknownNameError: If ``layers`` matches nothing.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> x, y = torch.randn(64, 8), torch.zeros(64, dtype=torch.long)
        >>> [finding.rule for finding in diagnose(model, (x, y)).findings]
        ['single-class']
    """
    evidence = gather(
        model, batches, loss=loss, layers=layers, lr=lr, device=device, seed=seed, progress=progress
    )  # fmt: skip
    return Diagnosis(found_in(evidence), evidence)


def found_in(evidence: Evidence) -> tuple[Finding, ...]:
    """What every rule finds in some evidence, the most severe first."""
    found = [finding for rule in RULES if (finding := rule(evidence)) is not None]
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def _evidence(finding: Finding) -> str:
    """What was compared with what, and on whose word."""
    return f"{finding.measure} {finding.value:.3g}, threshold {finding.threshold:.3g} ({finding.source})"


def _words(rank: int, finding: Finding) -> str:
    """One finding as plain text."""
    head = f"{rank}. {finding.rule} ({finding.severity:.2f})  {finding.says}"
    return f"{head}\n   {_evidence(finding)}\n   → {finding.advice}"

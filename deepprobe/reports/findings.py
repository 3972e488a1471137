"""The finding in words, computed from the data and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepprobe.records.spectrum import UNIT_ROUNDOFF
from deepprobe.reports.endings import endings, n_diverged, probed_at_the_end
from deepprobe.reports.facts import causes, kinds, layer_facts, trainings
from deepprobe.reports.kernels import sentence
from deepprobe.reports.source import Network, facet, facets, last_step, model_name
from deepprobe.reports.words import listed, number, percent, place, plural, span

STUDY = "the 164-layer study (Oyedotun, Al Ismaeil and Aouada)"
STUDIED = "164"
"""In the names of networks of that depth."""


@dataclass(frozen=True)
class Finding:
    """What the data say of one network, or of all of them.

    Attributes:
        heading: Network's name, or what is compared.
        sentences: Whole sentences; of several taps and views, those on the first.
        more: Sentences on the other taps and views.
    """

    heading: str
    sentences: tuple[str, ...]
    more: tuple[str, ...] = ()


def findings(networks: Sequence[Network]) -> tuple[Finding, ...]:
    """The comparison across networks, where there are several, then one finding a network.

    Args:
        networks: What the report is about.

    Returns:
        Findings in the order in which a report shows them.
    """
    each = tuple(of_network(n) for n in networks)
    return each if len(networks) < 2 else (comparison(networks), *each)


def of_network(network: Network) -> Finding:
    """All that is said of one network: learning, conditioning by tap and view, and the order of events."""
    views = facets(network.layers)
    parts = [conditioning(facet(network.layers, *f), where=place(*f)) for f in views] or [["No layer has a spectrum."]]
    first = (*endings(network), learning(network), *parts[0], *contrast(network), *_gradients(network))
    return Finding(network.name, (*first, *_in_flight(network)), tuple(s for part in parts[1:] for s in part))


def _in_flight(network: Network) -> list[str]:
    """How many rows were seen in flight and are in no figure, and where they are."""
    rows = network.in_flight
    if rows.empty:
        return []
    places = listed(place(*f) for f in facets(rows))
    return [
        f"{plural(len(rows), 'measurement')} made in flight on batches of training ({places}; at "
        f"{plural(rows['step'].nunique(), 'step')}) are in no figure and no table of this report; they are the rows of "
        "run.layers() with the split “train”."
    ]


def _gradients(network: Network) -> list[str]:
    """How the gradient and the update go over depth, in the run that is shown."""
    if network.kernels.empty:
        return []
    rows = network.kernels[network.kernels["run"] == network.shown.name]
    return [says for measure in ("gradient_norm", "update_ratio") if (says := sentence(rows, measure))]


def learning(network: Network) -> str:
    """Whether the network learns: its accuracy against chance, and the classes it predicts."""
    facts = [f for f in trainings(network) if f["split"] is not None]
    if not facts:
        return "No training was recorded with these numbers, so nothing is said about whether the network learns."
    accuracy = span([f["accuracy"] for f in facts], percent)
    over = f" over {len(facts)} runs" if len(facts) > 1 else ""
    says = f"{_subject(facts)}: {facts[0]['split']} accuracy {accuracy}{over}{_chance(facts)}"
    classes = [f["n_predicted_classes"] for f in facts if not np.isnan(f["n_predicted_classes"])]
    if classes:
        says += f"; it predicts {'1 class' if set(classes) == {1} else span(classes) + ' different classes'}"
    answers = [f["top_prediction_share"] for f in facts if not np.isnan(f["top_prediction_share"])]
    if answers and set(classes) != {1}:
        says += f", and {span(answers, percent)} of its answers are one and the same class"
    return says + "."


def contrast(network: Network) -> list[str]:
    """Where learning and conditioning do not go together, so that the one cannot be the reason for the other.

    Nothing where the last probe is older than the accuracy: layers may have changed since.
    """
    verdicts = {f["learns"] for f in trainings(network)}
    views = facets(network.layers)
    facts = [_facts(network, *f) for f in views]
    bad = [f["n_layers"] - f["finite"] - f["structural"] for part in facts for f in part]
    if not bad or len(verdicts) != 1 or n_diverged(network) or not probed_at_the_end(network):
        return []
    if verdicts == {False} and not any(bad):
        return ["It does not learn although no layer that was measured has collapsed."]
    lost = [place(*view) for view, part in zip(views, facts, strict=True) if any(f["collapsed"] for f in part)]
    if verdicts == {True} and lost:
        return [f"It learns although layers have collapsed in {'; '.join(lost)}."]
    return []


def _chance(facts: Sequence[dict[str, Any]]) -> str:
    """What accuracy is to be compared with."""
    chance = [f["chance"] for f in facts if not np.isnan(f["chance"])]
    if not chance:
        return ""
    if any(f["is_guessing"] for f in facts):
        return f", against {span(chance, percent)} by guessing among {span([f['n_classes'] for f in facts])} classes"
    return f", against {span(chance, percent)} for always answering the most frequent class"


def _subject(facts: Sequence[dict[str, Any]]) -> str:
    """Verdict that opens the sentence on learning."""
    known = [f["learns"] for f in facts if f["learns"] is not None]
    if len(known) < len(facts):
        return "Whether it learns cannot be judged, as neither the classes nor their shares were recorded"
    if all(known):
        return "It learns" + (f" in all {len(known)} runs" if len(known) > 1 else "")
    if not any(known):
        return "It does not learn" + (f" in any of {len(known)} runs" if len(known) > 1 else "")
    return f"It learns in {sum(known)} of {len(known)} runs"


def conditioning(frame: pd.DataFrame, *, where: str = "") -> list[str]:
    """Sentences on one network's layers in one tap and view, at the last step of each of its runs.

    Args:
        frame: Normalised wide table of one tap and view, all runs and steps.
        where: Tap and view in words, the sentences' beginning.

    Returns:
        Sentences; none where no layer was measured.
    """
    last = last_step(frame)
    facts = [layer_facts(rows) for _, rows in last.groupby("run", sort=False, dropna=False)]
    facts = [f for f in facts if f["n_layers"]]
    if not facts:
        return [f"{_capital(where)}: nothing was measured (no rows)."] if len(frame) else []
    several = f" (mean and range over {len(facts)} runs)" if len(facts) > 1 else ""
    sentences = [f"{_capital(where)}{several}: {_state(facts)}."]
    sentences += _structural(last, facts) + _collapse(last, facts) + _others(facts) + _range(facts, last)
    return sentences + _horizon(facts) + events(frame)


def _state(facts: Sequence[dict[str, Any]]) -> str:
    """How many layers are finite, and the onset."""
    total = span([f["n_layers"] for f in facts])
    if all(f["finite"] == f["n_layers"] for f in facts):
        return f"the condition number is finite at every one of {total} layers"
    says = f"the condition number is finite at {span([f['finite'] for f in facts])} of {total} layers"
    return f"{says}; {_onset(facts, 'onset', 'at least nine tenths of the layers are not finite')}"


def _onset(facts: Sequence[dict[str, Any]], key: str, what: str) -> str:
    """From which depth on, in how many runs."""
    depths = [f[key] for f in facts if f[key] is not None]
    if not depths:
        return f"there is no depth from which on {what}"
    runs = f" in {len(depths)} of {len(facts)} runs" if len(facts) > 1 else ""
    return f"from depth {span(depths)} on{runs}, {what}"


def _structural(last: pd.DataFrame, facts: Sequence[dict[str, Any]]) -> list[str]:
    """Layers that are singular for reasons that set no limit on what the rest can tell apart."""
    if not any(f["structural"] for f in facts):
        return []
    found = causes(last[kinds(last) == "structural"])
    runs = last["run"].nunique(dropna=False)
    parts = [f"{cause} ({plural(count, 'layer')})" for cause, count in found.items()]
    total = " in all runs together" if runs > 1 else ""
    says = f"{_layers(facts, 'structural')} singular by structure only: {listed(parts)}{total}"
    live = [f for f in facts if not np.isnan(f["live_median"])]
    if live:
        low, high = min(f["live_least"] for f in live), max(f["live_greatest"] for f in live)
        says += f"; over live units the condition number there and elsewhere is {_between(low, high)}"
    return [says + "."]


def _collapse(last: pd.DataFrame, facts: Sequence[dict[str, Any]]) -> list[str]:
    """Layers that have lost rank although nothing structural demands it."""
    lost = [f for f in facts if f["collapsed"]]
    if not lost:
        return ["No layer has collapsed: none loses rank beyond what its structure explains."]
    rows = last[kinds(last) == "collapsed"]
    says = (
        f"{_layers(facts, 'collapsed', verb='have')} collapsed: also without dead and duplicate units the smallest "
        f"singular value is below what {_precision(rows)} can tell from zero"
    )
    ranks = [f for f in lost if not np.isnan(f["lost_numerical_rank_median"])]
    if ranks:
        says += f", with a median numerical rank of {span([f['lost_numerical_rank_median'] for f in ranks])}"
        says += f" out of {span([f['lost_values_median'] for f in ranks])}"
    effective = [f["lost_effective_rank_median"] for f in lost if not np.isnan(f["lost_effective_rank_median"])]
    if effective:
        says += f" and a median effective rank of {span(effective)}"
    live = _onset(
        facts, "onset_live", "at least nine tenths of the layers have collapsed or hold NaN, over live units too"
    )
    return [f"{says}.", f"{_capital(live)}."]


def _precision(rows: pd.DataFrame) -> str:
    """Dtypes of the activations, in words."""
    known = [d for d in rows["dtype"].unique() if d in UNIT_ROUNDOFF]
    return listed(known) if known else "their precision"


def _others(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Layers with NaN, infinity or too large an arithmetic error."""
    sentences = []
    if any(f["nonfinite"] for f in facts):
        sentences.append(f"{_layers(facts, 'nonfinite', verb='hold')} NaN or infinite activations.")
    if any(f["unresolved"] for f in facts):
        sentences.append(
            f"{_layers(facts, 'unresolved')} unresolved: the arithmetic's own error, measured by a float64 replay, "
            "exceeds 1 % of σ₁, so nothing is claimed about them."
        )
    return sentences


def _range(facts: Sequence[dict[str, Any]], last: pd.DataFrame) -> list[str]:
    """Condition numbers of finite layers, and against chance."""
    known = [f for f in facts if f["finite"]]
    if not known:
        return []
    low, high = min(f["kappa_least"] for f in known), max(f["kappa_greatest"] for f in known)
    says = f"Where it is finite, κ is {_between(low, high)}, median {span([f['kappa_median'] for f in known])}"
    ratios = [f["null_ratio_median"] for f in known if not np.isnan(f["null_ratio_median"])]
    if ratios:
        says += f"; the median layer has {span(ratios)} times the κ of a Gaussian matrix of its shape"
    if last["sketched"].any():
        says += "; some values come from a sketch (see the table)"
    return [says + "."]


def _horizon(facts: Sequence[dict[str, Any]]) -> list[str]:
    """From which depth on the arithmetic cannot know the values; nothing without a replay."""
    replayed = [f for f in facts if f["n_replayed"]]
    if not replayed:
        return []
    depths = [f["horizon"] for f in replayed if f["horizon"] is not None]
    if not depths:
        return ["No precision horizon: a float64 replay stays within 1 % of σ₁ at every layer that it measured."]
    runs = f" in {len(depths)} of {len(replayed)} runs" if len(replayed) > 1 else ""
    return [
        f"Precision horizon at depth {span(depths)}{runs}: there the arithmetic's own error, measured by a float64 "
        "replay, first exceeds 1 % of σ₁."
    ]


def events(frame: pd.DataFrame) -> list[str]:
    """When in training the collapse came to stay, and whether one passed, for runs probed more than once."""
    stayed: list[str] = []
    passed: list[tuple[float, float]] = []
    n_runs = 0
    for _, run in frame.groupby("run", sort=False, dropna=False):
        probed = [(s, layer_facts(run[run["step"] == s])) for s in sorted(float(s) for s in run["step"].unique())]
        onsets = [(s, f["onset_live"]) for s, f in probed if f["n_layers"]]
        if len(onsets) < 2:
            continue
        n_runs += 1
        sound = [i for i, (_, depth) in enumerate(onsets) if depth is None]
        since = sound[-1] + 1 if sound else 0
        if since < len(onsets):
            stayed.append(f"step {number(onsets[since][0])} (then from depth {onsets[since][1]} on)")
        passed += [(s, depth) for s, depth in onsets[:since] if depth is not None]
    if not n_runs:
        return []
    what = "nine tenths of the layers from some depth on had collapsed or held NaN, over live units"
    share = f" in {len(stayed)} of {n_runs} runs" if n_runs > 1 else ""
    said = [f"From which probe to the last {what}{share}: {', '.join(stayed)}."] if stayed else []
    if passed:
        steps = ", ".join(dict.fromkeys(number(s) for s, _ in passed))
        depths = span([float(depth) for _, depth in passed])
        said.append(f"At step {steps} {what} (onset at depth {depths}), and at a later probe no more: that passed.")
    return said or [f"There was no probe during training at which {what}."]


def comparison(networks: Sequence[Network]) -> Finding:
    """Sentences across networks: who learns, where each stops being finite, and whether that is the study's claim."""
    shared = [f for f in facets(networks[0].layers) if all(f in facets(n.layers) for n in networks)]
    parts = []
    for tap, view in shared:
        each = "; ".join(f"{n.name}: {brief(n, tap, view)}" for n in networks)
        sentences = (f"{_capital(place(tap, view))}, over live units – {each}.", _claim(networks, tap, view))
        parts.append(tuple(s for s in sentences if s))
    first = tuple(s for s in (_learners(networks), *(parts[0] if parts else ())) if s)
    if not first:
        first = ("These networks have no tap and view in common, so their layers are not compared.",)
    return Finding("In short", first, tuple(s for part in parts[1:] for s in part))


def _learners(networks: Sequence[Network]) -> str:
    """Which networks learn and which do not."""
    yes: list[str] = []
    no: list[str] = []
    mixed: list[str] = []
    lost = [n.name for n in networks if n_diverged(n) == len(n.runs)]
    for network in networks:
        known = [f for f in trainings(network) if f["learns"] is not None and network.name not in lost]
        if known:
            target = yes if all(f["learns"] for f in known) else mixed if any(f["learns"] for f in known) else no
            target.append(
                f"{network.name} ({known[0]['split']} accuracy {span([f['accuracy'] for f in known], percent)})"
            )
    parts = [f"{listed(yes)} {_verb(yes, 'learn')}"] if yes else []
    parts += [f"{listed(no)} {_verb(no, 'do')} not learn"] if no else []
    parts += [f"{listed(mixed)} {_verb(mixed, 'learn')} in some runs only"] if mixed else []
    parts += [f"{listed(lost)} diverged"] if lost else []
    return "; ".join(parts) + "." if parts else ""


def _verb(subjects: Sequence[str], verb: str) -> str:
    """Third person of a verb for one subject or several."""
    if len(subjects) > 1:
        return verb
    return "does" if verb == "do" else verb + "s"


def _facts(network: Network, tap: str, view: str) -> list[dict[str, Any]]:
    """Facts of each run of a network at its last step."""
    rows = last_step(facet(network.layers, tap, view))
    facts = [layer_facts(part) for _, part in rows.groupby("run", sort=False, dropna=False)]
    return [f for f in facts if f["n_layers"]]


def brief(network: Network, tap: str, view: str) -> str:
    """One network's layers of one tap and view in a few words, over live units, at the last step of each run."""
    facts = _facts(network, tap, view)
    if not facts:
        return "nothing measured"
    blind = [f["unresolved"] for f in facts]
    unknown = f" ({span(blind)} of {span([f['n_layers'] for f in facts])} unresolved)" if any(blind) else ""
    bad = [f["n_layers"] - f["finite"] - f["structural"] - f["unresolved"] for f in facts]
    if all(f["unresolved"] == f["n_layers"] for f in facts):
        return "unresolved at every layer"
    if not any(bad):
        return f"finite at every {'resolved ' if unknown else ''}layer{unknown}"
    depths = [f["onset_live"] for f in facts if f["onset_live"] is not None]
    if depths:
        runs = f" in {len(depths)} of {len(facts)} runs" if len(facts) > 1 else ""
        return f"not finite from depth {span(depths)} on{runs}{unknown}"
    return f"{span(bad)} of {span([f['n_layers'] for f in facts])} layers not finite, with no onset{unknown}"


def _claim(networks: Sequence[Network], tap: str, view: str) -> str:
    """Whether plain networks alone lose their rank from a depth on; nothing unless both sorts are there."""
    plain = [n for n in networks if "plain" in sort_of(n)]
    residual = [n for n in networks if "res" in sort_of(n) and "plain" not in sort_of(n)]
    lost = {n.name: [f["onset_live"] is not None for f in _facts(n, tap, view)] for n in (*plain, *residual)}
    if not plain or not residual or not all(lost.values()):
        return ""
    blind = [
        n.name for n in (*plain, *residual) if any(2 * f["unresolved"] > f["n_layers"] for f in _facts(n, tap, view))
    ]
    if blind:
        return (
            f"In {place(tap, view)}, these data cannot decide whether only a plain network becomes singular: over "
            f"half the layers of {listed(blind)} are unresolved."
        )
    plain_lost = all(all(lost[n.name]) for n in plain)
    residual_kept = not any(any(lost[n.name]) for n in residual)
    claim = "that a plain network is singular from some depth on and a residual one never"
    if all(STUDIED in sort_of(n) for n in (*plain, *residual)):
        claim = f"what {STUDY} found, {claim}"
    if plain_lost and residual_kept:
        return f"In {place(tap, view)}, these data show {claim}."
    reasons = []
    if not plain_lost:
        kept = [n.name for n in plain if not all(lost[n.name])]
        reasons.append(f"{listed(kept)} {_verb(kept, 'do')} not lose rank from some depth on in every run")
    if not residual_kept:
        gone = [n.name for n in residual if any(lost[n.name])]
        reasons.append(f"{listed(gone)} {_verb(gone, 'lose')} rank from some depth on in at least one run")
    return f"In {place(tap, view)}, these data do not show {claim}: {listed(reasons)}."


def sort_of(network: Network) -> str:
    """Model's name in lower case, or the network's where its settings do not say."""
    return (model_name(network.runs[0].config) or network.name).lower()


def _layers(facts: Sequence[dict[str, Any]], key: str, *, verb: str = "are") -> str:
    """``3 layers are``, ``1 layer is``, ``54.3 (52–57) layers are``."""
    values = [f[key] for f in facts]
    if set(values) == {1}:
        return "1 layer " + {"are": "is", "hold": "holds", "have": "has"}[verb]
    return f"{span(values)} layers {verb}"


def _between(low: float, high: float) -> str:
    """Range of condition numbers."""
    return f"{number(low)} throughout" if number(low) == number(high) else f"between {number(low)} and {number(high)}"


def _capital(text: str) -> str:
    """Text with a capital letter first; Layers where it is empty."""
    return text[:1].upper() + text[1:] if text else "Layers"

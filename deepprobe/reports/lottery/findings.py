"""What an experiment found, in words: from its numbers and from nothing else, with how many seeds they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepprobe.reports.findings import Finding
from deepprobe.reports.lottery.figures import CONDITIONING, STABLE
from deepprobe.reports.lottery.frames import BRANCHES, branches, conditioning, experiment_frame, over_seeds
from deepprobe.reports.source import facet, facets
from deepprobe.reports.words import listed, number, place, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd

    from deepprobe.reports.lottery.source import Lottery

NARROW = "\N{NO-BREAK SPACE}"
CONTROLS = ("reinit", "random-mask", "shuffled-mask", "dense")
ACCURACIES = {"test_accuracy": "test", "validation_accuracy": "validation"}


def findings(lottery: Lottery) -> tuple[Finding, ...]:
    """All findings that the experiment allows, in the order of the page."""
    first, *others = conditions(lottery) or [[]]
    parts = {
        "How far it has come": progress(lottery),
        "Accuracy": accuracy(lottery),
        "Early stopping": early_stopping(lottery),
        "Order of the data": instability(lottery),
        "Conditioning": first,
        "Masks": masks(lottery),
    }
    more = {"Conditioning": tuple(sentence for part in others for sentence in part)}
    return tuple(Finding(heading, tuple(said), more.get(heading, ())) for heading, said in parts.items() if said)


def left(density: float) -> str:
    """Share of the weights that is left: ``3.52 %``."""
    return f"{100 * density:.3g}\N{NO-BREAK SPACE}%"


def accuracy_words(share: float) -> str:
    """An accuracy with two digits: one image in ten thousand."""
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.2f}".replace("-", "−")


def accuracy_of(table: pd.DataFrame) -> str:
    """The accuracy that is spoken of: on test data, else on validation data where no test data were given."""
    return "test_accuracy" if table["test_accuracy"].notna().any() else "validation_accuracy"


def progress(lottery: Lottery) -> list[str]:
    """What is not complete, and what is left out for it; nothing where all is done."""
    table = lottery.table
    if table.empty:
        return ["No training has begun."]
    sentences = []
    open_ = table[table["status"] != "complete"]
    if len(open_):
        counts = [f"{count} {status}" for status, count in open_["status"].value_counts().items()]
        sentences.append(
            f"{len(open_)} of {plural(len(table), 'training')} {'is' if len(open_) == 1 else 'are'} not complete "
            f"({listed(counts)}): no figure and no mean on this page counts them."
        )
    last, behind = _rounds(lottery), []
    tickets = lottery.complete[lottery.complete["branch"] == "ticket"].groupby("seed")["round"].max()
    for seed in dict.fromkeys([*_seeds(lottery), *sorted(set(table["seed"]))]):
        reached = tickets.get(seed)
        if reached is None:
            behind.append(f"seed {seed} has no complete training")
        elif reached < last:
            behind.append(f"seed {seed} has come to round {reached} of {last}")
    if behind:
        sentences.append(_capital(listed(behind)) + "; means are over the seeds that are there.")
    return sentences


def accuracy(lottery: Lottery) -> list[str]:
    """Down to which density tickets are as accurate as the dense network, and how controls compare."""
    measure = accuracy_of(lottery.complete)
    means = _means(lottery, measure)
    dense, tickets = _dense(means), _tickets(means)
    if dense is None:
        return ["No accuracy of a dense network is known yet."]
    kind = ACCURACIES[measure]
    sentences = [f"The dense network reaches {_spread(dense)} {kind} accuracy ({plural(dense['n'], 'seed')})."]
    if tickets.empty:
        return sentences
    sentences.append(_matching_words(tickets, dense))
    best = _most(tickets, "mean")
    if best["mean"] > dense["mean"]:
        sentences.append(
            f"The highest mean of the tickets is {accuracy_words(best['mean'])} at {left(best['at'])} of the weights, "
            f"{100 * (best['mean'] - dense['mean']):.2f} points above the dense mean"
            f"{_by_seed(lottery, measure, int(best['round']), against_dense=True)}."
        )
    for control in CONTROLS:
        for number_ in _rounds_to_tell(lottery, measure, control):
            sentences.append(_against(lottery, measure, control, number_))
    return sentences


def matching_round(lottery: Lottery, measure: str) -> int | None:
    """The last round whose tickets' mean is not below the lowest dense seed; None if there is none."""
    means = _means(lottery, measure)
    dense, tickets = _dense(means), _tickets(means)
    if dense is None or tickets.empty:
        return None
    good = tickets[tickets["mean"] >= dense["low"]]
    return int(good["round"].max()) if len(good) else None


def early_stopping(lottery: Lottery) -> list[str]:
    """When validation loss was lowest: dense, tickets and controls, at a density that the section on accuracy names."""
    measure = "early_stop_iteration"
    means = _means(lottery, measure)
    dense, tickets = _dense(means), _tickets(means)
    if dense is None or tickets.empty:
        return []
    told = {matching_round(lottery, accuracy_of(lottery.complete)) or 0, int(tickets["round"].max())}
    told |= {int(r) for r in means.loc[means["branch"] == "reinit", "round"].tail(1)}
    known = sorted(told & set(tickets["round"]))
    stopped = lottery.complete[lottery.complete[measure].notna()]
    late = int((stopped[measure] == stopped["iterations"]).sum())
    first = _least(tickets, "mean")
    return [
        f"Validation loss was lowest at iteration {_steps(dense)} in the dense network; only iterations at which it "
        "was recorded count.",
        *(_stops(means[means["round"] == number_]) for number_ in known),
        f"Tickets reached it earliest at {left(first['at'])} of the weights, at iteration {_steps(first)} "
        f"({plural(first['n'], 'seed')}).",
        *([_still_falling(late, len(stopped))] if late else []),
    ]


def _still_falling(n_late: int, n_trainings: int) -> str:
    """What it means that validation loss was lowest at the last evaluation."""
    which = "all" if n_late == n_trainings else f"{n_late} of"
    return (
        f"In {which} {plural(n_trainings, 'training')} it was lowest at the last iteration: it may still have been "
        "falling, and longer training may move these numbers."
    )


def _stops(at: pd.DataFrame) -> str:
    """When each branch of a round reached its lowest validation loss."""
    parts = [
        f"{BRANCHES.get(branch, branch)} {_steps(at[at['branch'] == branch].iloc[0])}"
        for branch in branches(at["branch"])
        if branch not in {"sibling", "dense"}
    ]
    return f"At {left(float(at['at'].iloc[0]))} of the weights: {listed(parts)} ({_counted(at['n'])})."


def instability(lottery: Lottery) -> list[str]:
    """Error barriers between a ticket and its sibling."""
    measure, kind = ("barrier", "test") if lottery.complete["barrier"].notna().any() else ("train_barrier", "training")
    means = _means(lottery, measure)
    if means.empty:
        return []
    ends = [_least(means, "round"), _most(means, "round")]
    said = [
        f"{100 * row['mean']:.2f} points at {left(row['at'])} of the weights ({plural(row['n'], 'seed')})"
        for row in (ends if len(means) > 1 else ends[:1])
    ]
    stable = means[means["mean"] < STABLE]
    return [
        "Two networks trained from the same start, with the data in another order, are separated by an error barrier "
        f"(on {kind} data) of {listed(said)}.",
        f"The mean barrier is below {100 * STABLE:g} points, which Frankle et al. (2020) call stable, at {len(stable)} "
        f"of the {len(means)} densities measured" + (f" ({_run_of(stable)})." if len(stable) else "."),
    ]


def conditions(lottery: Lottery) -> list[list[str]]:
    """Median κ and effective rank of the last tickets against dense networks and controls, a list a tap and view."""
    parts = []
    for tap, view in facets(lottery.layers) if len(lottery.layers) else []:
        rows = facet(lottery.layers, tap, view)
        known = [m for m in (kappa_of(rows), "effective_rank") if m in rows and rows[m].notna().any()]
        parts.append([sentence for m in known for sentence in _condition(rows, m, place(tap, view))])
    return [part for part in parts if part]


def kappa_of(rows: pd.DataFrame) -> str:
    """The condition number that is spoken of: over live units where that is known."""
    live = "condition_number_live"
    return live if live in rows and rows[live].notna().any() else "condition_number"


def masks(lottery: Lottery) -> list[str]:
    """Where the weights are that are left, layers that keep nothing, and how far the seeds agree."""
    sentences = []
    tickets = experiment_frame(lottery.densities, "layer", "n_kept")
    tickets = tickets[(tickets["branch"] == "ticket") & (tickets["round"] > 0)]
    if len(tickets):
        last = tickets[tickets["round"] == tickets["round"].max()]
        by_layer = last.groupby("layer", sort=False)["density"].mean()
        ends = listed(f"{left(by_layer[k])} ({k})" for k in dict.fromkeys((by_layer.idxmin(), by_layer.idxmax())))
        sentences.append(
            f"At {left(last['n_kept'].sum() / last['n_weights'].sum())} of the weights layers keep between {ends} of "
            "their own."
        )
        empty = tickets[tickets["n_kept"] == 0]
        if len(empty):
            first = _least(empty, "round")
            sentences.append(
                f"Layers that keep nothing: {listed(dict.fromkeys(empty['layer']))}, the first at "
                f"round {first['round']}, in {plural(empty['run'].nunique(), 'ticket')} in all."
            )
    pairs = lottery.overlap[(lottery.overlap["branch"] == "ticket") & (lottery.overlap["round"] > 0)]
    pairs = pairs[pairs["overlap"].notna()]
    if len(pairs):
        last = pairs[pairs["round"] == pairs["round"].max()]
        sentences.append(
            f"At {left(last['density'].mean())} of the weights the tickets of two seeds share "
            f"{left(last['overlap'].mean())} of what either keeps; random masks as dense in each layer would share "
            f"{left(last['chance'].mean())} ({plural(len(last), 'pair')} of seeds)."
        )
    return sentences


def _means(lottery: Lottery, measure: str) -> pd.DataFrame:
    """Mean over seeds of a measure of the table, by branch and round."""
    return over_seeds(experiment_frame(lottery.complete, measure), measure)


def _dense(means: pd.DataFrame) -> pd.Series | None:
    """The row of the dense network, round 0 of the tickets, if it is there."""
    rows = means[(means["branch"] == "ticket") & (means["round"] == 0)]
    return rows.iloc[0] if len(rows) else None


def _tickets(means: pd.DataFrame) -> pd.DataFrame:
    """The rows of tickets of later rounds."""
    return means[(means["branch"] == "ticket") & (means["round"] > 0)]


def _matching_words(tickets: pd.DataFrame, dense: pd.Series) -> str:
    """Down to which density the tickets' mean is not below the lowest dense seed."""
    good = tickets[tickets["mean"] >= dense["low"]]
    spread = "the spread of the dense seeds" if dense["n"] > 1 else "the one dense network"
    if good.empty:
        near = _most(tickets, "mean")
        return (
            f"At no density is the tickets' mean accuracy within {spread}, or above; the nearest is "
            f"{_spread(near)} at {left(near['at'])} of the weights ({plural(near['n'], 'seed')})."
        )
    last = _most(good, "round")
    between = tickets[(tickets["round"] < last["round"]) & (tickets["mean"] < dense["low"])]
    within = f"within {spread}, or above" if dense["n"] > 1 else f"at least that of {spread}"
    exception = f" (not at {listed(left(d) for d in between['at'])})" if len(between) else ""
    single = "" if dense["n"] > 1 else " With one seed there is no spread to compare with."
    return (
        f"The smallest density at which the tickets' mean accuracy is {within}, is {left(last['at'])} of the weights "
        f"(round {last['round']}): {_spread(last)}, {plural(last['n'], 'seed')}{exception}.{single}"
    )


def _rounds_to_tell(lottery: Lottery, measure: str, control: str) -> list[int]:
    """Rounds at which a control is compared: that of the last matching ticket, and the sparsest that both have."""
    known = lottery.complete[lottery.complete[measure].notna()]
    both = set(known.loc[known["branch"] == control, "round"]) & set(known.loc[known["branch"] == "ticket", "round"])
    if not both:
        return []
    matching = matching_round(lottery, measure)
    return sorted({matching, max(both)} & both) if matching is not None else [max(both)]


def _against(lottery: Lottery, measure: str, control: str, number_: int) -> str:
    """A control of a round beside the ticket of the same seeds, in points."""
    pairs = _pairs(lottery.complete, measure, control, number_)
    name = BRANCHES.get(control, control)
    if pairs.empty:
        return f"No seed has both the ticket and {name} at round {number_}."
    differences = pairs["ticket"] - pairs[control]
    at = experiment_frame(lottery.complete).set_index("round")["at"]
    where = f"At {left(float(np.ravel(at.loc[number_])[0]))} of the weights"
    numbers = f"({accuracy_words(pairs['ticket'].mean())} against {accuracy_words(pairs[control].mean())}"
    numbers += f"; {plural(len(pairs), 'seed')}"
    mean, low, high = float(differences.mean()), float(differences.min()), float(differences.max())
    if low < 0 < high:
        return (
            f"{where} tickets and {name} differ by {points(mean)} points {numbers}): by seed from {points(low)} to "
            f"{points(high)}, so not all of one sign."
        )
    ends = sorted((f"{abs(100 * low):.2f}", f"{abs(100 * high):.2f}"), key=float)
    numbers += f", {' to '.join(dict.fromkeys(ends))})" if len(pairs) > 1 else ")"
    which = "above" if mean > 0 else "below" if mean < 0 else "from"
    return f"{where} tickets are {abs(100 * mean):.2f} points {which} {name} {numbers}."


def _pairs(table: pd.DataFrame, measure: str, control: str, number_: int) -> pd.DataFrame:
    """A measure of ticket and control of a round, a row a seed that has both."""
    rows = table[(table["round"] == number_) & table["branch"].isin(["ticket", control])]
    return (
        rows.pivot_table(index="seed", columns="branch", values=measure).reindex(columns=["ticket", control]).dropna()
    )


def _by_seed(lottery: Lottery, measure: str, number_: int, *, against_dense: bool) -> str:
    """Lowest and highest difference of a seed's ticket from its own dense network; empty for one seed."""
    tickets = lottery.complete[lottery.complete["branch"] == "ticket"].pivot_table(
        index="seed", columns="round", values=measure
    )
    if not against_dense or not {0, number_} <= set(tickets.columns):
        return ""
    differences = (tickets[number_] - tickets[0]).dropna()
    if len(differences) < 2:
        return ""
    return f" (each seed between {points(differences.min())} and {points(differences.max())})"


def _condition(rows: pd.DataFrame, measure: str, where: str) -> list[str]:
    """One measure of conditioning, at the last round, of every branch."""
    geometric = measure.startswith("condition_number")
    means = over_seeds(conditioning(rows, measure), measure, geometric=geometric)
    dense, tickets = _dense(means), _tickets(means)
    if dense is None or tickets.empty:
        return []
    at = means[(means["round"] == tickets["round"].max()) & ~means["branch"].isin(["sibling"])]
    parts = [f"{_ends(dense)} in dense networks"]
    for branch in branches(at["branch"]):
        row = at[at["branch"] == branch].iloc[0]
        parts.append(
            f"{_ends(row)} with {BRANCHES.get(branch, branch)}" if branch != "ticket" else f"{_ends(row)} in tickets"
        )
    ticket = at[at["branch"] == "ticket"].iloc[0]
    says = ""
    if np.isfinite(ticket["mean"]) and np.isfinite(dense["mean"]) and dense["mean"] > 0:
        says = f" Tickets have {number(ticket['mean'] / dense['mean'])} times that of dense networks"
        apart = ticket["low"] > dense["high"] or ticket["high"] < dense["low"]
        ranges = "; the ranges of the seeds do not meet" if apart else "; the ranges of the seeds meet"
        says += f"{ranges if min(dense['n'], ticket['n']) > 1 else ' (one seed: nothing is known of chance)'}."
    return [
        f"{_capital(CONDITIONING[measure].removeprefix('median '))} ({where}; median over layers, "
        f"{'geometric ' if geometric else ''}mean over {_counted([dense['n'], *at['n']])}) at {left(ticket['at'])} of "
        "the weights: "
        f"{listed(parts)}.{says}"
    ]


def _least(rows: pd.DataFrame, column: str) -> pd.Series:
    """The row of the least value, the first of equal ones."""
    return rows.iloc[int(rows[column].to_numpy(dtype="float64").argmin())]


def _most(rows: pd.DataFrame, column: str) -> pd.Series:
    """The row of the greatest value, the first of equal ones."""
    return rows.iloc[int(rows[column].to_numpy(dtype="float64").argmax())]


def _spread(row: pd.Series) -> str:
    """Mean accuracy, with lowest and highest where they differ."""
    return _ends(row, accuracy_words)


def _steps(row: pd.Series) -> str:
    """Mean step, with lowest and highest where they differ."""
    return _ends(row, lambda step: f"{step:,.0f}")


def _ends(row: pd.Series, text: Callable[[float], str] = number) -> str:
    """A mean with its extremes: ``97.00 % (96.90–97.10 %)``."""
    mean, low, high = (text(float(row[c])) for c in ("mean", "low", "high"))
    unit = low[low.index(NARROW) :] if NARROW in low and high.endswith(low[low.index(NARROW) :]) else ""
    return mean if low == high else f"{mean} ({low.removesuffix(unit)}–{high})"


def _run_of(rows: pd.DataFrame) -> str:
    """Densities of some rounds, as ends where there are many."""
    shown = [left(d) for d in rows.sort_values("at", ascending=False)["at"]]
    return listed(shown) if len(shown) < 4 else f"from {shown[0]} to {shown[-1]}, {len(shown)} densities"


def _rounds(lottery: Lottery) -> int:
    """The last round that was asked for, as far as the settings say it; else the last that any seed has."""
    densities, rounds = lottery.settings.get("densities"), lottery.settings.get("rounds")
    reached = int(lottery.table["round"].max()) if len(lottery.table) else 0
    if isinstance(densities, list) and densities:
        return len(densities)
    return rounds if isinstance(rounds, int) else reached


def _seeds(lottery: Lottery) -> list[int]:
    """The seeds that were asked for, as far as the settings say it."""
    seeds = lottery.settings.get("seeds")
    return [s for s in seeds if isinstance(s, int)] if isinstance(seeds, list) else []


def _counted(n: Iterable[int]) -> str:
    """How many seeds stand behind several means: ``3 seeds``, ``2 to 3 seeds``."""
    counts = sorted({int(count) for count in n})
    return plural(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _capital(text: str) -> str:
    """A sentence's beginning; Greek letters, which are symbols, stay as they are."""
    return text if text[:1] in "κσδ" else text[:1].upper() + text[1:]

"""The page of an experiment: what it says, when it is not complete, with hostile names, and what it never says."""

from __future__ import annotations

import json

import html_reading
import lottery_experiment as lottery
import numpy as np
import pandas as pd
import pytest

from deepprobe.errors import RunError
from deepprobe.reports import write_lottery_report, write_lottery_tables
from deepprobe.reports.lottery.findings import findings, matching_round
from deepprobe.reports.lottery.source import read_lottery
from deepprobe.reports.lottery.write import render_lottery
from deepprobe.runs import create_experiment

NARROW = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def page(experiment):
    return render_lottery(experiment)


def said(read, heading):
    """Sentences under a heading, blanks plain."""
    found = {f.heading: f.sentences for f in findings(read)}
    return [sentence.replace(NARROW, " ") for sentence in found.get(heading, ())]


def changed(read, change):
    """What was read of an experiment, its table changed."""
    table = change(read.table.copy())
    return type(read)(**{**read.__dict__, "table": table, "complete": table[table["status"] == "complete"]})


def test_the_page_has_all_sections_and_is_harmless(page):
    reader = html_reading.read(page)
    html_reading.check_harmless(reader)
    for slug in (
        "accuracy",
        "early-stop",
        "barriers",
        "conditioning",
        "densities",
        "overlap",
        "trainings",
        "provenance",
    ):
        assert slug in reader.values("id")
        assert f"#{slug}" in reader.values("href")
    text = "".join(reader.text)
    assert "Lottery tickets: lenet-300-100 on mnist" in text
    assert "3 seeds, 6 rounds after the dense one, 75 trainings, 75 of them complete." in text
    assert "How far it has come" not in text
    assert page.count('data-heading="ticket"') == 7
    assert text.count("random mask") > 18


def test_every_number_of_the_table_of_rounds_is_a_mean_over_seeds(page):
    rows = page.split('<table class="sortable rounds">')[1].split("</table>")[0].split("<tr>")[2:]
    for round_, row in enumerate(rows):
        cells = [cell.split(">")[1].split("<")[0] for cell in row.split("<td")[1:]]
        values = [100 * lottery.final_accuracy("ticket", round_, seed) for seed in (0, 1, 2)]
        assert cells[3] == f"{np.mean(values):.2f} ({min(values):.2f}–{max(values):.2f})"
        assert cells[:3] == [str(round_), cells[1], "3"]


def test_accuracy_is_told_with_spread_counts_and_differences(read):
    sentences = said(read, "Accuracy")
    assert sentences[0] == "The dense network reaches 97.00 % (96.90–97.10 %) test accuracy (3 seeds)."
    assert sentences[1] == (
        "The smallest density at which the tickets' mean accuracy is within the spread of the dense seeds, or above, "
        "is 80 % of the weights (round 1): 96.90 % (96.80–97.00 %), 3 seeds."
    )
    assert sentences[2] == (
        "At 80 % of the weights tickets are 0.70 points above random re-initialisation (96.90 % against 96.20 %; "
        "3 seeds, 0.70)."
    )
    assert "At 26.1 % of the weights tickets are 4.20 points above random re-initialisation" in sentences[3]
    assert matching_round(read, "test_accuracy") == 1


def test_tickets_that_are_never_as_good_are_said_so(read):
    def worse(table):
        table.loc[(table["round"] > 0) & (table["branch"] == "ticket"), "test_accuracy"] -= 0.02
        return table

    lottery_read = changed(read, worse)
    assert matching_round(lottery_read, "test_accuracy") is None
    sentence = findings(lottery_read)[0].sentences[1].replace(NARROW, " ")
    assert sentence == (
        "At no density is the tickets' mean accuracy within the spread of the dense seeds, or above; the nearest is "
        "94.90 % (94.80–95.00 %) at 80 % of the weights (3 seeds)."
    )


def test_a_density_that_fails_before_one_that_holds_is_named(read):
    def uneven(table):
        table.loc[(table["round"] == 3) & (table["branch"] == "ticket"), "test_accuracy"] = 0.98
        return table

    sentences = [s.replace(NARROW, " ") for s in findings(changed(read, uneven))[0].sentences]
    assert sentences[1].endswith("is 51.1 % of the weights (round 3): 98.00 %, 3 seeds (not at 64 %).")
    assert sentences[2] == (
        "The highest mean of the tickets is 98.00 % at 51.1 % of the weights, 1.00 points above the dense mean (each "
        "seed between +0.90 and +1.10)."
    )


def test_seeds_that_do_not_agree_are_said_so(read):
    def mixed(table):
        sure = (table["round"] == 6) & (table["branch"] == "reinit")
        table.loc[sure & (table["seed"] == 0), "test_accuracy"] = 0.99
        return table

    sentences = [s.replace(NARROW, " ") for s in findings(changed(read, mixed))[0].sentences]
    (sentence,) = [s for s in sentences if s.startswith("At 26.1 %") and "re-init" in s]
    assert sentence.endswith("by seed from −2.70 to +4.20, so not all of one sign.")
    assert "differ by +1.90 points" in sentence


def test_one_seed_is_not_given_a_spread(tmp_path):
    read = read_lottery(lottery.build(tmp_path / "e", seeds=(1,), n_rounds=1, controls=()))
    sentences = said(read, "Accuracy")
    assert sentences[0] == "The dense network reaches 97.00 % test accuracy (1 seed)."
    assert sentences[1].startswith("At no density is the tickets' mean accuracy within the one dense network, or above")
    conditioning = said(read, "Conditioning")
    assert conditioning[0].endswith(
        "Tickets have 1.10 times that of dense networks (one seed: nothing is known of chance)."
    )
    assert said(read, "Order of the data") == []


def test_early_stopping_at_the_last_iteration_is_no_early_stopping(read):
    sentences = said(read, "Early stopping")
    assert sentences[0].startswith("Validation loss was lowest at iteration 300 in the dense network")
    assert (
        "At 26.1 % of the weights: ticket 100, random re-initialisation 300 and random mask 300 (3 seeds)." in sentences
    )
    assert sentences[-1] == "Tickets reached it earliest at 41 % of the weights, at iteration 100 (3 seeds)."

    def late(table):
        return table.assign(early_stop_iteration=table["iterations"])

    (early,) = [f for f in findings(changed(read, late)) if f.heading == "Early stopping"]
    assert early.sentences[-1].startswith("In all 75 trainings it was lowest at the last iteration")


def test_barriers_conditioning_and_masks_are_told(read):
    barrier = said(read, "Order of the data")
    assert (
        "10.00 points at 80 % of the weights (3 seeds) and 0.00 points at 26.1 % of the weights (3 seeds)."
        in barrier[0]
    )
    assert barrier[1].endswith("at 1 of the 6 densities measured (26.1 %).")
    conditioning = said(read, "Conditioning")
    kappa = [np.exp(np.mean([np.log(25 * f**6 * (1 + 0.05 * s)) for s in range(3)])) for f in (1.0, 1.1, 1.5)]
    assert f"{kappa[0]:.3g} (25–27.5) in dense networks" in conditioning[0]
    assert (
        f"Tickets have {1.1**6:.3g} times that of dense networks; the ranges of the seeds do not meet."
        in conditioning[0]
    )
    (found,) = [f for f in findings(read) if f.heading == "Conditioning"]
    assert len(found.more) == 2, "the other view is folded away"
    masks = said(read, "Masks")
    assert masks[0].startswith("At 26.1 % of the weights layers keep between 26")
    assert masks[1].endswith("(3 pairs of seeds).")


def test_an_experiment_on_its_way_says_how_far_it_has_come(tmp_path):
    path = tmp_path / "e"
    experiment = lottery.build(path, seeds=(0,), n_rounds=2, controls=("reinit",), layers=False)
    lottery.add_run(path, seed=1, status="running", steps=(0, 100), layers=False)
    lottery.add_run(path, seed=0, round_=3, status="diverged", layers=False)
    damaged = lottery.add_run(path, seed=0, round_=4, layers=False)
    (damaged.path / "records.sqlite").write_bytes(b"")
    read = read_lottery(path)
    assert said(read, "How far it has come") == [
        "3 of 8 trainings are not complete (1 diverged, 1 damaged and 1 stopped): no figure and no mean on this page "
        "counts them.",
        "Seed 0 has come to round 2 of 6, seed 1 has no complete training and seed 2 has no complete training; means "
        "are over the seeds that are there.",
    ]
    assert set(read.densities["run"]) == set(read.complete["run"])
    assert {(0, 1)} == {*zip(*(experiment.mask_overlap()[c] for c in ("seed", "other_seed")), strict=True)}
    assert read.overlap.empty, "seed 1 is not complete"
    text = render_lottery(path)
    html_reading.check_harmless(html_reading.read(text))
    assert "damaged" in text.split('id="trainings"')[1]


def test_an_experiment_without_runs_has_a_page(tmp_path):
    create_experiment(tmp_path / "e", config={}, identity={})
    text = render_lottery(tmp_path / "e")
    html_reading.check_harmless(html_reading.read(text))
    assert "No training has begun." in text
    assert "<svg" not in text


@pytest.mark.parametrize("evil", ["</title><script>alert(1)</script>&\u202e", "$\\frac{"])
def test_hostile_names_of_branches_and_settings(tmp_path, evil):
    config = lottery.CONFIG | {"model": {"name": evil}, evil: evil}
    experiment = create_experiment(tmp_path / "e", config=config, identity={})
    for round_ in (0, 1):
        lottery.add_run(experiment.path, round_=round_, layers=False)
        run = lottery.add_run(experiment.path, seed=1, round_=round_, layers=False)
    which = {**run.config["lottery"], "branch": evil}
    content = json.dumps(run.config | {"lottery": which}).encode()
    (run.path / "config.json").write_bytes(content)
    run.register("config.json")
    html_reading.check_harmless(html_reading.read(render_lottery(experiment, title=evil)))


def test_the_page_and_the_tables_are_written_twice_the_same(tmp_path):
    experiment = lottery.build(tmp_path / "e", seeds=(0,), n_rounds=1, controls=(), layers=False)
    written = write_lottery_report(experiment.path, tmp_path / "new" / "report.html")
    assert written.read_text() == render_lottery(experiment)
    paths = write_lottery_tables(experiment, tmp_path / "csv")
    assert [p.name for p in paths] == ["table.csv", "layers.csv", "densities.csv", "overlap.csv"]
    table = pd.read_csv(paths[0])
    assert table["run"].tolist() == experiment.table()["run"].tolist()
    assert table["test_accuracy"].tolist() == pytest.approx(experiment.table()["test_accuracy"].tolist())
    with pytest.raises(RunError, match="is no experiment"):
        write_lottery_report(tmp_path, tmp_path / "x.html")

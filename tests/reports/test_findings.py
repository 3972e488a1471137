"""Every sentence, on data made for it."""

import pandas as pd
import pytest

from deepprobe.reports.findings import comparison, findings
from deepprobe.reports.source import networks

NB = "\u00a0"


def said(source):
    """Everything that is said of a source with one network."""
    (finding,) = findings(networks(source))
    return [*finding.sentences, *finding.more]


def test_healthy(make_table):
    assert said(make_table("ffff", view="samples")) == [
        "No training was recorded with these numbers, so nothing is said about whether the network learns.",
        "Block outputs, samples view: the condition number is finite at every one of 4 layers.",
        "No layer has collapsed: none loses rank beyond what its structure explains.",
        "Where it is finite, κ is 10 throughout, median 10; the median layer has 2 times the κ of a Gaussian matrix of "
        "its shape.",
    ]


def test_collapse(make_table):
    assert said(make_table("ffffcccc"))[1:] == [
        "Block outputs, channels view: the condition number is finite at 4 of 8 layers; from depth 5 on, at least nine "
        "tenths of the layers are not finite.",
        "4 layers have collapsed: also without dead and duplicate units the smallest singular value is below what "
        "float32 can tell from zero, with a median numerical rank of 5 out of 64 and a median effective rank of 1.76.",
        "From depth 5 on, at least nine tenths of the layers have collapsed or hold NaN, over live units too.",
        "Where it is finite, κ is 10 throughout, median 10; the median layer has 2 times the κ of a Gaussian matrix of "
        "its shape.",
    ]


def test_dead_units_only(make_table):
    assert said(make_table("fddd"))[1:] == [
        "Block outputs, channels view: the condition number is finite at 1 of 4 layers; from depth 2 on, at least nine "
        "tenths of the layers are not finite.",
        "3 layers are singular by structure only: dead units (3 layers); over live units the condition number there "
        "and elsewhere is 10 throughout.",
        "No layer has collapsed: none loses rank beyond what its structure explains.",
        "Where it is finite, κ is 10 throughout, median 10; the median layer has 2 times the κ of a Gaussian matrix of "
        "its shape.",
    ]


def test_rank_bound_only(make_table):
    text = said(make_table("fb"))
    assert "1 layer is singular by structure only: a rank that the architecture bounds (1 layer)" in text[2]
    assert text[3] == "No layer has collapsed: none loses rank beyond what its structure explains."


def test_fewer_rows_than_units(make_table):
    assert "fewer rows than units (2 layers)" in said(make_table("ss"))[2]


def test_unresolved_claims_nothing_and_gives_the_horizon(make_table):
    text = said(make_table("ffuu"))
    assert text[3:] == [
        "2 layers are unresolved: the arithmetic's own error, measured by a float64 replay, exceeds 1 % of σ₁, so "
        "nothing is claimed about them.",
        "Where it is finite, κ is 10 throughout, median 10; the median layer has 2 times the κ of a Gaussian matrix of "
        "its shape.",
        "Precision horizon at depth 3: there the arithmetic's own error, measured by a float64 replay, first exceeds 1 "
        "% of σ₁.",
    ]


def test_a_replay_without_horizon_says_so(make_table):
    assert said(make_table("ff", floor=1e-6))[-1] == (
        "No precision horizon: a float64 replay stays within 1 % of σ₁ at every layer that it measured."
    )


def test_nan_in_one_layer(make_table):
    assert "1 layer holds NaN or infinite activations." in said(make_table("fffn"))


def test_nothing_measured(make_table):
    assert said(make_table(""))[1:] == ["No layer has a spectrum."]
    assert said(make_table("ee"))[1:] == ["Block outputs, channels view: nothing was measured (no rows)."]


def learner(make_run, make_table, **options):
    return said(make_run("run", {1: make_table("ff")}, **options))[0]


def test_learning_is_told_with_the_majority_and_the_classes(make_run, make_table):
    assert learner(make_run, make_table, accuracy=0.975) == (
        f"It learns: test accuracy 97.5{NB}%, against 10.0{NB}% for always answering the most frequent class; it "
        f"predicts 10 different classes, and 10.0{NB}% of its answers are one and the same class."
    )
    assert learner(make_run, make_table, accuracy=0.1, classes=1.0) == (
        f"It does not learn: test accuracy 10.0{NB}%, against 10.0{NB}% for always answering the most frequent class; "
        "it predicts 1 class."
    )


def test_learning_without_the_labels_shares(make_run, make_table):
    config = {"model": {"name": "net", "num_classes": 4}}
    run = make_run("run", {}, config=config, accuracy=0.5)
    frame = run.metrics()
    run.metrics = lambda: frame[frame["measure"] != "majority_share"]
    assert said(run)[0].startswith(
        f"It learns: test accuracy 50.0{NB}%, against 25.0{NB}% by guessing among 4 classes;"
    )
    run.config = {}
    assert said(run)[0].startswith(
        "Whether it learns cannot be judged, as neither the classes nor their shares were recorded: test accuracy"
    )


def test_where_learning_and_conditioning_part_it_is_said(make_run, make_table):
    def last(letters, accuracy):
        return said(make_run("net", {100: make_table(letters)}, accuracy=accuracy))[-1]

    assert last("ffdd", 0.1) == "It does not learn although no layer that was measured has collapsed."
    assert last("ffcc", 0.9) == "It learns although layers have collapsed in block outputs, channels view."
    for letters, accuracy in (("ffcc", 0.1), ("ffff", 0.9), ("fffu", 0.1), ("ffff", None)):
        assert "although" not in last(letters, accuracy)


def test_probes_of_an_earlier_step_are_not_set_beside_the_accuracy(make_run, make_table):
    for letters, accuracy in (("ffdd", 0.1), ("ffcc", 0.9)):
        assert not any("although" in s for s in said(make_run("net", {99: make_table(letters)}, accuracy=accuracy)))


def test_a_diverged_run_says_so_first_and_compares_nothing(make_run, make_table):
    def run(step):
        return make_run("r", {step: make_table("ff")}, accuracy=0.1, status="diverged", message="the loss is nan")

    assert said(run(0))[0] == "Diverged at step 100: the loss is nan; the last probe is of step 0."
    for step in (0, 100):
        assert not any("although" in s for s in said(run(step)))
    nothing = make_run("r", {}, status="diverged")
    assert said(nothing)[0] == "Diverged before the first evaluation; no layer was probed."


def test_a_run_that_has_not_ended_says_so(make_run, make_table):
    def first(status, message="", **options):
        return said(make_run("r", {90: make_table("ff")}, status=status, message=message, **options))[0]

    assert first("interrupted", "out of memory.", accuracy=0.5) == (
        "Interrupted at step 100: out of memory; the last probe is of step 90."
    )
    assert first("running", accuracy=0.5) == ("Not finished and recorded up to step 100; the last probe is of step 90.")
    assert first("running") == "Not finished and without an evaluation yet; the last probe is of step 90."
    assert first("complete", accuracy=0.5).startswith("It learns")


def test_of_several_runs_the_one_that_diverged_is_named(make_run, make_table):
    runs = [make_run(f"s{i}", {0: make_table("ff")}, config={"model": "net", "seed": i}, accuracy=0.5) for i in (0, 1)]
    runs[1].status, runs[1].message = "diverged", "NaN"
    assert said(runs)[0] == "Run s1: diverged at step 100: NaN; the last probe is of step 0."


def test_networks_that_diverged_are_not_called_learners_or_not(make_run, make_table):
    good = make_run("a", {1: make_table("ff")}, accuracy=0.97)
    lost = make_run("b", {1: make_table("ff")}, accuracy=0.1, status="diverged")
    assert comparison(networks([good, lost])).sentences[0] == f"a (test accuracy 97.0{NB}%) learns; b diverged."


def test_rows_seen_in_flight_are_counted_and_their_place_is_told(make_run, make_table):
    tables = {10: make_table("fff").assign(split="train"), 20: make_table("fff").assign(split="train")}
    run = make_run("r", tables)
    probed = make_run("r", {20: make_table("fff").assign(split="probe")}).layers()
    assert not any("in flight" in s for s in said(run)), "they are shown, as nothing else was measured there"
    both = pd.concat([run.layers(), probed], ignore_index=True)
    run.layers = lambda: both
    assert said(run)[-1] == (
        "6 measurements made in flight on batches of training (block outputs, channels view; at 2 steps) are in no "
        "figure and no table of this report; they are the rows of run.layers() with the split “train”."
    )


def test_three_seeds_give_mean_and_range(make_run, make_table):
    letters = ("fffccccc", "ffccccccc"[:8], "ffffcccc")
    runs = [
        make_run(
            f"plain-{s}", {1: make_table(w)}, config={"model": {"name": "plain"}, "training": {"seed": s}}, accuracy=a
        )
        for s, (w, a) in enumerate(zip(letters, (0.1, 0.12, 0.11), strict=True))
    ]
    text = said(runs)
    assert text[0].startswith(
        f"It does not learn in any of 3 runs: test accuracy 11.0{NB}% (10.0{NB}%–12.0{NB}%) over 3 runs"
    )
    assert text[1] == (
        "Block outputs, channels view (mean and range over 3 runs): the condition number is finite at 3 (2–4) of 8 "
        "layers; from depth 4 (3–5) on in 3 of 3 runs, at least nine tenths of the layers are not finite."
    )


def test_order_of_events(make_run, make_table):
    tables = {0: make_table("ffff"), 10: make_table("ffff"), 20: make_table("fccc")}
    assert said(make_run("r", tables))[-1] == (
        "From which probe to the last nine tenths of the layers from some depth on had collapsed or held NaN, over "
        f"live units: step 20 (then from depth {tables[20]['depth'].iloc[1]} on)."
    )
    tables = {0: make_table("fccc"), 20: make_table("fccc")}
    assert "over live units: step 0 (then from" in said(make_run("r", tables))[-1]
    tables = {0: make_table("fccc"), 10: make_table("ffff"), 20: make_table("ffff")}
    assert said(make_run("r", tables))[-1] == (
        "At step 0 nine tenths of the layers from some depth on had collapsed or held NaN, over live units (onset at "
        f"depth {tables[0]['depth'].iloc[1]}), and at a later probe no more: that passed."
    )
    tables = {0: make_table("ffff"), 20: make_table("dddd")}
    assert said(make_run("r", tables))[-1] == (
        "There was no probe during training at which nine tenths of the layers from some depth on had collapsed or "
        "held NaN, over live units."
    )


def together(make_run, make_table, plain, residual, **accuracies):
    runs = [
        make_run("plainnet164", {1: make_table(plain)}, accuracy=accuracies.get("plain", 0.1)),
        make_run("resnet164", {1: make_table(residual)}, accuracy=accuracies.get("residual", 0.97)),
    ]
    return comparison(networks(runs)).sentences


CLAIM = (
    "what the 164-layer study (Oyedotun, Al Ismaeil and Aouada) found, that a plain network is singular from some "
    "depth on and a residual one never"
)


def test_the_studys_claim_is_stated_where_the_data_show_it(make_run, make_table):
    assert together(make_run, make_table, "ffcccc", "ffffdf") == (
        f"resnet164 (test accuracy 97.0{NB}%) learns; plainnet164 (test accuracy 10.0{NB}%) does not learn.",
        "Block outputs, channels view, over live units – plainnet164: not finite from depth 3 on; resnet164: finite at "
        "every layer.",
        f"In block outputs, channels view, these data show {CLAIM}.",
    )


def test_other_depths_are_not_held_against_the_study(make_run, make_table):
    runs = [make_run(n, {1: make_table(w)}) for n, w in (("plainnet20", "ffcccc"), ("resnet20", "ffffdf"))]
    assert comparison(networks(runs)).sentences[-1] == (
        "In block outputs, channels view, these data show that a plain network is singular from some depth on and a "
        "residual one never."
    )


def test_and_denied_where_they_do_not(make_run, make_table):
    text = together(make_run, make_table, "ffffff", "ffffff")
    assert text[-1] == (
        f"In block outputs, channels view, these data do not show {CLAIM}: plainnet164 does not lose rank from some "
        "depth on in every run."
    )
    text = together(make_run, make_table, "cccccc", "ffffcc")
    assert text[-1].endswith(": resnet164 loses rank from some depth on in at least one run.")


def test_and_left_open_where_arithmetic_cannot_tell(make_run, make_table):
    text = together(make_run, make_table, "ffuuuu", "ffffff")
    assert text[-1] == (
        "In block outputs, channels view, these data cannot decide whether only a plain network becomes singular: over "
        "half the layers of plainnet164 are unresolved."
    )
    assert "plainnet164: finite at every resolved layer (4 of 6 unresolved)" in text[1]


def test_no_claim_without_both_sorts(make_table):
    finding = comparison(networks({"a": make_table("ff"), "b": make_table("cc")}))
    assert finding.sentences == (
        "Block outputs, channels view, over live units – a: finite at every layer; b: not finite from depth 1 on.",
    )


def test_networks_without_a_common_view(make_table):
    pair = {"a": make_table("ff", view="samples"), "b": make_table("ff", view="channels")}
    assert comparison(networks(pair)).sentences == (
        "These networks have no tap and view in common, so their layers are not compared.",
    )


@pytest.mark.parametrize("letters", ["f", "c", "d", "u", "n", "z", "e", "b", "fcdbsunez" * 3])
def test_any_mixture_gives_whole_sentences(make_table, letters):
    for sentence in said(make_table(letters)):
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert sentence.endswith(".")
        assert "nan" not in sentence
        assert "None" not in sentence

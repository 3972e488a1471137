import numpy as np
import pandas as pd
import pytest

from deepprobe.reports.facts import causes, horizon, kinds, layer_facts, training_facts
from deepprobe.reports.source import layer_table


def facts_of(make_table, letters, **options):
    return layer_facts(layer_table(make_table(letters, **options)))


def test_kinds_tell_structure_from_collapse(make_table):
    table = layer_table(make_table("fdcDbsunez"))
    assert list(kinds(table)) == [
        "finite", "structural", "collapsed", "collapsed", "structural", "structural", "unresolved", "nonfinite",
        "empty", "collapsed",
    ]  # fmt: skip


def test_kinds_by_counts_where_the_live_condition_number_is_not_known(make_table):
    table = make_table("dD").drop(columns=["condition_number_live", "condition_number_bound"])
    assert list(kinds(layer_table(table))) == ["structural", "collapsed"]


def test_causes_are_counted_and_an_unknown_one_keeps_its_words(make_table):
    table = layer_table(make_table("ddbs"))
    assert causes(table) == {
        "dead units": 2,
        "a rank that the architecture bounds": 1,
        "fewer rows than units": 1,
    }
    odd = layer_table(make_table("f").assign(status="singular-exact", reason="rank 63 modulo two primes"))
    assert causes(odd) == {"rank 63 modulo two primes": 1}


def test_onset_over_live_units_ignores_dead_units_and_what_is_unresolved(make_table):
    facts = facts_of(make_table, "dddddddddd")
    assert (facts["onset"], facts["onset_live"]) == (1, None)
    facts = facts_of(make_table, "ffcccuuu")
    assert (facts["onset"], facts["onset_live"]) == (3, 3)
    facts = facts_of(make_table, "ffffuuuu")
    assert (facts["onset"], facts["onset_live"]) == (5, None)


def test_numbers_of_finite_and_lost_layers(make_table):
    facts = facts_of(make_table, "ffcc", kappa=40.0)
    assert facts["kappa_median"] == pytest.approx(40.0)
    assert facts["null_ratio_median"] == pytest.approx(8.0)
    assert (facts["lost_numerical_rank_median"], facts["lost_values_median"]) == (5, 64)
    assert 1 < facts["lost_effective_rank_median"] < 3
    none = facts_of(make_table, "cc")
    assert np.isnan(none["kappa_median"])


def test_horizon_is_the_first_depth_beyond_one_percent(make_table):
    table = layer_table(make_table("ffff", kappa=10.0)).assign(floor=[0.01, 0.2, 0.05, 0.2])
    assert horizon(table) == 2  # sigma_max is 10: 0.2 is 2 %
    assert horizon(table.assign(floor=np.nan)) is None


def rows(**values):
    return pd.DataFrame([{"measure": m, "value": v, "split": s, "step": t} for (m, s, t), v in values["of"].items()])


def test_training_takes_the_last_test_accuracy_against_the_majority():
    frame = rows(of={
        ("accuracy", "test", 10): 0.5, ("accuracy", "test", 5): 0.9, ("accuracy", "train", 10): 0.99,
        ("majority_share", "test", 10): 0.11, ("top_prediction_share", "test", 10): 0.98,
    })  # fmt: skip
    facts = training_facts(frame)
    assert (facts["split"], facts["accuracy"], facts["learns"]) == ("test", 0.5, True)


@pytest.mark.parametrize(("accuracy", "learns"), [(0.11, False), (0.159, False), (0.17, True)])
def test_a_network_learns_above_the_margin(accuracy, learns):
    frame = rows(of={("accuracy", "validation", 1): accuracy, ("majority_share", "validation", 1): 0.11})
    assert training_facts(frame)["learns"] is learns


def test_without_the_labels_share_chance_is_that_of_guessing():
    frame = rows(of={("accuracy", "test", 1): 0.14, ("top_prediction_share", "test", 1): 0.98})
    facts = training_facts(frame, n_classes=10)
    assert (facts["chance"], facts["is_guessing"], facts["learns"]) == (0.1, True, False)
    assert facts["top_prediction_share"] == 0.98


def test_without_either_nothing_is_judged():
    assert training_facts(rows(of={("accuracy", "test", 1): 0.9}))["learns"] is None
    assert training_facts(pd.DataFrame(columns=["measure", "value", "split", "step"]))["split"] is None

"""Every rule finds what it is for in a sick network, and nothing in a healthy one."""

from __future__ import annotations

import ailing
import pandas as pd
import pytest
import torch
from torch import nn

from deepprobe.diagnosis import RULES, diagnose
from deepprobe.diagnosis.calls import found_in
from deepprobe.diagnosis.rules.rule import Rule, from_here_on, graded, percent


def test_every_rule_has_a_sick_and_a_healthy_network() -> None:
    assert {rule.name for rule in RULES} == set(ailing.CASES)
    assert len({rule.name for rule in RULES}) == len(RULES) >= 15


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_speaks_of_the_sick_network_and_not_of_the_healthy_one(rule: Rule) -> None:
    sick, healthy = (ailing.evidence_of(name) for name in ailing.CASES[rule.name])
    finding = rule(sick)
    assert finding is not None
    assert rule(healthy) is None
    assert finding.rule == rule.name
    assert 0 < finding.severity <= 1
    assert finding.value != finding.threshold == rule.threshold
    assert finding.says.endswith((".", "%."))
    assert finding.source
    assert finding.advice


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_what_it_finds_and_on_whose_word(rule: Rule) -> None:
    assert rule.finds.endswith(".")
    told = ("20", "19", "definition", "measured", "IEEE", "rank", "sampling", "rule of thumb")
    assert any(word in rule.source for word in told)


@pytest.mark.parametrize("name", ["healthy", "plain", "tanh", "residual", "settled statistics"])
def test_nothing_is_found_in_healthy_networks(name: str) -> None:
    assert found_in(ailing.evidence_of(name)) == ()


def test_a_sick_network_is_told_its_own_story_first() -> None:
    dying = [finding.rule for finding in found_in(ailing.evidence_of("shrinking"))]
    assert set(dying[:3]) == {"signal-dies", "gradients-vanish", "constant-predictions"}
    growing = [finding.rule for finding in found_in(ailing.evidence_of("growing"))]
    assert {"gradients-explode", "signal-explodes", "update-too-large"} <= set(growing)


def test_the_place_named_is_where_it_begins() -> None:
    model = ailing.healthy()
    with torch.no_grad():
        model[7].bias[:16] = -100.0  # the third normalisation, before its ReLU
    (finding,) = diagnose(model, ailing.data(), progress=False).findings
    assert (finding.rule, finding.layer, finding.depth, finding.value) == ("dead-units", "8", 3, 0.5)


def test_a_dead_layer_without_a_way_around_cannot_train() -> None:
    model = ailing.healthy()
    with torch.no_grad():
        model[4].bias.fill_(-100.0)
        model[4].weight.zero_()
    found = {finding.rule: finding for finding in diagnose(model, ailing.data(), progress=False).findings}
    assert found["dead-units"].severity == 1.0
    assert found["constant-predictions"].severity == 0.9
    assert found["unreached-parameters"].severity >= 0.85


def test_running_statistics_that_cost_accuracy_are_serious() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(16)
            generator = torch.Generator().manual_seed(1)
            torch.randn(64, 16, generator=generator)
            self.head = nn.Linear(16, 4, bias=False)
            self.head.weight.data = torch.randn(16, 4, generator=generator).T.contiguous()  # the map of the labels
            self.norm.running_mean.fill_(30.0)
            self.norm.num_batches_tracked.fill_(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(x))

    found = {f.rule: f for f in diagnose(Shifted(), ailing.data(), progress=False).findings}
    assert found["running-statistics-off"].severity == 0.8
    assert "in eval()" in found["running-statistics-off"].says


def test_severity_grows_with_the_logarithm_between_its_ends() -> None:
    assert graded(100, mild=100, severe=1e4, least=0.5, most=0.9) == pytest.approx(0.5)
    assert graded(1e3, mild=100, severe=1e4, least=0.5, most=0.9) == pytest.approx(0.7)
    assert graded(1e9, mild=100, severe=1e4, least=0.5, most=0.9) == pytest.approx(0.9)
    assert graded(1e-3, mild=1e-2, severe=1e-4) == pytest.approx(0.75)
    assert graded(float("inf"), mild=1, severe=10) == graded(0.0, mild=1, severe=10) == 1.0


def test_from_here_on_is_the_last_unbroken_stretch() -> None:
    assert from_here_on(pd.Series([True, False, True, True])) == 2
    assert from_here_on(pd.Series([True, True])) == 0
    assert from_here_on(pd.Series([True, False])) is None
    assert from_here_on(pd.Series([], dtype=bool)) is None


def test_what_was_not_looked_at_is_said_beside_what_was_found() -> None:
    x, y = ailing.data()
    residual = diagnose(ailing.Residual(), (x, y), progress=False)  # its non-linearity is a function
    assert residual.notes == ("Dead and saturated units were not looked at: no activation is a module.",)
    unlabelled = diagnose(ailing.healthy(), x, progress=False)
    assert str(unlabelled) == (
        "No rule found anything.\n\nNote: Gradients were not looked at: there are no labels, and no loss was given."
    )
    assert "Gradients were not looked at" in unlabelled._repr_html_()
    squares = diagnose(
        ailing.healthy(), (x, x[:, :4]), loss=lambda m, b: ((m(b[0]) - b[1]) ** 2).mean(), progress=False
    )
    assert squares.notes == ("The size of weights and Jacobian was not judged: labels are not one class a sample.",)
    assert diagnose(ailing.healthy(), (x, y), progress=False).notes == ()


def test_percentages_are_written_one_way() -> None:
    shares = (0.0, 1.2e-5, 9e-4, 0.0312, 0.5, 0.999, 1.0)
    assert [percent(share) for share in shares] == ["0 %", "0.0012 %", "0.09 %", "3.1 %", "50 %", "99.9 %", "100 %"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_plainnet164_is_told_its_true_story() -> None:
    import deepprobe as dp

    batch = dp.load_dataset("digits", split="test").take(128).tensors()
    plain, residual = (
        {f.rule: f for f in diagnose(dp.create_model(n, in_channels=1, input_size=8, seed=0), batch, lr=0.1).findings}
        for n in ("plainnet164", "resnet164")
    )
    assert {"gradients-explode", "jacobian-explodes", "precision-horizon", "update-too-large"} <= set(plain)
    assert plain["gradients-explode"].value > 1e8
    assert plain["gradients-explode"].layer == "features.stem"
    assert 60 <= (plain["precision-horizon"].depth or 0) <= 110
    assert "samples-indistinguishable" not in plain  # it is not singular before training
    assert set(residual) <= {"loss-above-chance", "update-too-large"}  # both true: its stem moves by 3 of its norms


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["resnet20", "lenet300_100"])
def test_only_true_things_are_found_in_trained_networks(name: str) -> None:
    import deepprobe as dp

    train, test = (dp.load_dataset("digits", split=split).tensors() for split in ("train", "test"))
    model = dp.create_model(name, in_channels=1, input_size=8, seed=0)
    dp.train(model, train, config=dp.TrainConfig(epochs=6, lr=0.05, seed=0), quiet=True)
    found = diagnose(model, [(test[0][:128], test[1][:128]), (test[0][128:], test[1][128:])], lr=0.01)
    assert found.evidence.has_learned
    assert {f.rule for f in found.findings} <= {"dead-units"}

"""Networks and batches that are unusual and not ill: nothing untrue is found in them, and nothing crashes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import ailing
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepprobe.diagnosis import diagnose
from deepprobe.diagnosis.batch_facts import Inputs
from deepprobe.errors import ShapeError


def rules(model: nn.Module, batches: Any, **options: Any) -> set[str]:
    """Names of what is found."""
    return {finding.rule for finding in diagnose(model, batches, progress=False, **options).findings}


def chain(*widths: int, post: type[nn.Module] | None = None) -> nn.Sequential:
    """He's weights, ReLU, and if wished a normalisation after it."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i, o in pairwise(widths[:-1]):
        layers += [nn.Linear(i, o), nn.ReLU(), *([] if post is None else [post(o)])]
        nn.init.kaiming_normal_(layers[-2 if post is None else -3].weight)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def squares(model: nn.Module, batch: Any) -> Tensor:
    """Mean squared error of a pair, or of the input itself."""
    x, y = batch if isinstance(batch, tuple) else (batch, batch)
    return F.mse_loss(model(x), y)


def test_one_score_is_no_constant_prediction() -> None:
    x, _ = ailing.data()
    assert rules(chain(16, 32, 32, 1), [(x, x[:, :1] + 100)], loss=squares) == set()


def test_an_autoencoder_has_no_classes_to_be_too_narrow_for() -> None:
    assert "structural-bottleneck" not in rules(chain(16, 32, 4, 32, 16), ailing.data()[0], loss=squares)
    x, y = ailing.data()
    assert "structural-bottleneck" in rules(chain(16, 32, 2, 4), (x, y))
    assert "structural-bottleneck" not in rules(chain(16, 32, 2, 32, 4), (x, y))  # what follows may unfold it


class Squeezed(nn.Module):
    """Scales its units by what two numbers say, and has a head that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.down, self.up = nn.Linear(16, 32), nn.Linear(32, 2), nn.Linear(2, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        return self.head(h * torch.sigmoid(self.up(self.down(h))))


def test_a_narrow_layer_beside_the_path_is_no_bottleneck() -> None:
    assert rules(Squeezed(), ailing.data()) == set()


class Functional(nn.Module):
    """Non-linearities that are functions: its answers are the last of its layers with weights."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


@pytest.mark.parametrize("n_targets", [1, 3])
def test_targets_far_off_zero_are_no_fault(n_targets: int) -> None:
    x, _ = ailing.data()
    model = Functional(16, 32, 32, n_targets)
    model.layers[-1].bias.data.fill_(1000.0)  # type: ignore[operator,union-attr]
    target = x[:, :n_targets] + 1000
    assert rules(model, [(x, target)], loss=squares) == set()


def test_one_target_may_be_told_by_one_direction() -> None:
    x, y = ailing.data()
    for n, found in ((1, False), (4, True)):
        model = chain(16, 32, 32, n)
        model[2].weight.data = model[2].weight.data[:1].abs().expand(32, 32).clone()  # type: ignore[union-attr]
        batch, options = ((x, y), {}) if n > 1 else ((x, x[:, :1]), {"loss": squares})
        assert ("rank-collapse" in rules(model, [batch], **options)) is found


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_a_normalisation_after_the_non_linearity_counts(norm: type[nn.Module]) -> None:
    model = chain(16, *[32] * 10, 4, post=norm)
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.weight.data *= 0.4
    assert "mis-scaled-initialisation" not in rules(model, ailing.data())


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_few_samples_say_nothing_of_units_and_inputs(n: int) -> None:
    x, y = ailing.data()
    found = rules(chain(16, 32, 32, 4), (x[:n].round(), y[:n]))
    assert not found & {"dead-units", "constant-inputs", "constant-predictions"}


class Branch(nn.Module):
    """A residual block whose last layer, or normalisation, starts at zero; the non-linearity is a function."""

    def __init__(self, *, last: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
        self.norm = nn.Identity() if last == "kernel" else nn.BatchNorm1d(32)
        nn.init.zeros_(self.second.weight if isinstance(self.norm, nn.Identity) else self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.second(F.relu(self.first(x))))


def zero_branches(last: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), *[Branch(last=last) for _ in range(3)], nn.Linear(32, 4))


def zero_head() -> nn.Module:
    model = chain(16, 32, 32, 4)
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[-1].bias)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize(
    "build",
    [lambda: zero_branches("kernel"), lambda: zero_branches("scale"), zero_head],
    ids=["kernel", "scale", "head"],
)
def test_what_starts_at_zero_on_purpose_is_no_fault(build: Callable[[], nn.Module]) -> None:
    assert rules(build(), ailing.data(), lr=0.05) == set()


def test_all_zeros_are_still_a_fault() -> None:
    model = chain(16, 32, 32, 4)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert {"identical-units", "unreached-parameters", "constant-predictions"} <= rules(model, ailing.data())


def test_weights_that_are_not_numbers_are_not_called_equal() -> None:
    model = chain(16, 32, 32, 4)
    model[0].weight.data.fill_(float("nan"))  # type: ignore[operator,union-attr]
    found = rules(model, ailing.data())
    assert "nonfinite-values" in found
    assert "identical-units" not in found


class Wrapped(nn.Module):
    """Gives its scores in an object, or in a mapping, and may round its input."""

    def __init__(self, *, wrap: Callable[..., Any], rounds: bool = False) -> None:
        super().__init__()
        self.inner, self.wrap, self.rounds = ailing.healthy(), wrap, rounds

    def forward(self, x: Tensor) -> Any:
        return self.wrap(logits=self.inner((4 * x).long().float() if self.rounds else x))


@pytest.mark.parametrize("wrap", [SimpleNamespace, dict])
def test_scores_inside_something_are_found(wrap: Callable[..., Any]) -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        output = model(batch[0])
        return F.cross_entropy(output["logits"] if isinstance(output, dict) else output.logits, batch[1])

    seen = diagnose(Wrapped(wrap=wrap), ailing.data(), loss=loss, progress=False)
    assert seen.findings == ()
    assert seen.evidence.outputs is not None
    assert seen.evidence.gradient_correlation > 0.1
    assert rules(Wrapped(wrap=wrap), ailing.data()[0]) == set()


def test_samples_that_come_again_are_counted_with_the_first_of_them() -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 3.0], [1.0, -0.0], [2.0, 3.0], [1.0, 0.0], [4.0, 5.0]])
    found = Inputs.of([x[:4], x[4:]], [torch.tensor([0, 1, 0, 2]), torch.tensor([1, 1])])
    assert found is not None
    assert (found.n_duplicate, found.n_contradicting) == (3, 2)
    assert (found.mean, found.std) == (
        pytest.approx(float(x.double().mean())),
        pytest.approx(float(x.double().std(correction=0))),
    )


def test_a_network_that_rounds_its_input_has_no_input_gradient() -> None:
    assert rules(Wrapped(wrap=lambda logits: logits, rounds=True), ailing.data()) == set()


def test_a_tuple_of_one_tensor_has_no_labels() -> None:
    x, _ = ailing.data()
    assert rules(ailing.healthy(), [(x,)]) == set()
    assert rules(ailing.healthy(), [[x]]) == set()


def test_labels_beyond_the_scores_and_batches_that_do_not_fit_are_one_clear_error() -> None:
    x, y = ailing.data()
    with pytest.raises(ShapeError, match="out of bounds"):
        rules(ailing.healthy(), (x, y + 4))
    with pytest.raises(ShapeError, match="does not run on one of the batches"):
        rules(ailing.healthy(), [(x, y), (x[:, :7], y)])


class NormalisedFunctional(nn.Module):
    """Convolutions, batch normalisations, and non-linearities that are functions."""

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolutions = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(depth))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return self.head(x.mean((2, 3)))


def test_the_scale_before_a_normalisation_is_no_fault() -> None:
    model, x = NormalisedFunctional(), torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    model.convolutions[0].weight.data *= 1000  # type: ignore[operator,union-attr]
    seen = diagnose(model, (x, torch.arange(64) % 4), progress=False)
    assert seen.findings == ()
    assert seen.evidence.path["role"].unique().tolist() == ["norm"]


def test_weights_of_functions_nobody_knows_are_judged_by_both_scales() -> None:
    found = {}
    for gain in (0.5, 1.0, 2**-0.5, 3.0):
        model = Functional(16, *[32] * 15, 4)
        for layer in model.layers:
            nn.init.normal_(layer.weight, 0.0, gain * (2 / layer.in_features) ** 0.5)  # type: ignore[arg-type,operator,union-attr]
        found[gain] = "mis-scaled-initialisation" in rules(model, ailing.data())
    assert found == {0.5: True, 1.0: False, 2**-0.5: False, 3.0: True}


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_answers_of_any_size_are_no_fault_in_a_regression(scale: float) -> None:
    x, _ = ailing.data()
    model = chain(16, 32, 32, 3)
    model[-1].weight.data *= scale  # type: ignore[operator,union-attr]
    found = rules(model, [(x, scale * x[:, :3])], loss=squares)
    assert not found & {"jacobian-explodes", "jacobian-vanishes", "mis-scaled-initialisation"}
    functional = Functional(16, 32, 32, 3)
    functional.layers[-1].weight.data *= scale  # type: ignore[operator,union-attr]
    assert not rules(functional, [(x, scale * x[:, :3])], loss=squares)


def test_a_loss_of_probabilities_takes_no_second_softmax() -> None:
    model, batch = nn.Sequential(ailing.healthy(), nn.Softmax(dim=1)), ailing.data()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.nll_loss(model(batch[0]).log(), batch[1])

    assert "softmax-twice" in rules(model, batch)
    assert "softmax-twice" in rules(model, batch, loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    assert "softmax-twice" not in rules(model, batch, loss=loss)

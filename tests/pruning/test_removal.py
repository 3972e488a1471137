"""Pruning in one call: counts, what stays untouched, errors, and the warning of collapse."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from deepprobe.errors import ConfigError, DeepprobeError, NonFiniteError, ShapeError, UnknownNameError
from deepprobe.models import create_model
from deepprobe.pruning.collapse import LayerCollapseWarning, collapsed
from deepprobe.pruning.criteria import CRITERIA, Subject
from deepprobe.pruning.criteria.synflow import synflow
from deepprobe.pruning.masks import Masks
from deepprobe.pruning.removal import prune, removed


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    )


def samples() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(16, 1, 6, 6, generator=g), torch.randint(5, (16,), generator=g)


@pytest.mark.filterwarnings("ignore::deepprobe.pruning.collapse.LayerCollapseWarning")
@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("allocation", ["global", "layerwise"])
def test_every_criterion_removes_exactly_the_share_and_touches_only_weights(criterion: str, allocation: str) -> None:
    model = net()
    model.train()
    initial = copy.deepcopy(net().state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    before = copy.deepcopy(model.state_dict())
    masks = prune(model, criterion, allocation, 0.3, batches=samples(), initial=initial, n_iterations=3)
    sizes = {"0.weight": 72, "4.weight": 2560, "6.weight": 100}
    assert list(masks) == list(sizes)
    if allocation == "global":
        assert masks.n_kept == round(2732 * 0.7)
    else:
        assert masks.counts == {name: round(n * 0.7) for name, n in sizes.items()}
    after = model.state_dict()
    assert list(after) == list(before), "masks are no part of the state dict"
    for name, value in after.items():
        expected = before[name] * masks[name] if name in masks else before[name]
        assert torch.equal(value, expected)
    assert all(module.training for module in model.modules())


def test_a_masked_model_copies_and_loads_as_a_dense_one() -> None:
    model = net()
    prune(model, fraction=0.5)
    dense = net()
    dense.load_state_dict(copy.deepcopy(model).state_dict())
    x, _ = samples()
    assert torch.equal(dense.eval()(x), model.eval()(x))


def test_rounds_protection_and_rates() -> None:
    model, masks = net(), None
    for _ in range(3):
        masks = prune(model, fraction=0.2, masks=masks, protect=["6"])
    assert masks is not None
    assert list(masks) == ["0.weight", "4.weight"]
    kept = 2632
    for _ in range(3):
        kept = round(kept * 0.8)
    assert masks.n_kept == kept
    found = prune(net(), allocation="layerwise", fraction=0.2, rates={"output": 0.5})
    assert found.counts == {"0.weight": round(72 * 0.8), "4.weight": 2048, "6.weight": 90}


def test_a_number_instead_of_a_share() -> None:
    model = net()
    masks = removed(Subject(model, Masks.dense(model)), "magnitude", 1234)
    assert masks.n_kept == 1234 == sum(int(model.state_dict()[name].count_nonzero()) for name in masks)
    masks = removed(Subject(model, masks, batches=[samples()]), "synflow", {"0.weight": 30, "4.weight": 100})
    assert masks.counts["0.weight"] == 30
    assert masks.counts["4.weight"] == 100
    with pytest.raises(
        ConfigError, match="31 weights of 0.weight are to stay, but only 30 are kept".replace(".", r"\.")
    ):
        removed(Subject(model, masks), "magnitude", {"0.weight": 31})


def test_synflow_in_steps_empties_no_layer_where_magnitude_does() -> None:
    """Tanaka et al. (2020), figure 1: at 1 % of a deep network's weights."""
    model = create_model("plainnet20", num_classes=10, in_channels=3, input_size=8, seed=0)
    with torch.no_grad():
        for i, p in enumerate(p for p in model.parameters() if p.ndim > 1):
            p.mul_(1.0 + (i % 3))  # layers of unlike scale
    batches = torch.randn(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.warns(LayerCollapseWarning):
        lost = prune(copy.deepcopy(model), "magnitude", fraction=0.99)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LayerCollapseWarning)
        kept = prune(copy.deepcopy(model), "synflow", fraction=0.99, batches=batches)
    assert kept.n_kept == lost.n_kept == round(lost.n_weights * 0.01)
    assert min(lost.counts.values()) == 0
    assert min(kept.counts.values()) > 0


def test_steps_score_anew_and_stop_at_the_count() -> None:
    model, seen = net(), []

    def watched(subject: Subject) -> dict[str, Tensor]:
        weights = dict(subject.model.named_parameters())
        assert all(not bool(weights[name][~mask].any()) for name, mask in subject.masks.items())
        seen.append(subject.masks.n_kept)
        return CRITERIA["magnitude"](subject)

    assert prune(model, watched, fraction=0.75, n_iterations=2).n_kept == 683
    assert seen == [2732, 1366]


def test_a_failing_criterion_leaves_the_weights() -> None:
    model, calls = net(), []
    before = copy.deepcopy(model.state_dict())

    def failing(subject: Subject) -> dict[str, Tensor]:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return CRITERIA["random"](subject)

    with pytest.raises(KeyboardInterrupt):
        prune(model, failing, fraction=0.5, n_iterations=4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(NonFiniteError, match=r"72 scores of '0\.weight' are NaN"):
        prune(model, lambda subject: {n: p.detach() * float("nan") for n, p in subject.parameters().items()})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_collapse_is_told_once_with_names_and_numbers() -> None:
    model = net()
    with torch.no_grad():
        model[4].weight.mul_(1e-3)
        model[6].weight.mul_(1e-3)
    with pytest.warns(LayerCollapseWarning) as caught:
        masks = prune(model, fraction=0.975)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(caught[0].message) == (
        "2 of 3 layers have fewer weights left than outputs, 2 of them none: 4 0 of 2,560, 6 0 of 100; to spare them "
        "name them in protect=, or prune with allocation='layerwise'"
    )
    assert collapsed(masks) == {"4.weight": 0, "6.weight": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune(model, fraction=0.01, masks=masks)


def test_many_collapsed_layers_are_not_all_listed() -> None:
    model = nn.Sequential(*(nn.Linear(10, 10) for _ in range(12)))
    with pytest.warns(LayerCollapseWarning, match="12 of 12 layers .* and 4 more;"):
        prune(model, "random", "layerwise", 0.95)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"fraction": 1.0}, ConfigError, "fraction=1.0: a share of the weights lies between 0 and 1"),
        ({"fraction": 0}, ConfigError, "fraction=0: a share"),
        ({"fraction": 20}, ConfigError, "fraction=20: a share"),
        ({"criterion": "magnitud"}, UnknownNameError, "did you mean 'magnitude'"),
        ({"allocation": "uniform"}, ConfigError, "allocation='uniform' is not an allocation"),
        ({"protect": ["fc"]}, UnknownNameError, "protect: 'fc' matches no layer with prunable weights"),
        ({"protect": ["*"]}, ConfigError, "covers every layer"),
        ({"criterion": "snip"}, ConfigError, "the criterion 'snip' looks at training samples"),
        ({"criterion": "movement"}, ConfigError, "compares with the weights at initialisation"),
        ({"rates": {"output": 0.5}}, ConfigError, "need allocation='layerwise'"),
        ({"n_iterations": 0}, ConfigError, "n_iterations=0: name a whole number from 1"),
        ({"masks": Masks({"0.weight": torch.ones(3, 3, dtype=torch.bool)})}, ShapeError, "'0.weight', of shape (3, 3)"),
        ({"masks": Masks.dense(net()), "protect": ["6"]}, ConfigError, "names 6.weight, which the masks cover"),
        ({"criterion": lambda subject: {}}, ShapeError, "the scores of '0.weight' must be"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error_and_changes_nothing(
    settings: dict[str, object], error: type[DeepprobeError], text: str
) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error) as caught:
        prune(model, **settings)  # type: ignore[arg-type]
    assert text in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_prunable_weights() -> None:
    with pytest.raises(UnknownNameError):
        prune(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))


def test_synflow_by_function_is_one_step() -> None:
    model = net()
    masks = prune(model, synflow, fraction=0.5, batches=samples())
    assert masks.n_kept == 1366

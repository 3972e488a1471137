"""Attributions are captum's own, and on linear networks what arithmetic says."""

from __future__ import annotations

import ast
from pathlib import Path

import captum.attr as captum
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from deepprobe.attribution import attributions, unit_damage
from deepprobe.attribution import calls as calls_module
from deepprobe.attribution.methods import METHODS
from deepprobe.errors import ConfigError, ShapeError, UnknownNameError
from deepprobe.models import create_model
from deepprobe.records.frame import tidy, wide
from tests.toys import CalledTwice, InPlace, TupleOut

BY_HAND = {
    "conductance": captum.LayerConductance,
    "integrated-gradients": captum.LayerIntegratedGradients,
    "gradient-x-activation": captum.LayerGradientXActivation,
    "internal-influence": captum.InternalInfluence,
    "feature-ablation": captum.LayerFeatureAblation,
    "grad-cam": captum.LayerGradCam,
}
STEPS = 3


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small trained-looking residual network: gradients everywhere, shortcuts of all kinds."""
    return create_model("resnet8", num_classes=4, in_channels=1, input_size=8, seed=3, base_width=4).double()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 3, 0, 1, 2])


def by_hand(method: str, network: nn.Module, layer: str, images: tuple[Tensor, Tensor]) -> np.ndarray:
    """What captum gives one layer, per sample and unit, without any of the package's code."""
    x, y = images
    module = network.eval().get_submodule(layer)
    options: dict = {"target": y}
    if method in {"conductance", "integrated-gradients", "internal-influence"}:
        options |= {"n_steps": STEPS, "baselines": torch.zeros_like(x)}
    if method == "grad-cam":
        options["attr_dim_summation"] = False
    if method == "feature-ablation":
        with torch.no_grad():
            given = captum.LayerActivation(network, module).attribute(x)
        units = given.shape[1]
        shape = (1, units, *([1] * (given.ndim - 2)))
        options["layer_mask"] = torch.arange(units).reshape(shape).expand(1, *given.shape[1:])
    found = BY_HAND[method](network, module).attribute(x, **options).detach().flatten(2 if "." in layer else 1)
    if found.ndim == 3:
        found = found[:, :, 0] if method == "feature-ablation" else found.sum(dim=2)
    return found.numpy()


@pytest.mark.parametrize("method", METHODS)
def test_units_have_captums_own_attributions(method: str, network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    layers = ["features.stage2.0.conv1", "features.stage3.0.conv2", "classifier"]
    batches = [tuple(part[:5] for part in images), tuple(part[5:] for part in images)]
    table = attributions(network, batches, method, layers=layers, n_steps=STEPS, rows=11)
    column = method.replace("-", "_")
    for name in layers:
        expected = by_hand(method, network, name, images)
        units = table[table["layer"] == name]
        assert len(units) == expected.shape[1]
        np.testing.assert_allclose(units[column], np.abs(expected).mean(axis=0), rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(units[f"{column}_signed"], expected.mean(axis=0), rtol=1e-9, atol=1e-13)
        error = np.abs(expected).std(axis=0, ddof=1) / np.sqrt(7)
        np.testing.assert_allclose(units[f"{column}_se"], error, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("method", ["conductance", "integrated-gradients"])
def test_convergence_deltas_are_captums(method: str, network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    name = "features.stage2.0.conv2"
    table = attributions(network, images, method, layers=name, n_steps=STEPS)
    x, y = images
    explained = BY_HAND[method](network.eval(), network.get_submodule(name))
    _, delta = explained.attribute(x, torch.zeros_like(x), target=y, n_steps=STEPS, return_convergence_delta=True)
    column = f"{method.replace('-', '_')}_convergence_delta"
    np.testing.assert_allclose(table[column], delta.abs().mean().item(), rtol=1e-9)
    with torch.no_grad():
        gap = network(x).gather(1, y[:, None]) - network(torch.zeros_like(x)).gather(1, y[:, None])
    np.testing.assert_allclose(table["output_difference"], gap.abs().mean().item(), rtol=1e-9)


class Linears(nn.Module):
    """y = C B x: of a unit h = Bx the score of class c has gradient C[c], whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_closed_form_on_a_linear_network(baseline: str) -> None:
    torch.manual_seed(1)
    model, x, y = Linears().double(), torch.randn(9, 5, dtype=torch.float64), torch.randint(0, 3, (9,))
    table = attributions(model, [(x, y)], METHODS, layers="first", baseline=baseline, n_steps=60)
    b, c = (w.detach().numpy() for w in (model.first.weight, model.last.weight))
    start = x.numpy().mean(axis=0) if baseline == "mean" else np.zeros(5)
    gradients, hidden = c[y.numpy()], x.numpy() @ b.T
    expected = {
        "integrated_gradients": gradients * (hidden - start @ b.T),
        "gradient_x_activation": gradients * hidden,
        "grad_cam": gradients * hidden,
        "feature_ablation": gradients * hidden,
        "internal_influence": gradients,
    }
    for column, values in expected.items():
        np.testing.assert_allclose(table[f"{column}_signed"], values.mean(axis=0), rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(table[column], np.abs(values).mean(axis=0), rtol=1e-7, atol=1e-12)
    # captum's points of conductance lie inside (0, 1): it sees the path but for its ends
    exact = np.abs(gradients * (hidden - start @ b.T)).mean(axis=0)
    np.testing.assert_allclose(table["conductance"], exact, rtol=1e-3)
    assert table["conductance_convergence_delta"].iloc[0] < 1e-3 * table["output_difference"].iloc[0]
    assert table["integrated_gradients_convergence_delta"].iloc[0] < 1e-8
    np.testing.assert_allclose(table["activation_variance"], hidden.var(axis=0), rtol=1e-12)
    np.testing.assert_allclose(table["weight_magnitude"], np.linalg.norm(b, axis=1), rtol=1e-12)


def test_batches_and_rows_do_not_matter(network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    whole = attributions(network, (x, y), ("conductance", "grad-cam"), n_steps=STEPS)
    cut = [(x[:0], y[:0]), (x[:2], y[:2]), (x[2:], y[2:])]
    parts = attributions(network, iter(cut), ("conductance", "grad-cam"), n_steps=STEPS, rows=1)
    numbers = whole.select_dtypes("float64").columns
    np.testing.assert_allclose(parts[numbers], whole[numbers], rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(parts.drop(columns=numbers), whole.drop(columns=numbers))


def test_targets(network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x = images[0]
    with torch.no_grad():
        predicted = network.eval()(x).argmax(dim=1)
    options = {"method": "gradient-x-activation", "layers": "classifier"}
    by_label = attributions(network, (x, predicted), **options)["gradient_x_activation"]
    asked = attributions(network, x, target="predicted", **options)["gradient_x_activation"]
    np.testing.assert_array_equal(asked, by_label)
    one = attributions(network, x, target=2, **options)["gradient_x_activation"].to_numpy()
    assert one[2] > 0
    assert not one[[0, 1, 3]].any()


def test_blocks_are_cuts_of_the_network(network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    table = attributions(network, images, "integrated-gradients", tap="block", n_steps=40)
    assert set(table["tap"]) == {"block"}
    assert (table["integrated_gradients_convergence_delta"] < 0.05 * table["output_difference"]).all()


def test_nothing_is_left_on_the_model(images: tuple[Tensor, Tensor]) -> None:
    model = InPlace().train()
    x = torch.randn(6, 3, 8, 8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    expected = model(x)
    state = torch.get_rng_state()
    table = attributions(model, (x, torch.zeros(6, dtype=torch.int64)), METHODS, n_steps=3, layers=["conv", "act"])
    assert table["layer"].unique().tolist() == ["conv", "act"]
    assert model.training
    assert model.act.inplace
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(model(x), expected)


class Stops(nn.Module):
    """A network that a person interrupts in its third forward pass: the first two look at shapes and activations."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.act, self.passes = nn.Linear(3, 2), nn.ReLU(inplace=True), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        y = self.act(self.lin(x))
        if self.passes == 3:
            raise KeyboardInterrupt
        return y


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_leaves_no_hook(method: str) -> None:
    model = Stops().train()
    with pytest.raises(KeyboardInterrupt):
        attributions(model, torch.randn(4, 3), method, target=0, n_steps=2, layers=["lin", "act"])
    assert model.training
    assert model.act.inplace
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Tokens(nn.Module):
    """Integer inputs, (n, length, features) inside, an output with logits, a branch that the score does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.aside = nn.Embedding(11, 6), nn.Linear(6, 5), nn.Linear(6, 2)
        self.head = nn.Linear(5, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = self.embed(ids)
        return {"logits": self.head((self.mix(hidden).tanh() * mask[..., None]).mean(1)), "aside": self.aside(hidden)}


def test_dicts_of_tokens() -> None:
    torch.manual_seed(0)
    batch = {"ids": torch.randint(0, 11, (4, 7)), "mask": torch.ones(4, 7, dtype=torch.int64)}
    batch["labels"] = torch.tensor([0, 1, 2, 0])
    model = Tokens()
    table = attributions(model, [batch], ("gradient-x-activation", "feature-ablation"))
    sizes = table.groupby("layer", sort=False)["view"].agg(["size", "first"])
    assert sizes.T.to_dict("list") == {
        "embed": [6, "tokens"], "mix": [5, "tokens"], "aside": [2, "tokens"], "head": [3, "channels"]
    }  # fmt: skip
    assert not table.loc[table["layer"] == "aside", "gradient_x_activation"].any()
    with pytest.raises(ConfigError, match="needs inputs that are not integers"):
        attributions(model, [batch], "conductance")
    floats = {"ids": batch["ids"], "mask": batch["mask"].float(), "labels": batch["labels"]}
    assert attributions(model, [floats], "conductance", n_steps=2, layers="head")["conductance"].gt(0).all()


class Overwrites(nn.Module):
    """Writes into the output of ``norm``, by a statement rather than a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        out = self.norm(before)
        out += before
        return self.head(self.act(out).mean(2))


@pytest.mark.parametrize("method", METHODS)
def test_an_output_that_the_network_overwrites(method: str) -> None:
    torch.manual_seed(0)
    model = Overwrites()
    batch = torch.randn(5, 2, 11), torch.tensor([0, 1, 2, 0, 1])
    if method in {"integrated-gradients", "feature-ablation"}:
        with pytest.raises(ConfigError, match="writes into the output of layer 'norm'"):
            attributions(model, batch, method, layers=["conv", "norm"])
        assert len(attributions(model, batch, method, layers="conv", n_steps=2)) == 4
        return
    table = attributions(model, batch, method, layers="norm", n_steps=STEPS)
    column = method.replace("-", "_")
    copy = Overwrites().eval()
    copy.load_state_dict(model.state_dict())
    copy.forward = lambda x: copy.head(copy.act(copy.conv(x) + copy.norm(copy.conv(x))).mean(2))  # type: ignore
    expected = by_hand(method, copy, "norm", batch).reshape(5, 4, -1).sum(2)
    np.testing.assert_allclose(table[column], np.abs(expected).mean(0), rtol=1e-4)


def test_units_of_one_dimensional_maps_are_channels() -> None:
    table = attributions(Overwrites(), torch.randn(5, 2, 11), target=0, n_steps=2, layers=["conv", "norm", "act"])
    assert table.groupby("layer", sort=False)["unit"].size().to_dict() == {"conv": 4, "norm": 4, "act": 4}
    assert set(table["view"]) == {"channels"}


def test_one_score_a_sample_needs_no_target() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(inplace=True), nn.Linear(2, 1), nn.Flatten(0))
    table = attributions(model, torch.randn(5, 3), METHODS, n_steps=2)
    assert table["layer"].tolist() == ["0", "0", "2"]
    assert np.isfinite(table["conductance"]).all()


def test_table_is_tidy(network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    table = attributions(network, images, "conductance", n_steps=2, layers="features.stage2.*")
    frame = tidy(table, run="a", seed=0, round=0, step=1, epoch=1.0, split="test")
    conductance = frame[frame["measure"] == "conductance"]
    np.testing.assert_allclose(conductance["high"] - conductance["value"], table["conductance_se"])
    np.testing.assert_array_equal(wide(frame)["conductance"], table["conductance"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "conductanse"}, "did you mean 'conductance'"),
        ({"method": ()}, "there are conductance"),
        ({"tap": "input"}, "tap='input' has no attributions"),
        ({"target": 4}, "target=4 is no class of this model, which gives 4 scores"),
        ({"target": "best"}, "target='best' is neither a class"),
        ({"baseline": "black"}, "baseline='black' is none of 'zero'"),
        ({"n_steps": 0}, "n_steps=0 is not a whole number from 1"),
        ({"rows": True}, "rows=True is not a whole number"),
    ],
)
def test_settings_that_are_wrong(
    options: dict, message: str, network: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(ConfigError, match=message):
        attributions(network, images, **options)


def test_what_captum_cannot_explain_is_said(network: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ConfigError, match="layer 'lin' is called 2 times in a forward pass"):
        attributions(CalledTwice(), torch.randn(3, 6), target=0)
    with pytest.raises(
        ConfigError, match=r"layer 'lstm' gives a container of tensors.* with layers=\['head'\], or give"
    ):
        attributions(TupleOut(), torch.randn(3, 4, 5), target=0, layers="*")
    with pytest.raises(ConfigError, match="hold no labels"):
        attributions(network, images[0])
    with pytest.raises(ConfigError, match="labels from 0 to 7, but the model gives 4 scores"):
        attributions(network, (images[0], images[1] + torch.tensor([4] * 7) * (images[1] == 3)))
    with pytest.raises(ConfigError, match="can be read once; pass a list"):
        attributions(network, iter([images]), baseline="mean")
    with pytest.raises(ShapeError, match="baseline has shape \\(3,\\); an input has \\(1, 8, 8\\)"):
        attributions(network, images, baseline=torch.zeros(3))
    with pytest.raises(ShapeError, match="the model gives shape \\(7, 4, 8, 8\\)"):
        attributions(network.features.stem, images)
    with pytest.raises(UnknownNameError, match="matches nothing"):
        attributions(network, images, layers="stage9.*")
    with pytest.raises(ShapeError, match="holds no samples"):
        attributions(network, [])


class Attentive(nn.Module):
    """Two layers of self-attention, whose attention modules give tuples."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, dim_feedforward=8, batch_first=True)
        self.enc = nn.TransformerEncoder(layer, 2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.enc(x).mean(1))


def test_layers_of_attention_are_left_out_with_one_warning() -> None:
    batch = torch.randn(4, 5, 6), torch.arange(4) % 3
    with pytest.warns(UserWarning, match="cannot explain 2 of 7 layers") as told:
        table = attributions(Attentive(), [batch, batch], ("gradient-x-activation", "integrated-gradients"), n_steps=2)
    assert [Path(warning.filename).name for warning in told] == ["test_calls.py"]
    assert str(told[0].message).endswith(
        "are left out: 'enc.layers.0.self_attn', 'enc.layers.1.self_attn'; the first gives a container of tensors"
    )
    linear = [f"enc.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    assert table["layer"].unique().tolist() == [*linear, "fc"]
    with pytest.warns(UserWarning, match="left out: 'lstm'; the first gives"):
        assert len(unit_damage(TupleOut(), (torch.randn(3, 4, 5), torch.tensor([0, 1, 1])))) == 2


def test_naming_layers_of_attention_is_an_error_that_shows_what_works() -> None:
    batch = torch.randn(4, 5, 6), torch.arange(4) % 3
    with pytest.raises(ConfigError, match=r"layer 'enc\.layers\.0\.self_attn' gives a container") as told:
        attributions(Attentive(), batch, layers="*self_attn")
    shown = ast.literal_eval(str(told.value).partition("layers=")[2].partition(", or")[0])
    assert shown == ["*.linear1", "*.linear2", "fc"]
    assert len(attributions(Attentive(), batch, layers=shown, n_steps=2)) == 8 + 6 + 8 + 6 + 3


class Counted(list):
    """Stands where tqdm does."""

    last: Counted

    def __init__(self, *, total: int | None = None, **options: object) -> None:
        super().__init__()
        self.total, Counted.last = total, self

    def update(self) -> None:
        self.append(1)

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize("lazy", [False, True])
def test_the_bar_knows_its_total(lazy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "tqdm", Counted)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(9, 3)
    batches = DataLoader(x[:8], batch_size=4) if lazy else [x[:4], x[:0], x[4:]]
    attributions(model, batches, ("integrated-gradients", "conductance"), target=0, n_steps=2, rows=7)
    assert len(Counted.last) == Counted.last.total
    assert Counted.last.total == 2 * (2 + 4 if lazy else 2 + 2 + 3)
    attributions(model, (part for part in x.split(4)), "grad-cam", target=0)
    assert Counted.last.total is None

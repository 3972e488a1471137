"""Criteria with gradients, against derivatives by hand and differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepprobe.errors import ConfigError
from deepprobe.pruning.criteria import CRITERIA, Subject
from deepprobe.pruning.criteria.grasp import grasp
from deepprobe.pruning.masks import Masks

GRADIENTS = ("gradient-weight", "snip", "grasp")


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def samples(n: int = 12, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=g, dtype=torch.float64), torch.randint(3, (n,), generator=g)


def loss_of(model: nn.Sequential, x: Tensor, y: Tensor, *, temperature: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Mean loss as a function of all prunable weights in one vector, written without the model."""

    def loss(vector: Tensor) -> Tensor:
        first, second = vector[:20].view(5, 4), vector[20:].view(3, 5)
        logits = torch.tanh(x @ first.T + model[0].bias) @ second.T + model[2].bias
        log_p = logits / temperature - (logits / temperature).exp().sum(1, keepdim=True).log()
        return -log_p[torch.arange(len(y)), y].mean()

    return loss


def vector_of(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().ravel() for t in tensors])


def weights_of(model: nn.Sequential) -> Tensor:
    return vector_of([model[0].weight, model[2].weight])


def differences(f: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """Gradient by central differences."""
    basis = torch.eye(len(at), dtype=at.dtype) * step
    return torch.stack([(f(at + e) - f(at - e)) / (2 * step) for e in basis]).detach()


@pytest.mark.parametrize("cuts", [(12,), (5, 7), (1, 11)])
def test_gradient_times_weight(cuts: tuple[int, ...]) -> None:
    model, (x, y) = net(), samples()
    batches = list(zip(x.split(cuts), y.split(cuts), strict=True))
    found = CRITERIA["gradient-weight"](Subject(model, Masks.dense(model), batches=batches))
    w = weights_of(model)
    expected = (w * differences(loss_of(model, x, y), w)).abs()
    torch.testing.assert_close(vector_of(list(found.values())), expected, rtol=1e-7, atol=1e-10)


def test_snip_is_the_share_in_the_sum_over_kept_weights() -> None:
    model, (x, y) = net(), samples()
    masks = Masks({n: torch.rand(p.shape) < 0.6 for n, p in model.named_parameters() if p.ndim == 2})
    masks.apply(model)
    found = CRITERIA["snip"](Subject(model, masks, batches=[(x, y)]))
    kept, w = vector_of(list(masks.values())), weights_of(model)
    expected = (w * differences(loss_of(model, x, y), w)).abs()
    expected = expected / expected[kept].sum()
    torch.testing.assert_close(vector_of(list(found.values()))[kept], expected[kept], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("temperature", [200.0, 1.0])
@pytest.mark.parametrize("cuts", [(12,), (5, 7)])
def test_grasp_is_weight_times_hessian_times_gradient(cuts: tuple[int, ...], temperature: float) -> None:
    model, (x, y) = net(), samples()
    batches = list(zip(x.split(cuts), y.split(cuts), strict=True))
    subject = Subject(model, Masks.dense(model), batches=batches)
    found = grasp(subject) if temperature == 200.0 else partial(grasp, temperature=temperature)(subject)
    loss, w = loss_of(model, x, y, temperature=temperature), weights_of(model)
    hessian = torch.autograd.functional.hessian(loss, w)
    gradient = torch.autograd.functional.jacobian(loss, w)
    expected = w * (hessian @ gradient)
    torch.testing.assert_close(vector_of(list(found.values())), expected.detach(), rtol=1e-8, atol=1e-14)


def test_grasp_removes_first_what_keeps_the_gradient_small() -> None:
    """The sign: shrinking the lowest scores raises ‖g‖², shrinking the highest lowers it."""
    model, (x, y) = net(), samples()
    scores = vector_of(list(grasp(Subject(model, Masks.dense(model), batches=[(x, y)]), temperature=1.0).values()))
    loss, w = loss_of(model, x, y), weights_of(model)

    def flow(at: Tensor) -> float:
        return float(torch.autograd.functional.jacobian(loss, at).square().sum())

    shrink = torch.where(scores < 0, 0.99, 1.0), torch.where(scores > 0, 0.99, 1.0)
    assert scores.min() < 0 < scores.max()
    assert flow(w * shrink[0]) > flow(w) > flow(w * shrink[1])


class Fussy(nn.Module):
    """Everything that a criterion could leave changed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 3)
        self.unused = nn.Linear(2, 2)
        self.conv.weight.requires_grad_(False)
        self.norm.eval()
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("the network's own fault")
        return self.head(self.drop(self.act(self.norm(self.conv(x)))).flatten(1))


@pytest.mark.parametrize("name", [*GRADIENTS, "synflow"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found_whatever_happens(name: str, *, fails: bool) -> None:
    torch.manual_seed(0)
    model = Fussy()
    with torch.no_grad():
        model.head.weight[0, 0] = -0.0
    model.conv.bias.grad = torch.ones(4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {key: module.training for key, module in model.named_modules()}
    batches = [(torch.randn(6, 1, 4, 4), torch.randint(3, (6,)))]
    random = torch.get_rng_state()
    model.fails = fails
    subject = Subject(model, Masks.dense(model), batches=batches)
    if fails:
        with pytest.raises(RuntimeError, match="the network's own fault"):
            CRITERIA[name](subject)
    else:
        found = CRITERIA[name](subject)
        assert {key: score.shape for key, score in found.items()} == {key: m.shape for key, m in subject.masks.items()}
        assert not bool(found["unused.weight"].any())
        assert bool(found["conv.weight"].any()), "frozen weights are scored too"
        again = CRITERIA[name](subject)
        assert all(torch.equal(found[key], again[key]) for key in found)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
        assert torch.equal(torch.signbit(value.double()), torch.signbit(before[key].double()))
    assert {key: module.training for key, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert [key for key, p in model.named_parameters() if not p.requires_grad] == ["conv.weight"]
    assert [key for key, p in model.named_parameters() if p.grad is not None] == ["conv.bias"]
    assert all(p.is_leaf and isinstance(p, nn.Parameter) for p in model.parameters())


@pytest.mark.parametrize("name", [*GRADIENTS, "synflow"])
def test_batches_are_needed(name: str) -> None:
    model = net()
    with pytest.raises(ConfigError, match=f"the criterion '{name}' looks at training samples; pass batches="):
        CRITERIA[name](Subject(model, Masks.dense(model)))


def test_grasp_says_what_it_takes() -> None:
    model = net()
    with pytest.raises(ConfigError, match=r"takes batches \(inputs, integer targets\), not Tensor"):
        CRITERIA["grasp"](Subject(model, Masks.dense(model), batches=[samples()[0]]))


def test_cross_entropy_is_the_default_loss_of_pairs() -> None:
    model, (x, y) = net().float(), samples()
    found = CRITERIA["gradient-weight"](Subject(model, Masks.dense(model), batches=[(x.float(), y)]))
    F.cross_entropy(model(x.float()), y).backward()
    for name, parameter in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], (parameter * parameter.grad).abs().detach())

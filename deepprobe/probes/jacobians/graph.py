"""One forward pass kept as a graph: what products with its Jacobians are taken from.

For samples that do not see each other the Jacobian of a batch is block-diagonal, so that one backward pass is one
vector-Jacobian product of every sample. A Jacobian-vector product is the derivative of the vector-Jacobian product by
its own vector: Jᵀu is linear in u, hence ∂(Jᵀu · v)/∂u = J v (Townsend 2017), one backward pass through a backward
pass. Points of the graph are held as edges, which no in-place operation can overwrite.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence

from deepprobe.errors import ConfigError, ShapeError, SpectrumError
from deepprobe.hooks.attach import attached, tensors_in
from deepprobe.hooks.passes import as_batches, device_of, differentiating, evaluating, moved, n_samples, run
from deepprobe.linalg.precision import wide_dtype
from deepprobe.probes.jacobians.statistics import BatchStatistics

if TYPE_CHECKING:
    from torch import nn

    from deepprobe.records.layer import LayerCall

Mode: TypeAlias = Literal["eval", "train"]
"""Running statistics, or those of each batch, as the network trains, held constant while differentiating."""

VIEWS: dict[Mode, str] = {"eval": "jacobian", "train": "jacobian-batch"}
"""What stands for a mode in the column ``view`` of the wide table."""

Output: TypeAlias = Callable[[Any], Tensor]
"""From what a model returns to the tensor that is differentiated."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a tensor was given and what it was like, once its graph is gone.

    Attributes:
        call: Which layer call gave it; None for the input and the output of the whole network.
        shape: Samples first.
        dtype: Of the tensor.
        device: Where it was.
    """

    call: LayerCall | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def n_units(self) -> int:
        """Numbers a sample."""
        return torch.Size(self.shape[1:]).numel()

    @property
    def key(self) -> str:
        """What a point is told from others of its graph by; the input's is empty."""
        return f"{self.call.key}/{self.call.order}" if self.call else ""

    def columns(self, network: str, *, n_samples: int) -> dict[str, Any]:
        """What the wide table says of where a number was taken; the input goes under its network's class."""
        call = self.call
        return {
            "depth": call.depth if call else 0, "layer": call.layer if call else "", "call": call.call if call else 1,
            "type": call.type if call else network, "tap": call.tap if call else "input",
            "n_rows": n_samples, "n_features": self.n_units,
            "dtype": str(self.dtype).removeprefix("torch."), "sketched": False,
        }  # fmt: skip

    def zeros(self, *, requires_grad: bool = False) -> Tensor:
        """Zeros of the tensor's shape."""
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device, requires_grad=requires_grad)


@dataclass(frozen=True, eq=False)
class Point(Place):
    """A tensor inside the graph; keeps the graph alive.

    Attributes:
        edge: Where the tensor is in the graph.
    """

    edge: GradientEdge

    @classmethod
    def of(cls, tensor: Tensor, call: LayerCall | None = None) -> Point:
        """That of a tensor that the input reaches."""
        return cls(call, tuple(tensor.shape), tensor.dtype, tensor.device, get_gradient_edge(tensor))

    @property
    def place(self) -> Place:
        """The same without the graph."""
        return Place(self.call, self.shape, self.dtype, self.device)


@dataclass(frozen=True, eq=False)
class Graph:
    """A forward pass of n samples.

    Attributes:
        inputs: What the network was given.
        outputs: What it gave, shape (n, k) whatever it was.
        points: What the chosen layers gave on the way, in the order in which they ran.
        n_samples: How many samples.
    """

    inputs: Point
    outputs: Point
    points: list[Point]
    n_samples: int


def pullback(outputs: list[Point], cotangents: list[Tensor], inputs: list[Point]) -> list[Tensor]:
    """Vector-Jacobian products Jᵀu of every sample, one tensor an input; zeros where nothing leads there."""
    found = torch.autograd.grad(
        [point.edge for point in outputs],
        [point.edge for point in inputs],
        grad_outputs=cotangents,
        retain_graph=True,
        allow_unused=True,
    )
    return [p.zeros() if g is None else g for g, p in zip(found, inputs, strict=True)]


class Pushforward:
    """Jacobian-vector products J v of every sample, from one point to several.

    Args:
        source: Where v is put in.
        targets: Where J v is read.

    Raises:
        SpectrumError: If the network holds an operation that has no second derivative.
    """

    def __init__(self, source: Point, targets: list[Point]) -> None:
        self._targets = targets
        self._cotangents = [target.zeros(requires_grad=True) for target in targets]
        try:
            (self._product,) = torch.autograd.grad(
                [target.edge for target in targets],
                [source.edge],
                grad_outputs=self._cotangents,
                create_graph=True,
                allow_unused=True,
            )
        except RuntimeError as error:
            raise SpectrumError(f"this network cannot be differentiated twice, as J v needs: {error}") from error

    def __call__(self, tangent: Tensor) -> list[Tensor]:
        """J v, one tensor a target; zeros where the source does not reach it."""
        if self._product is None or not self._product.requires_grad:
            return [target.zeros() for target in self._targets]
        try:
            found = torch.autograd.grad(
                self._product, self._cotangents, grad_outputs=tangent, retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            raise SpectrumError(f"this network cannot be differentiated twice, as J v needs: {error}") from error
        return [t.zeros() if g is None else g for g, t in zip(found, self._targets, strict=True)]


def check_adjoint(graph: Graph, tangent: Tensor, products: list[Tensor]) -> None:
    """That products J v of every point agree with Jᵀu, for an operation may lose its second derivative in silence.

    With u = J v / ‖J v‖² of each point, Σ ⟨J v, u⟩ counts the points where J v is not zero, and so must ⟨v, Jᵀu⟩.
    Points where J v is not finite, or u beyond what the dtype can hold, are left out.

    Raises:
        SpectrumError: If they differ by a hundredth.
    """
    count = torch.zeros(graph.n_samples, 1, dtype=wide_dtype(tangent.device), device=tangent.device)
    cotangents = []
    for product in products:
        flat = product.flatten(1).to(count.dtype)
        norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        wanted = torch.where(norm > 0, flat / norm / norm, 1)
        given = wanted.to(product.dtype)
        off, size = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (given - wanted, wanted))
        held = torch.isfinite(norm) & (off <= 0.01 * size)
        cotangents.append(torch.where(held, given, 0).reshape(product.shape))
        count += held & (norm > 0)
    (pulled,) = pullback(graph.points, cotangents, [graph.inputs])
    found, count = (pulled.to(count.dtype) * tangent).flatten(1).sum(1), count[:, 0]
    if bool((torch.isfinite(found) & ((found - count).abs() > 0.01 * count.clamp_min(1))).any()):
        raise SpectrumError(
            "this network cannot be differentiated twice, as J v needs: products with J and with its transpose "
            "disagree; an operation of its own (torch.autograd.Function) has no second derivative"
        )


@contextmanager
def differentiable(
    model: nn.Module, *, mode: Mode, in_float64: bool, device: torch.device | str | None, seed: int
) -> Iterator[nn.Module]:
    """The plain eager model in a mode, with gradients, or a float64 copy of it; all restored on the way out.

    Raises:
        ConfigError: If ``mode`` is neither ``eval`` nor ``train``.
        SpectrumError: If the model cannot be copied for float64.
    """
    if mode not in ("eval", "train"):
        raise ConfigError(f"mode={mode!r} is neither 'eval' (running statistics) nor 'train' (those of each batch)")
    context = differentiating(model, device=device, seed=seed) if mode == "train" else evaluating(model, device=device)
    with context as network, torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        # fused attention has one derivative
        if not in_float64:
            yield network
            return
        try:
            twin = copy.deepcopy(network).double()
        except Exception as error:  # whatever a user's __deepcopy__ raises
            raise SpectrumError(f"in_float64: the model cannot be copied ({error})") from error
        yield twin


def graphs(
    network: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Mapping[str, nn.Module],
    tap: str = "output",
    samples: int,
    output: Output | None = None,
    in_float64: bool = False,
) -> Iterator[Graph]:
    """Graphs of the first samples of the batches, one a batch; each can be freed before the next is made.

    Batch statistics are those of a whole batch, also where only its first samples are differentiated.

    Args:
        network: What ``differentiable`` yields.
        batches: As a person passed them.
        layers: Whose tensors become points; may be empty.
        tap: ``output`` or ``block``.
        samples: How many at most.
        output: The tensor of what the model returns; by default itself, its ``logits``, or its only tensor.
        in_float64: Whether inputs become float64.

    Raises:
        ConfigError: If ``samples`` is no number from 1 on.
        ShapeError: If there is no sample, no floating-point input, no output of one row a sample, or samples see each
            other.
    """
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise ConfigError(f"n_samples={samples!r} is not a number from 1 on")
    left, found = samples, False
    for batch in as_batches(batches):
        count = min(n_samples(batch), left)
        if not count:
            continue
        batch = moved(_input_of(batch), device_of(network), torch.float64 if in_float64 else None)
        graph = _graph(network, batch, count, layers=layers, tap=tap, output=output)
        graph = _independent(graph)
        found = True
        yield graph
        del graph
        left -= count
        if not left:
            return
    if not found:
        raise ShapeError("batches holds no samples: every batch was empty, or there was none")


def _input_of(batch: Any) -> Any:
    """What the forward pass is given: without targets."""
    pair = isinstance(batch, (tuple, list)) and not isinstance(batch, PackedSequence)
    return _input_of(batch[0]) if pair else batch


def _graph(
    network: nn.Module, batch: Any, count: int, *, layers: Mapping[str, nn.Module], tap: str, output: Output | None
) -> Graph:
    """The graph of the first samples of a batch, with that whole batch's statistics."""
    kept = None
    total = n_samples(batch)
    if count < total:
        with torch.no_grad(), BatchStatistics() as whole:
            run(network, batch)
        kept = whole.found
        batch = _first(batch, count, total)
    batch, leaf = _with_leaf(batch)
    points: list[Point] = []

    def keep(call: LayerCall, tensor: Tensor) -> None:
        if tensor.requires_grad and tensor.ndim and len(tensor) == count:
            points.append(Point.of(tensor, call))

    hooks = attached(network, layers, tap=tap, on_tensor=keep) if layers else nullcontext()
    with BatchStatistics(kept), hooks:
        given = _chosen(run(network, batch), output)
    if given.ndim == 0 or len(given) != count:
        raise ShapeError(
            f"the output has shape {tuple(given.shape)} for {count} samples; its first axis must be theirs: "
            "pass output=lambda returned: …"
        )
    given = given.reshape(count, -1)
    if not given.requires_grad:  # nothing leads from the input there: a derivative of zero
        given = given + leaf.reshape(count, -1).sum(1, keepdim=True) * 0
    given = given * torch.where(given.detach().isnan(), torch.nan, 1.0).to(given.dtype)  # no output, no derivative
    return Graph(Point.of(leaf), Point.of(given), points, count)


def _first(value: Any, count: int, total: int) -> Any:
    """The first samples of every tensor of a batch's length, containers kept."""
    if isinstance(value, Tensor):
        return value[:count] if value.ndim and len(value) == total else value
    if isinstance(value, Mapping):
        return {key: _first(item, count, total) for key, item in value.items()}
    if isinstance(value, PackedSequence):
        raise ShapeError("a PackedSequence cannot be cut; pass batches of no more than n_samples, or padded tensors")
    return tuple(_first(item, count, total) for item in value) if isinstance(value, (tuple, list)) else value


def _with_leaf(batch: Any) -> tuple[Any, Tensor]:
    """The input with its first floating-point tensor a copy of a leaf of the graph, and that leaf.

    A leaf itself could not be changed in place, as by a first layer of ``ReLU(inplace=True)``.
    """
    if isinstance(batch, Tensor) and torch.is_floating_point(batch):
        leaf = batch.detach().clone().requires_grad_()
        return leaf.clone(), leaf
    if isinstance(batch, Mapping):
        for key, value in batch.items():
            if isinstance(value, Tensor) and torch.is_floating_point(value):
                leaf = value.detach().clone().requires_grad_()
                return {**batch, key: leaf.clone()}, leaf
    what = f"a tensor of {batch.dtype}" if isinstance(batch, Tensor) else f"{type(batch).__name__}"
    raise ShapeError(f"the input is {what}: there is a Jacobian by a floating-point tensor only")


def _chosen(returned: Any, output: Output | None) -> Tensor:
    """The tensor that is differentiated."""
    if output is not None:
        returned = output(returned)
    elif isinstance(returned, Mapping):
        returned = returned.get("logits", returned)
    else:
        returned = getattr(returned, "logits", returned)
    tensors = [tensor for _, tensor in tensors_in(returned)]
    if len(tensors) != 1:
        raise ShapeError(
            f"the model returned {type(returned).__name__} with {len(tensors)} floating-point tensors; "
            "say which one is meant: output=lambda returned: …"
        )
    return tensors[0]


def _independent(graph: Graph) -> Graph:
    """The graph, in which the output of the first sample depends on no other; one backward pass.

    Points whose first axis is another, such as a recurrent layer's last states, that is as long are left out.
    """
    if not _mixes(graph, [graph.outputs, *graph.points]):
        return graph
    if _mixes(graph, [graph.outputs]):
        raise ShapeError(
            "the output of one sample depends on the others, so that there is no Jacobian of each: the network mixes "
            "samples otherwise than by nn.BatchNorm; pass batches of one sample"
        )
    return replace(graph, points=[point for point in graph.points if not _mixes(graph, [point])])


def _mixes(graph: Graph, points: list[Point]) -> bool:
    """Whether what points hold of the first sample depends on the inputs of others."""
    if graph.n_samples < 2:
        return False
    cotangents = [point.zeros() for point in points]
    for given in cotangents:
        given[0] = torch.linspace(1, 2, given[0].numel(), dtype=given.dtype, device=given.device).view(given[0].shape)
    (gradient,) = pullback(points, cotangents, [graph.inputs])
    others = gradient[1:]
    return bool((torch.isfinite(others) & (others != 0)).any())

"""SynFlow: the share of each weight in what flows through the network, without data.

Tanaka, Kunin, Yamins & Ganguli (2020), "Pruning neural networks without any data by iteratively conserving synaptic
flow", algorithm 1: R is the sum of the outputs for an input of ones with absolute values in place of all weights, and
the score of w is |w| · ∂R/∂|w|. The scores of every layer that all paths pass add up to R, so that none is emptied
before the others – if the weights go in many small steps (they take 100), between which they are scored anew.

The product over 164 layers leaves float32, so that everything is float64. The absolute values are never put into the
model: they stand in for its parameters during one call, in eval mode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deepprobe.errors import ConfigError, NonFiniteError
from deepprobe.hooks.passes import evaluating
from deepprobe.pruning.criteria.subject import Subject


def synflow(subject: Subject) -> dict[str, Tensor]:
    """|w| · ∂R/∂|w|, float64.

    Running means of batch normalisation count as zero, as they are in an untrained network: the network is then linear
    in its input, but for biases.

    Args:
        subject: Of its batches only the shape of the first input is used.

    Returns:
        A score for each weight, of its shape, never negative.

    Raises:
        ConfigError: If there is no batch, its input is no floating-point tensor, or the model gives no tensor.
        NonFiniteError: If the sum of the outputs is beyond float64, or zero.
    """
    ones = _ones(subject)
    with evaluating(subject.model) as network, torch.enable_grad():
        state = _absolute(network)
        chosen = {name: state[name].requires_grad_() for name in subject.masks}
        output = functional_call(network, state, (ones,))
        if not isinstance(output, Tensor):
            raise ConfigError(
                f"the criterion 'synflow' needs a tensor of logits; the model gives {type(output).__name__}"
            )
        flow = output.sum()
        if not 0 < flow.item() < float("inf"):
            raise NonFiniteError(
                f"the synaptic flow of this {type(network).__name__} is {flow.item()}: its weights are too large "
                "or too small for float64, or its output is cut off from its input"
            )
        found = torch.autograd.grad(flow, list(chosen.values()), allow_unused=True, materialize_grads=True)
    return {name: weight.detach() * slope for (name, weight), slope in zip(chosen.items(), found, strict=True)}


def _ones(subject: Subject) -> Tensor:
    """One input of ones, of the shape of the first batch's."""
    batch = subject.samples("synflow")[0]
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(first, Tensor) or not first.is_floating_point():
        raise ConfigError("the criterion 'synflow' needs floating-point inputs: it sends ones through the network")
    device = next(iter(subject.masks.values())).device
    return torch.ones(1, *first.shape[1:], dtype=torch.float64, device=device)


def _absolute(network: nn.Module) -> dict[str, Tensor]:
    """Absolute values of all parameters and buffers in float64, running means zero; whole numbers as they are."""
    state = {}
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        state[name] = value.detach().double().abs() if value.is_floating_point() else value
        if name.rpartition(".")[2] == "running_mean":
            state[name].zero_()
    return state

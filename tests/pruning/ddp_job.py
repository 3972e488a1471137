"""What each of two processes runs, ``RANK=0 python ddp_job.py PLACE``; what each finds is left in ``PLACE/0.json``."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported later, it would keep the group for ever: it is a default there
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune as torch_prune

from deepprobe.pruning import GradualPruningCallback, LotteryConfig, prune, run_lottery
from deepprobe.records.step import at
from deepprobe.training import TrainConfig, train

N_STEPS = 3


def network():
    """A net with buffers of its own, half of whose weights are equal in magnitude: ties for a mask to break."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.view(-1)[::2] = 0.01 * layer.weight.view(-1)[::2].sign()
    return model


def data():
    """60 samples, the same in every process."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(60, 12, generator=generator), torch.randint(4, (60,), generator=generator)


def digest(tensors):
    """SHA-256 of tensors by name."""
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(name.encode() + tensors[name].detach().numpy().tobytes())
    return content.hexdigest()


def broken_at_random(weights, *, seed, fraction=0.3):
    """The naive way: equal magnitudes in an order drawn from the process's own generator."""
    flat = torch.cat([w.detach().abs().flatten() for w in weights])
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[order[flat[order].argsort(stable=True)[: int(fraction * len(flat))]]] = False
    return {"all": kept}


def bytes_a_step(model, *, attach=None):
    """Bytes that DistributedDataParallel sends in a step: of gradients, and of buffers."""
    sent = {"gradients": 0, "buffers": 0}
    broadcast = dist._broadcast_coalesced

    def counted(group, tensors, *rest):
        sent["buffers"] += sum(t.numel() * t.element_size() for t in tensors)
        return broadcast(group, tensors, *rest)

    def hook(_, bucket):
        sent["gradients"] += bucket.buffer().numel() * bucket.buffer().element_size()
        work = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return work.then(lambda future: future.value()[0] / 2)

    wrapped = DistributedDataParallel(model)
    wrapped.register_comm_hook(None, hook)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    if attach is not None:
        attach.attach(optimizer, wrapped)
    x, y = (part.tensor_split(2)[dist.get_rank()] for part in data())
    dist._broadcast_coalesced = counted
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    dist._broadcast_coalesced = broadcast
    return {what: n / N_STEPS for what, n in sent.items()}


def main(place):
    """Prune and train together, and say what was found."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
    found = {"dense": bytes_a_step(network())}

    model = network()
    masks = prune(model, fraction=0.3)
    torch.manual_seed(rank)  # whatever a process has drawn by itself must not matter
    found["masks"] = digest(masks)
    found["naive_masks"] = digest(broken_at_random([model[0].weight, model[3].weight], seed=rank))
    found["masked"] = bytes_a_step(model, attach=masks)
    found["weights"] = digest(dict(model.named_parameters()))
    found["revived"] = int(sum(model.get_parameter(n)[~m].count_nonzero() for n, m in masks.items()))

    naive = network()
    for layer, name in ((naive[0], "0.weight"), (naive[3], "3.weight")):
        torch_prune.custom_from_mask(layer, "weight", masks[name])
    found["naive"] = bytes_a_step(naive)

    trained, pruning = network(), GradualPruningCallback("1it..4it/1it", fraction=0.7)
    config = TrainConfig(epochs=2, batch_size=20, lr=0.1, momentum=0.9, validation_share=0.0, device="cpu")
    train(trained, data(), config=config, callbacks=[pruning], out=f"{place}/run", quiet=True)
    found["trained"] = digest(dict(trained.named_parameters()))
    found["trained_masks"], found["n_kept"] = digest(pruning.masks), pruning.masks.n_kept
    ends = []
    lottery = LotteryConfig(training=config, rounds=2, prune=0.5, controls=("random-mask",), probe_samples=0)
    watch = at("2ep")(lambda context: ends.append(digest(dict(context.model.named_parameters()))))
    run_lottery(
        lambda seed: network(), (data(), data()), lottery, out=f"{place}/lottery", callbacks=[watch], quiet=True
    )
    found["lottery"] = ends
    Path(place, f"{rank}.json").write_text(json.dumps(found))
    gc.collect()  # networks that were wrapped hold the group, whose threads must end before Python does
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

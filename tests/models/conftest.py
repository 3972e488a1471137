from __future__ import annotations

import pytest
import torch

from deepprobe.models import registry


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def blueprint():
    """A network without memory for its weights, for shapes and counts."""

    def build(name, **options):
        entry = registry._find(name)
        return registry._blueprint(entry, entry.parse(options))

    return build


@pytest.fixture
def run_depth():
    """Weighted layers off the shortcuts, counted as they are called: an oracle that sees what runs."""

    def count(model, shape):
        called = []
        for name, module in model.named_modules():
            if type(module) in {torch.nn.Conv2d, torch.nn.Linear} and "shortcut" not in name.split("."):
                module.register_forward_hook(lambda *_args, name=name: called.append(name))
        out = model.eval()(torch.empty(shape, device="meta"))
        assert len(set(called)) == len(called)
        return len(called), tuple(out.shape)

    return count

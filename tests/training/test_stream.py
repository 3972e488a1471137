"""Batches: order by (seed, epoch), nothing lost, and errors for what is no data."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, TensorDataset

from deepprobe.errors import ConfigError, ShapeError
from deepprobe.training.stream import LoaderStream, TensorStream, first_samples, pair_of, split_off

CPU = torch.device("cpu")


def numbered(n):
    return torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n)


def seen(stream, epoch, skip=0):
    return [part.y.tolist() for part in stream.batches(epoch, skip=skip)]


def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own():
    stream = TensorStream(numbered(50), batch_size=16, seed=1)
    first, second = seen(stream, 0), seen(stream, 1)
    assert [len(b) for b in first] == [16, 16, 16, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(50))
    assert first != second
    torch.manual_seed(5)
    assert first == seen(TensorStream(numbered(50), batch_size=16, seed=1), 0)
    assert first != seen(TensorStream(numbered(50), batch_size=16, seed=2), 0)


def test_skipped_batches_are_those_at_the_start():
    stream = TensorStream(numbered(50), batch_size=16, seed=1)
    assert seen(stream, 3, skip=2) == seen(stream, 3)[2:]


@pytest.mark.parametrize(("n", "size", "batches"), [(33, 16, 2), (1, 16, 1), (34, 16, 3), (3, 1, 3), (16, 16, 1)])
def test_a_last_batch_of_one_is_left_out(n, size, batches):
    stream = TensorStream(numbered(n), batch_size=size, seed=0)
    assert stream.n_batches == len(seen(stream, 0)) == batches


def test_augmentation_needs_images():
    with pytest.raises(ShapeError) as error:
        TensorStream(numbered(5), batch_size=2, seed=0, augmentation="pad-crop")
    assert str(error.value) == "augmentation='pad-crop' needs images of shape (n, c, h, w), not (5, 1)"


def test_loaders_and_lists_keep_their_own_order():
    loader = DataLoader(TensorDataset(*numbered(10)), batch_size=4)
    batches = [(torch.zeros(2, 1), torch.tensor([0, 1]))]
    assert seen(LoaderStream(loader, device=CPU), 0) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert seen(LoaderStream(batches, device=CPU), 4) == [[0, 1]]


def test_a_loader_with_its_own_generator_goes_on_where_it_was():
    def loader():
        return DataLoader(
            TensorDataset(*numbered(12)), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3)
        )

    stream = LoaderStream(loader(), device=CPU)
    seen(stream, 0)
    state = stream.state()
    second = seen(stream, 1)
    other = LoaderStream(loader(), device=CPU)
    other.restore(state)
    assert seen(other, 1) == second


@pytest.mark.parametrize("kind", ["loader", "sampler", "batch sampler"])
@pytest.mark.parametrize("n", [12, 13])
def test_generators_of_loader_and_samplers_go_on_from_a_state_taken_with_the_last_batch(kind, n):
    data = TensorDataset(*numbered(n))

    def loader():
        generator = torch.Generator().manual_seed(3)
        if kind == "loader":
            return DataLoader(data, batch_size=4, shuffle=True, generator=generator)
        sampler = RandomSampler(data, generator=generator)
        if kind == "sampler":
            return DataLoader(data, batch_size=4, sampler=sampler)
        return DataLoader(data, batch_sampler=BatchSampler(sampler, 4, drop_last=False))

    stream = LoaderStream(loader(), device=CPU)
    under_way = stream.batches(0)  # suspended after its last batch, as it is when the loop writes a checkpoint
    for _ in range(stream.n_batches):
        next(under_way)
    state = stream.state()
    assert next(under_way, None) is None
    second = seen(stream, 1)
    other = LoaderStream(loader(), device=CPU)
    other.restore(state)
    assert seen(other, 1) == second


def test_samplers_are_told_the_epoch():
    def loader():
        data = TensorDataset(*numbered(12))
        return DataLoader(data, batch_size=4, sampler=DistributedSampler(data, num_replicas=2, rank=0))

    stream = LoaderStream(loader(), device=CPU)
    first, second = seen(stream, 0), seen(stream, 1)
    assert sorted(chain(*first)) != sorted(chain(*second))  # another half of the samples
    assert seen(LoaderStream(loader(), device=CPU), 1) == second


def test_what_can_be_read_once_only_is_refused():
    with pytest.raises(ConfigError, match="the training data is a generator, which can be read once only or has no"):
        LoaderStream((b for b in []), device=CPU)


def test_a_loader_that_gives_less_than_it_says_is_an_error():
    class Liar(list):
        def __len__(self):
            return 3

    with pytest.raises(ConfigError, match="says it has 3 batches, and gave 1 in epoch 0"):
        seen(LoaderStream(Liar([numbered(2)]), device=CPU), 0)
    with pytest.raises(ConfigError, match="says it has 3 batches, and gave more in epoch 0"):
        seen(LoaderStream(Liar([numbered(2)] * 4), device=CPU), 0)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3), "a batch must be a pair of tensors (inputs, labels); this one is a Tensor"),
        ({"x": 1}, "a batch must be a pair of tensors (inputs, labels); this one is a dict"),
        (
            (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64)),
            "labels must be one integer a sample; inputs are (3, 2), labels (2,) torch.int64",
        ),
        (
            (torch.zeros(3, 2), torch.zeros(3)),
            "labels must be one integer a sample; inputs are (3, 2), labels (3,) torch.float32",
        ),
    ],
)
def test_other_batches_are_refused(batch, message):
    with pytest.raises(ShapeError) as error:
        pair_of(batch, device=CPU)
    assert str(error.value) == message


def test_the_split_is_a_partition_drawn_by_the_seed():
    (x, y), (_, b) = split_off(numbered(50), share=0.1, seed=4)
    assert len(b) == 5
    assert sorted(y.tolist() + b.tolist()) == list(range(50))
    assert x[:, 0].tolist() == y.tolist()
    assert split_off(numbered(50), share=0.1, seed=4)[1][1].tolist() == b.tolist()
    assert split_off(numbered(50), share=0.1, seed=5)[1][1].tolist() != b.tolist()
    with pytest.raises(ConfigError, match=r"validation_share=0.5: there is 1 training sample; set it to 0"):
        split_off(numbered(1), share=0.5, seed=0)


def test_first_samples_leave_every_random_state_alone():
    loader = DataLoader(TensorDataset(*numbered(40)), batch_size=16, shuffle=True, generator=torch.Generator())
    state, own = torch.get_rng_state(), loader.generator.get_state()
    found = first_samples(loader, device=CPU, n_samples=20, batch_size=16)
    assert [len(x) for x, _ in found] == [16, 4]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(own, loader.generator.get_state())
    assert [len(x) for x, _ in first_samples(numbered(5), device=CPU, n_samples=20, batch_size=3)] == [3, 2]

import itertools

import pytest
import torch

from trilemma.data import Batch, Batches, Data, HubImages, Toy
from trilemma.data.loader import Order
from trilemma.errors import ConfigError, DataError


class Counting(Data):
    """Examples that are their own numbers."""

    def __init__(self, length, in_memory=True, bad=None):
        self.length, self._in_memory, self.bad = length, in_memory, bad

    event_shape = (1,)
    num_classes = 2

    @property
    def in_memory(self):
        return self._in_memory

    def __len__(self):
        return self.length

    def fetch(self, indices):
        index = torch.as_tensor(indices)
        if self.bad is not None and (index == self.bad).any():
            raise DataError(f"row {self.bad} cannot be read")
        return Batch(index.float()[:, None], index % 2)

    def split(self, name):
        return self


def numbers(step):
    return torch.cat([batch.x0[:, 0] for batch in step]).long()


def take(num, data, **settings):
    return list(itertools.islice(Batches(data, **settings), num))


def test_two_ranks_interleave_to_the_one_process_batch():
    data = Counting(100)
    whole = take(25, data, batch_size=12, seed=3)
    ranks = [take(25, data, batch_size=12, seed=3, rank=r, world_size=2) for r in range(2)]
    for step, (one, zero, other) in enumerate(zip(whole, *ranks, strict=True)):
        joined = torch.stack([numbers(zero), numbers(other)], dim=1).reshape(-1)
        assert torch.equal(joined, numbers(one)), step


def test_every_sharing_out_deals_the_same_shards():
    data = Counting(1000)
    whole = numbers(take(5, data, batch_size=24, seed=0)[4])
    for world_size, accumulate in [(1, 4), (2, 2), (4, 1), (3, 2), (2, 3)]:
        num_shards = world_size * accumulate
        for rank in range(world_size):
            settings = {"rank": rank, "world_size": world_size, "accumulate": accumulate}
            step = take(5, data, batch_size=24, seed=0, **settings)[4]
            assert len(step) == accumulate
            for micro, batch in enumerate(step):
                shard = micro * world_size + rank
                assert torch.equal(batch.x0[:, 0].long(), whole[shard::num_shards])


def test_accumulation_and_processes_see_the_same_micro_batches():
    data = Counting(64)
    alone = take(6, data, batch_size=8, seed=1, accumulate=2)
    for rank in range(2):
        shared = take(6, data, batch_size=8, seed=1, rank=rank, world_size=2)
        for a, b in zip(alone, shared, strict=True):
            assert torch.equal(a[rank].x0, b[0].x0) and torch.equal(a[rank].label, b[0].label)


@pytest.mark.parametrize("length", [5, 16, 103])
def test_start_step_resumes_identically(length):
    settings = {"batch_size": 16, "seed": 7, "accumulate": 2}
    whole = take(30, Counting(length), **settings)
    for start in (0, 1, 6, 17):
        again = take(30 - start, Counting(length), start_step=start, **settings)
        assert all(
            torch.equal(numbers(a), numbers(b)) for a, b in zip(whole[start:], again, strict=True)
        )


def test_state_is_the_step_and_nothing_else():
    data = Toy("grid25", num_points=50)
    first = Batches(data, batch_size=8, seed=2)
    for _ in range(9):
        next(first)
    assert first.state_dict() == {"step": 9}
    second = Batches(data, batch_size=8, seed=2)
    second.load_state_dict(first.state_dict())
    assert torch.equal(next(first)[0].x0, next(second)[0].x0)


@pytest.mark.parametrize(("length", "batch_size"), [(40, 8), (43, 8)])
def test_each_epoch_visits_every_example_at_most_once(length, batch_size):
    num_steps = length // batch_size
    steps = take(3 * num_steps, Counting(length), batch_size=batch_size, seed=5)
    epochs = [
        torch.cat([numbers(s) for s in steps[e * num_steps : (e + 1) * num_steps]])
        for e in range(3)
    ]
    for epoch in epochs:
        assert len(epoch.unique()) == len(epoch) == num_steps * batch_size
    assert not torch.equal(epochs[0], epochs[1])


def test_permutations_are_permutations_and_differ_by_seed():
    orders = [Order(200, 10, seed) for seed in (0, 1)]
    for order in orders:
        assert torch.equal(order.permutation(4).sort().values, torch.arange(200))
    assert not torch.equal(orders[0].permutation(4), orders[1].permutation(4))


def test_data_smaller_than_a_batch_follow_chained_permutations():
    steps = take(5, Counting(6), batch_size=12 + 3, seed=0)
    drawn = torch.cat([numbers(s) for s in steps])[:72].reshape(-1, 6)
    assert (drawn.sort(dim=1).values == torch.arange(6)).all()


def test_shuffled_positions_are_uniform():
    """Where an example lands in the first batch is uniform: chi-square with 9 degrees."""
    counts = torch.zeros(10)
    for seed in range(400):
        counts[Order(10, 10, seed).permutation(0)[0]] += 1
    assert ((counts - 40) ** 2 / 40).sum() < 27.9  # p = 0.001


def test_workers_read_the_same_batches_and_resume():
    settings = {"batch_size": 12, "seed": 4, "accumulate": 2}
    here = take(10, Counting(50), **settings)
    loader = Batches(Counting(50, in_memory=False), num_workers=2, **settings)
    there = [next(loader) for _ in range(10)]
    assert all(
        torch.equal(a.x0, b.x0) and torch.equal(a.label, b.label)
        for x, y in zip(here, there, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    assert loader.state_dict() == {"step": 10}
    loader.load_state_dict({"step": 3})
    assert torch.equal(numbers(next(loader)), numbers(here[3]))


def test_an_error_in_a_worker_stays_one_line():
    loader = Batches(Counting(8, in_memory=False, bad=5), batch_size=8, num_workers=1)
    with pytest.raises(DataError, match=r"^row 5 cannot be read$"):
        next(loader)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 10, "world_size": 4}, "multiples of 4, such as 8 or 12"),
        ({"batch_size": 3, "accumulate": 4}, "such as 4"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "allowed: 0 to 1"),
        ({"batch_size": 4, "seed": -1}, "seed is -1"),
        ({"batch_size": 4, "start_step": -1}, "start_step is -1"),
    ],
)
def test_bad_settings_name_the_allowed_ones(settings, message):
    with pytest.raises(ConfigError, match=message):
        Batches(Counting(100), **settings)


def test_a_foreign_state_is_refused():
    with pytest.raises(ConfigError, match="needs 'step'"):
        Batches(Counting(8), batch_size=4).load_state_dict({"epoch": 1})


def test_pictures_on_disk_through_workers(tmp_path, helpers):
    for i, image in enumerate(helpers.images(6)):
        helpers.png(tmp_path / "ab"[i % 2] / f"{i}.png", image)
    cached = take(4, HubImages(str(tmp_path)), batch_size=4, seed=0)
    data = HubImages(str(tmp_path), cache=False)
    assert not data.in_memory
    read = take(4, data, batch_size=4, seed=0, num_workers=1)
    for a, b in zip(cached, read, strict=True):
        assert torch.equal(a[0].x0, b[0].x0) and torch.equal(a[0].label, b[0].label)

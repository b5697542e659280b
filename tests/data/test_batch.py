import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trilemma.data import Batch
from trilemma.data.base import to_indices, to_unit_range
from trilemma.data.loader import Order, Share


def test_batches_move_whole():
    batch = Batch(torch.zeros(3, 2), torch.arange(3))
    moved = batch.to("meta")
    assert len(batch) == 3 and moved.x0.is_meta and moved.label.is_meta
    assert Batch(torch.zeros(3, 2)).to("cpu").label is None


def test_unit_range_hits_both_ends():
    x0 = to_unit_range(torch.arange(256, dtype=torch.uint8))
    assert x0[0] == -1 and x0[255] == 1 and x0.dtype == torch.float32
    torch.testing.assert_close(x0.diff(), torch.full((255,), 2 / 255))
    back = ((x0 + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(back, torch.arange(256, dtype=torch.uint8))


def test_indices_of_every_kind():
    for given_indices in (range(3), [0, 1, 2], torch.arange(3), torch.arange(3, dtype=torch.int32)):
        assert torch.equal(to_indices(given_indices, 3), torch.arange(3))
    assert to_indices([], 3).shape == (0,)
    with pytest.raises(IndexError, match="example 3"):
        to_indices([0, 3], 3)


@given(
    length=st.integers(1, 60),
    world_size=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    micro_size=st.integers(1, 5),
    step=st.integers(0, 200),
    seed=st.integers(0, 2**40),
)
def test_shares_partition_the_global_batch(length, world_size, accumulate, micro_size, step, seed):
    num_shards = world_size * accumulate
    batch_size = num_shards * micro_size
    whole = Order(length, batch_size, seed).indices(step)
    assert whole.shape == (batch_size,) and whole.min() >= 0 and whole.max() < length
    hands = torch.empty(num_shards, micro_size, dtype=torch.int64)
    for rank in range(world_size):
        share = Share(Order(length, batch_size, seed), rank, world_size, accumulate)
        for micro in range(accumulate):
            hands[micro * world_size + rank] = share.indices(step, micro)
    assert torch.equal(hands.T.reshape(-1), whole)

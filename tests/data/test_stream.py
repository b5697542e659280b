import itertools
import json
import logging

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from trilemma.data import Batches, HubImages, stream
from trilemma.errors import ConfigError, DataError

NAMES = [str(i) for i in range(40)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 5)


@pytest.fixture(params=[1, 4], ids=["one file", "four files"])
def data(request, tmp_path, helpers):
    """24 pictures whose label is their number, in one or four files."""
    images, num = helpers.images(24, size=4), 24 // request.param
    for i in range(request.param):
        rows = slice(i * num, (i + 1) * num)
        path = tmp_path / f"train-{i}.parquet"
        helpers.parquet(path, images[rows], range(24)[rows], names=NAMES)
    return HubImages(str(tmp_path), streaming=True)


def labels(source, num):
    return source.take(num).label.tolist()


def test_facts_come_from_the_first_row(data):
    assert data.streaming and data.event_shape == (3, 4, 4) and data.num_classes == 40
    assert not data.in_memory
    with pytest.raises(ConfigError, match="cannot be indexed or counted"):
        len(data)


def test_pictures_are_those_of_the_table(data):
    indexed = HubImages(data.path)
    batch = data.stream(seed=1).take(24)
    assert torch.equal(batch.x0, indexed.fetch(batch.label).x0)


def test_epochs_are_permutations_and_differ(data):
    source = data.stream(seed=0)
    epochs = [labels(source, 24) for _ in range(3)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[0] != list(range(24))
    assert labels(data.stream(seed=0), 24) == epochs[0] != labels(data.stream(seed=1), 24)


@pytest.mark.parametrize("used", [0, 1, 4, 5, 6, 10, 23, 24, 25, 30, 48, 53])
def test_resuming_gives_exactly_the_next_picture(data, used):
    source = data.stream(seed=2)
    if used:
        source.take(used)
    state = json.loads(json.dumps(source.state_dict()))
    expected = labels(source, 40)
    other = data.stream(seed=2)
    other.take(3)
    other.load_state_dict(state)
    assert labels(other, 20) == expected[:20]
    again = data.stream(seed=2)  # a state taken after resuming must resume too
    again.load_state_dict(json.loads(json.dumps(other.state_dict())))
    assert labels(again, 20) == expected[20:]
    assert labels(data.stream(seed=2, start=used), 40) == expected


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_share_the_pictures_out(data, world_size):
    shares = [
        labels(data.stream(seed=0, rank=rank, world_size=world_size), 24 // world_size)
        for rank in range(world_size)
    ]
    if world_size != 3:
        assert sorted(itertools.chain(*shares)) == list(range(24))
    assert all(len(set(share)) == len(share) for share in shares)


def test_processes_read_their_shares_in_different_orders(data):
    """Labels are row numbers: the place of each within its share is what was drawn."""
    orders = []
    for rank in range(2):
        share = labels(data.stream(seed=0, rank=rank, world_size=2), 12)
        orders.append([sorted(share).index(row) for row in share])
    assert orders[0] != orders[1]


def test_more_processes_than_rows_is_an_error(tmp_path, helpers):
    helpers.parquet(tmp_path / "train.parquet", helpers.images(1), [0], names=["a"])
    data = HubImages(str(tmp_path), streaming=True)
    with pytest.raises(DataError, match="process 1 gets no row"):
        data.stream(rank=1, world_size=2).take(1)


def test_limit_and_iteration(data):
    short = HubImages(data.path, streaming=True, limit=6)
    assert set(labels(short.stream(), 12)) == set(range(6))
    first = next(iter(data.stream(seed=3)))
    assert first.x0.shape == (1, 3, 4, 4)


def test_loader_streams_and_resumes(data):
    settings = {"batch_size": 8, "seed": 0, "accumulate": 2, "rank": 1, "world_size": 2}
    loader = Batches(data, **settings)
    steps = [next(loader) for _ in range(3)]
    assert all(len(step) == 2 and len(step[0]) == 2 for step in steps)
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["step"] == 3
    following = next(loader)
    resumed = Batches(data, **settings)
    resumed.load_state_dict(state)
    skipped = Batches(data, start_step=3, **settings)
    for other in (next(resumed), next(skipped)):
        assert all(torch.equal(a.x0, b.x0) for a, b in zip(following, other, strict=True))
    with pytest.raises(ConfigError, match="needs 'step' and 'stream'"):
        resumed.load_state_dict({"step": 3})


def test_plain_integers_cannot_be_counted(tmp_path, helpers):
    helpers.parquet(tmp_path / "train.parquet", helpers.images(2), [0, 1])
    assert HubImages(str(tmp_path), streaming=True).num_classes == 0
    assert HubImages(str(tmp_path), streaming=True).stream().take(1).label is None
    with pytest.raises(ConfigError, match="cannot be counted while streaming"):
        HubImages(str(tmp_path), streaming=True, label_column="label").stream()


def test_a_folder_of_pictures_is_not_streamed(tmp_path, helpers):
    helpers.png(tmp_path / "0.png", helpers.images(1)[0])
    with pytest.raises(ConfigError, match="use streaming false"):
        HubImages(str(tmp_path), streaming=True).stream()


def test_mixed_sizes_need_image_size(tmp_path, helpers):
    pictures = [helpers.images(1)[0], helpers.images(1, size=9)[0]]
    helpers.parquet(tmp_path / "train.parquet", pictures, None)
    with pytest.raises(DataError, match="is 9 x 9 but the first picture is 8 x 8"):
        HubImages(str(tmp_path), streaming=True).stream().take(2)


def test_splits_of_a_stream(data):
    with pytest.raises(ConfigError, match="no split 'test'; Allowed: 'train'"):
        data.split("test")


@pytest.fixture
def log(caplog):
    """What the package `datasets` tells, which it keeps from the root of all loggers."""
    logger = logging.getLogger("datasets")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def broken_table(path, kind, helpers):
    """A table without bytes, without rows, or of four parts of which the last is damaged."""
    if kind == "no bytes":
        path.touch()
    elif kind == "no rows":
        parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), path)
    else:
        helpers.parquet(path, helpers.images(40), None)
        parquet.write_table(parquet.read_table(path), path, row_group_size=10)
        last = parquet.ParquetFile(path).metadata.row_group(3).column(0)
        content = np.fromfile(path, np.uint8)
        content[last.data_page_offset :][:200] ^= 0x55
        content.tofile(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["no bytes", "no rows", "damaged"])
def test_tables_that_cannot_be_read_are_one_line(tmp_path, helpers, log, kind, streaming):
    """Streams are opened and read late; nothing is told beside our line."""
    broken_table(tmp_path / "train.parquet", kind, helpers)
    data = HubImages(str(tmp_path), streaming=streaming)
    with pytest.raises(DataError, match=r"\(train\) cannot be read: ") as caught:
        data.stream().take(40) if streaming else data.fetch([0])
    assert "\n" not in str(caught.value)
    assert not log.records
    assert logging.getLogger("datasets").level == logging.WARNING  # as before

"""Weight files: whole or absent, and refused with a reason when anything is wrong with them."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from trilemma.checkpoints import store
from trilemma.errors import CheckpointError, WriteError

TENSORS = {
    "a.weight": torch.arange(12.0).view(3, 4),
    "b": torch.tensor(3),
    "half": torch.ones(2, 2, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
    "flags": torch.tensor([True, False]),
}
HEADER = {"method": {"class_path": "DDGAN", "init_args": {"num_steps": 4}}, "card": {"note": "é"}}


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "model.safetensors"
    store.write(path, "pipeline", TENSORS, HEADER)
    return path.read_bytes()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return tmp_path_factory.mktemp("broken") / "model.safetensors"


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "folder" / "model.safetensors"
    store.write(path, "pipeline", TENSORS, HEADER)
    stored = store.read(path, "pipeline")
    assert stored.header == HEADER
    assert set(stored.tensors) == set(TENSORS)
    for name, value in TENSORS.items():
        assert stored.tensors[name].dtype == value.dtype
        assert torch.equal(stored.tensors[name], value)


def test_equal_content_is_equal_bytes(tmp_path):
    """safetensors orders the metadata by chance, anew for every file."""
    found = set()
    for i in range(12):
        store.write(tmp_path / f"{i}", "pipeline", TENSORS, HEADER)
        found.add((tmp_path / f"{i}").read_bytes())
    assert len(found) == 1


def test_layouts_and_gradients_do_not_matter(tmp_path):
    """Channels-last, sliced and trained tensors are stored as plain numbers."""
    path = tmp_path / "model.safetensors"
    image = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    tensors = {
        "image": image,
        "slice": torch.arange(10.0)[::2],
        "view": image[0],
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }
    store.write(path, "training", tensors, {})
    stored = store.read(path, "training").tensors
    assert all(torch.equal(stored[name], value) for name, value in tensors.items())


def refused(path, data, kind="pipeline"):
    """Reading these bytes raises one line that names the file."""
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        store.read(path, kind)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_truncated_at_every_length(payload, broken):
    length = int.from_bytes(payload[:8], "little")
    edges = {0, 1, 7, 8, 9, 8 + length - 1, 8 + length, 8 + length + 1, len(payload) - 1}
    for end in sorted(edges | set(range(0, len(payload), 37))):
        refused(broken, payload[:end])


def test_bytes_appended(payload, broken):
    refused(broken, payload + b"\0")
    refused(broken, payload + payload)


def test_every_flipped_bit_of_the_data(payload, broken):
    start = 8 + int.from_bytes(payload[:8], "little")
    for position in range(start, len(payload)):
        changed = bytearray(payload)
        changed[position] ^= 1 << (position % 8)
        refused(broken, bytes(changed))


def test_every_flipped_bit_of_the_header_is_refused_or_harmless(payload, broken):
    """No change may go unnoticed, unless it changes nothing that is read (padding, a space)."""
    end = 8 + int.from_bytes(payload[:8], "little")
    harmless = 0
    for position in range(end):
        changed = bytearray(payload)
        changed[position] ^= 1 << (position % 8)
        broken.write_bytes(bytes(changed))
        try:
            stored = store.read(broken, "pipeline")
        except CheckpointError:
            continue
        harmless += 1
        assert stored.header == HEADER
        assert set(stored.tensors) == set(TENSORS)
        assert all(torch.equal(stored.tensors[k], v) for k, v in TENSORS.items())
    assert harmless < end / 20


@settings(max_examples=100)
@given(st.data())
def test_any_other_byte_in_any_place(payload, broken, data):
    position = data.draw(st.integers(0, len(payload) - 1))
    changed = bytearray(payload)
    changed[position] ^= data.draw(st.integers(1, 255))
    broken.write_bytes(bytes(changed))
    try:
        stored = store.read(broken, "pipeline")
    except CheckpointError:
        return
    assert stored.header == HEADER
    assert all(torch.equal(stored.tensors[k], v) for k, v in TENSORS.items())


def test_swapped_header_is_noticed(payload, broken):
    """Another configuration on the same weights is an altered file."""
    length = int.from_bytes(payload[:8], "little")
    head = json.loads(payload[8 : 8 + length])
    head["__metadata__"]["header"] = head["__metadata__"]["header"].replace("4", "2")
    text = json.dumps(head).encode()
    data = len(text).to_bytes(8, "little") + text + payload[8 + length :]
    assert "altered" in refused(broken, data)


def test_renamed_tensor_is_noticed(payload, broken):
    assert payload.count(b'"flags"') == 1
    assert "altered" in refused(broken, payload.replace(b'"flags"', b'"flbgs"'))


@pytest.mark.parametrize("missing", ["sha256", "header", "kind", "format"])
def test_missing_metadata(payload, broken, missing):
    length = int.from_bytes(payload[:8], "little")
    head = json.loads(payload[8 : 8 + length])
    del head["__metadata__"][missing]
    text = json.dumps(head).encode()
    refused(broken, len(text).to_bytes(8, "little") + text + payload[8 + length :])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\0" * 100,
        b"\xff" * 100,
        b"not a model",
        b"PK\x03\x04" + b"\0" * 200,
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (20).to_bytes(8, "little") + b'{"__metadata__": 17}',
        (22).to_bytes(8, "little") + b'{"__metadata__": null}',
        (2).to_bytes(8, "little") + b"\xff\xfe",
    ],
    ids=repr,
)
def test_files_of_another_kind(broken, data):
    refused(broken, data)


def test_foreign_safetensors(broken):
    save_file({"weight": torch.ones(2)}, broken)
    assert "format None" in refused(broken, broken.read_bytes())
    data = save({"weight": torch.ones(2)}, {"format": "pt"})
    assert "format 'pt'" in refused(broken, data)


def test_pickles_are_never_executed(tmp_path):
    class Boom:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "boom"),))

    path = tmp_path / "model.safetensors"
    torch.save(Boom(), path)
    with pytest.raises(CheckpointError):
        store.read(path, "pipeline")
    assert not (tmp_path / "boom").exists()


def test_the_wrong_kind_is_named(payload, broken):
    message = refused(broken, payload, "training")
    assert "pipeline" in message
    assert "training" in message


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "no.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="cannot read"):
            store.read(path, "pipeline")


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "model.safetensors"
    store.write(path, "pipeline", TENSORS, {"version": 1})
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    real_open = Path.open

    def open_full(self, *args, **kwargs):
        file = real_open(self, *args, **kwargs)
        if "w" in (args[0] if args else kwargs.get("mode", "")):
            file.write(b"half")
            file.flush()
            file.close()
            full()
        return file

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(Path, "open", open_full)
        elif step == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(Path, "replace", full)
        with pytest.raises(WriteError, match="No space left"):
            store.write(path, "pipeline", TENSORS, {"version": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing half-written is left
    assert store.read(path, "pipeline").header == {"version": 1}


def test_an_unwritable_folder_is_one_line(tmp_path):
    """A file where the folder should be."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        store.write(blocked / "model.safetensors", "pipeline", TENSORS, {})


def test_a_replaced_file_is_whole(tmp_path):
    path = tmp_path / "model.safetensors"
    for version in range(3):
        store.write(path, "pipeline", TENSORS, {"version": version})
        assert store.read(path, "pipeline").header == {"version": version}
    assert len(list(tmp_path.iterdir())) == 1

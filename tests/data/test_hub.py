import builtins
import sys

import numpy as np
import pytest
import torch

from trilemma.data import HubImages, hub
from trilemma.errors import ConfigError, DataError

NAMES = ["cat", "dog", "eel"]


@pytest.fixture
def folder(tmp_path, helpers):
    """Two classes of two pictures each."""
    for i, image in enumerate(helpers.images(4)):
        helpers.png(tmp_path / "pets" / ("cat" if i < 2 else "dog") / f"{i}.png", image)
    return tmp_path / "pets"


@pytest.fixture
def parquet(tmp_path, helpers):
    images = helpers.images(7, channels=1)
    labels = [0, 1, 2, 2, 1, 0, 0]
    helpers.parquet(tmp_path / "grey" / "train.parquet", images, labels, names=NAMES)
    helpers.parquet(tmp_path / "grey" / "test.parquet", images[:3], labels[:3], names=NAMES)
    return tmp_path / "grey"


def test_building_touches_nothing(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("opened")

    monkeypatch.setattr(hub, "open_source", refuse)
    monkeypatch.setattr(builtins, "open", refuse)
    data = HubImages("owner/name", image_size=64, flip=True)
    assert data.flip and repr(data) == "HubImages('owner/name', split='train')"


def test_a_folder_of_class_folders(folder, helpers):
    data = HubImages(str(folder))
    assert len(data) == 4 and data.event_shape == (3, 8, 8)
    assert data.num_classes == 2 and data.class_names == ("cat", "dog")
    images = torch.from_numpy(helpers.images(4)).permute(0, 3, 1, 2)
    assert torch.equal(data.images_uint8(range(4)), images)
    batch = data.fetch([3, 0])
    assert batch.label.tolist() == [1, 0]
    torch.testing.assert_close(batch.x0, images[[3, 0]].float() / 127.5 - 1)
    assert batch.x0.dtype == torch.float32 and batch.x0.abs().max() <= 1


def test_a_flat_folder_is_unlabelled(tmp_path, helpers):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        helpers.png(tmp_path / name, helpers.images(1)[0])
    data = HubImages(str(tmp_path))
    assert len(data) == 2 and data.num_classes == 0 and data.class_names == ()
    assert data.fetch([0]).label is None


def test_linked_folders_are_read(folder, tmp_path):
    """Classes that are kept elsewhere, one of them twice; each link is a class."""
    root = tmp_path / "linked"
    root.mkdir()
    for name, target in (("a", "cat"), ("b", "dog"), ("c", "dog")):
        (root / name).symlink_to(folder / target)
    data = HubImages(str(root))
    assert data.class_names == ("a", "b", "c") and len(data) == 6
    found, expected = data.images_uint8(range(4)), HubImages(str(folder)).images_uint8(range(4))
    assert torch.equal(found, expected)
    assert torch.equal(data.images_uint8([4, 5]), expected[2:])


@pytest.mark.parametrize("links", [["dog/up"], ["cat/dog", "dog/cat"]], ids=["up", "round"])
def test_links_that_lead_back_are_not_followed(folder, links):
    """Each picture once on every way from the root; a way ends where it would begin again."""
    for link in links:
        name = link.split("/")[1]
        (folder / link).symlink_to(folder if name == "up" else folder / name)
    data = HubImages(str(folder))
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == ([0, 0, 1, 1] if len(links) == 1 else [0] * 4 + [1] * 4)


def test_a_folder_may_be_given_as_a_link_or_by_a_way_back(folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for path in (tmp_path / "link", ".", "./cat/..", "../pets/"):
        assert len(HubImages(str(path))) == 4


def test_split_folders_share_their_classes(tmp_path, helpers):
    image = helpers.images(1)[0]
    for part in ("train/a/0.png", "train/b/0.png", "train/c/0.png", "test/c/9.png", "val/a/1.png"):
        helpers.png(tmp_path / part, image)
    data = HubImages(str(tmp_path))
    assert len(data) == 3 and data.class_names == ("a", "b", "c")
    assert data.split("test").fetch([0]).label.tolist() == [2]
    assert len(data.split("validation")) == 1
    with pytest.raises(ConfigError, match=r"no split 'dev'; .*'test', 'train', 'validation'"):
        data.split("dev")


def test_one_sub_folder_is_no_class(tmp_path, helpers):
    helpers.png(tmp_path / "00000" / "0.png", helpers.images(1)[0])
    assert HubImages(str(tmp_path)).num_classes == 0


def test_part_folders_without_train(tmp_path, helpers):
    for name in ("test/a/0.png", "test/b/0.png"):
        helpers.png(tmp_path / name, helpers.images(1)[0])
    assert HubImages(str(tmp_path), split="test").class_names == ("a", "b")
    with pytest.raises(ConfigError, match="no split 'train'; Allowed: 'test'"):
        len(HubImages(str(tmp_path)))


def test_class_folders_named_like_nothing_else_are_classes(folder):
    with pytest.raises(ConfigError, match="no split 'test'; Allowed: 'train'"):
        HubImages(str(folder)).split("test")


def test_loose_pictures_beside_class_folders_are_ambiguous(folder, helpers):
    helpers.png(folder / "preview.png", helpers.images(1)[0])
    with pytest.raises(DataError, match=r"class folders \(cat\) and outside \(preview\.png\)"):
        len(HubImages(str(folder)))
    assert len(HubImages(str(folder), label_column="none")) == 5


def test_parquet_folder_with_two_splits(parquet, helpers):
    data = HubImages(str(parquet), pad=2)
    assert len(data) == 7 and data.event_shape == (1, 12, 12) and data.num_classes == 3
    assert data.class_names == tuple(NAMES) and data.fetch(range(7)).label.tolist()[:3] == [0, 1, 2]
    image = data.images_uint8([5])[0, 0]
    np.testing.assert_array_equal(image[2:-2, 2:-2], helpers.images(7, channels=1)[5])
    assert image.sum() == image[2:-2, 2:-2].sum()
    test = data.split("test")
    assert len(test) == 3 and test.event_shape == (1, 12, 12)
    assert torch.equal(test.images_uint8([1]), data.images_uint8([1]))
    with pytest.raises(ConfigError, match="'test', 'train'"):
        data.split("validation")


def test_shards_and_part_folders(tmp_path, helpers):
    images = helpers.images(6)
    for i in range(3):
        name = f"train-0000{i}-of-00003.parquet"
        helpers.parquet(tmp_path / "data" / name, images[2 * i : 2 * i + 2], [i, i])
    helpers.parquet(tmp_path / "test" / "0000.parquet", images[:1], [0])
    data = HubImages(str(tmp_path))
    assert data.fetch(range(6)).label.tolist() == [0, 0, 1, 1, 2, 2] and data.num_classes == 3
    assert len(data.split("test")) == 1


def test_a_single_parquet_file(parquet):
    data = HubImages(str(parquet / "test.parquet"))
    assert len(data) == 3 and len(data.split("test")) == 3


def test_npz(tmp_path, helpers):
    path = tmp_path / "samples.npz"
    images = helpers.images(5)
    np.savez(path, images, np.array([0, 3, 1, 1, 0]))
    data = HubImages(str(path))
    assert data.num_classes == 4 and data.fetch([1]).label.tolist() == [3]
    np.testing.assert_array_equal(data.images_uint8([4])[0].permute(1, 2, 0), images[4])
    assert HubImages(str(path), label_column="none").num_classes == 0
    np.savez(path, images[..., :1])
    assert HubImages(str(path), image_size=4).event_shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"arr_0": np.zeros((2, 4, 4, 3), np.float32)},
            r"is float32 \(2, 4, 4, 3\); allowed: uint8",
        ),
        ({"arr_0": np.zeros((2, 3, 8, 8), np.uint8)}, "allowed: uint8"),
        ({"faces": np.zeros((2, 4, 4, 3), np.uint8)}, "must be called 'arr_0'"),
        (
            {"arr_0": np.zeros((2, 4, 4), np.uint8), "arr_1": np.zeros(3, int)},
            "2 pictures in arr_0, 3",
        ),
        ({"arr_0": np.zeros((1, 4, 4), np.uint8), "arr_1": np.zeros(1)}, "labels must be integers"),
        ({"arr_0": np.zeros((1, 4, 4), np.uint8), "arr_1": np.array([-1])}, "row 0 .*label -1"),
        ({"arr_0": np.array([{}], dtype=object)}, "not one of numbers"),
        ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, "holds no pictures"),
    ],
)
def test_bad_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        len(HubImages(str(tmp_path / "x.npz")))
    assert "\n" not in str(error.value)


def test_an_array_or_a_foreign_archive_is_no_npz(tmp_path, helpers):
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        np.save(file, helpers.images(3))
    with pytest.raises(DataError, match=r"x\.npz is not a readable .*holds a single array"):
        len(HubImages(str(path)))
    np.savez(path, helpers.images(3))
    content = path.read_bytes()
    method = content.index(b"PK\x01\x02") + 10  # of compression, in the directory
    path.write_bytes(content[:method] + b"\x63" + content[method + 1 :])
    with pytest.raises(DataError, match=r"x\.npz is not a readable .*compression"):
        len(HubImages(str(path)))
    path.write_bytes(b"hello, world")
    with pytest.raises(DataError, match=r"x\.npz is not an \.npz file"):
        len(HubImages(str(path)))


def test_damaged_npz_and_parquet_are_named(tmp_path):
    for name in ("x.npz", "x.parquet"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 not what it says")
        with pytest.raises(DataError, match=rf"{name}.*(not a readable|cannot be read)") as error:
            len(HubImages(str(tmp_path / name)))
        assert "\n" not in str(error.value)


def test_limit_cache_and_order(parquet):
    data = HubImages(str(parquet), limit=4)
    assert len(data) == 4 and data.num_classes == 3 and len(data.labels) == 4
    with pytest.raises(IndexError, match="example 4 was asked for, but there are 4: use 0 to 3"):
        data.fetch([4])
    with pytest.raises(IndexError):
        data.fetch([-1])
    direct = HubImages(str(parquet), cache=False)
    assert data.in_memory and not direct.in_memory
    assert torch.equal(data.images_uint8([3, 0, 3]), direct.images_uint8(torch.tensor([3, 0, 3])))


def test_too_much_for_memory_is_decoded_on_access(parquet, monkeypatch):
    monkeypatch.setattr(hub, "CACHE_BYTES", 7 * 64 - 1)
    assert not HubImages(str(parquet)).in_memory
    monkeypatch.setattr(hub, "CACHE_BYTES", 7 * 64)
    assert HubImages(str(parquet)).in_memory


def test_missing_path_names_its_neighbours(folder):
    with pytest.raises(DataError, match=r"petz does not exist \(nearest in .*: pets\)") as error:
        len(HubImages(str(folder.parent / "petz")))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="does not exist"):
        len(HubImages("./nowhere/at/all.parquet"))


def test_wrong_files(tmp_path, folder):
    with pytest.raises(DataError, match="holds nothing"):
        (tmp_path / "empty").mkdir()
        len(HubImages(str(tmp_path / "empty")))
    (tmp_path / "empty" / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match="1 entries but no pictures"):
        len(HubImages(str(tmp_path / "empty")))
    with pytest.raises(DataError, match=r"is a \.png file; allowed: a folder"):
        len(HubImages(str(folder / "cat" / "0.png")))


def test_broken_pictures_are_named(folder, parquet, helpers):
    path = folder / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"dog/3\.png cannot be read"):
        HubImages(str(folder)).fetch([0])
    with pytest.raises(DataError, match=r"dog/3\.png cannot be read"):
        HubImages(str(folder), cache=False).fetch([3])


def test_broken_rows_are_named(tmp_path, helpers):
    import datasets

    cells = [{"bytes": helpers.encode(helpers.images(1)[0]), "path": None} for _ in range(3)]
    cells[2]["bytes"] = cells[2]["bytes"][:-40]
    for last, message in [(cells[2], "row 2 of .*cannot be read"), (None, "row 2 .*no picture")]:
        columns = {"image": [*cells[:2], last]}
        features = datasets.Features({"image": datasets.Image()})
        path = tmp_path / f"{message[:7]}{len(message)}.parquet"
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path))
        with pytest.raises(DataError, match=message):
            HubImages(str(path)).fetch([0])


def test_mixed_sizes_need_image_size(folder, helpers):
    helpers.png(folder / "dog" / "9.png", helpers.images(1, size=12)[0])
    message = r"cat/0\.png is 8 x 8 but picture .*dog/9\.png is 12 x 12; .*--data\.image_size N"
    with pytest.raises(DataError, match=message):
        HubImages(str(folder)).fetch([0])
    assert HubImages(str(folder), image_size=6).fetch(range(5)).x0.shape == (5, 3, 6, 6)


def test_colours(folder, parquet, helpers):
    assert HubImages(str(folder), channels=1).event_shape == (1, 8, 8)
    grey = HubImages(str(parquet), channels=3).images_uint8(range(7))
    assert grey.shape == (7, 3, 8, 8) and torch.equal(grey[:, 0], grey[:, 2])
    helpers.png(folder / "cat" / "0.png", helpers.images(1, channels=1)[0])
    with pytest.raises(DataError, match=r"cat/1\.png is coloured but the first picture is grey"):
        HubImages(str(folder)).fetch([0])
    assert HubImages(str(folder), channels=3).fetch([0]).x0.shape == (1, 3, 8, 8)


def table(path, features, **columns):
    import datasets

    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    rows.to_parquet(str(path))
    return str(path)


def test_columns_are_found_or_named(tmp_path, helpers):
    import datasets

    cell = {"bytes": helpers.encode(helpers.images(1)[0]), "path": None}
    path = table(
        tmp_path / "x.parquet",
        {
            "id": datasets.Value("int64"),
            "img": datasets.Image(),
            "mask": datasets.Image(),
            "text": datasets.Value("string"),
            "Label": datasets.Value("int32"),
            "rank": datasets.Value("int64"),
        },
        id=[7, 8],
        img=[cell, cell],
        mask=[cell, cell],
        text=["a", "b"],
        Label=[1, 0],
        rank=[0, -5],
    )
    data = HubImages(path)
    assert data.fetch([0, 1]).label.tolist() == [1, 0] and data.num_classes == 2
    assert HubImages(path, image_column="mask", label_column="id").num_classes == 9
    for settings, message in [
        ({"image_column": "imag"}, "image_column 'imag' is not in .*did you mean 'img'"),
        ({"label_column": "labels"}, "label_column 'labels' is not in"),
        ({"image_column": "text"}, "holds string, not pictures"),
        ({"label_column": "text"}, "holds string; labels must be integers from 0"),
        ({"label_column": "rank"}, "row 1 of .*label -5"),
    ]:
        with pytest.raises((ConfigError, DataError), match=message) as error:
            len(HubImages(path, **settings))
        assert "\n" not in str(error.value)


def test_raw_bytes_and_missing_labels(tmp_path, helpers):
    import datasets

    png = helpers.encode(helpers.images(1)[0])
    features = {"png": datasets.Value("binary"), "label": datasets.Value("int64")}
    path = table(tmp_path / "x.parquet", features, png=[png, png], label=[0, None])
    with pytest.raises(DataError, match=r"row 1 of .*label missing"):
        len(HubImages(path))
    assert HubImages(path, label_column="none").fetch([1]).x0.shape == (1, 3, 8, 8)
    path = table(tmp_path / "y.parquet", {"a": datasets.Value("int64")}, a=[1])
    with pytest.raises(ConfigError, match="no column with pictures; its columns: a"):
        len(HubImages(path))


def test_saved_to_disk(tmp_path, parquet, helpers):
    import datasets

    path = str(parquet / "train.parquet")
    rows = datasets.load_dataset("parquet", data_files=path, split="train")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    data = HubImages(str(tmp_path / "saved"))
    assert len(data) == 7 and data.class_names == tuple(NAMES)
    assert torch.equal(data.images_uint8([2]), HubImages(path).images_uint8([2]))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("down\nmore"), "the Hub cannot be reached from here"),
        (FileNotFoundError("gone"), "no public data set of this name"),
        (ValueError("Config name is missing\npick"), "cannot be opened: Config name is missing"),
    ],
)
def test_hub_errors_are_one_line(monkeypatch, error, message):
    import datasets

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=message) as caught:
        len(HubImages("owner/name"))
    assert "\n" not in str(caught.value) and "'owner/name' is no local path" in str(caught.value)


def test_hub_data_by_name(monkeypatch, parquet):
    import datasets

    local = datasets.load_dataset("parquet", data_files=str(parquet / "train.parquet"))
    asked = {}

    def load(path, subset, *, revision, streaming):
        asked.update(path=path, subset=subset, revision=revision, streaming=streaming)
        return local

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = HubImages("owner/name", revision="v1", subset="small")
    assert len(data) == 7 and data.num_classes == 3
    assert asked == {"path": "owner/name", "subset": "small", "revision": "v1", "streaming": False}
    with pytest.raises(ConfigError, match="owner/name has no split 'test'"):
        data.split("test")


def test_without_datasets_the_extra_is_named(parquet, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'trilemma\[train\]'"):
        len(HubImages(str(parquet)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"pad": -1}, "pad is -1"),
    ],
)
def test_bad_arguments_name_the_allowed_ones(settings, message):
    with pytest.raises(ConfigError, match=message):
        HubImages("anywhere", **settings)
    with pytest.raises(ConfigError, match="path is empty"):
        HubImages("")


def test_bad_choices_name_the_allowed_ones():
    with pytest.raises(ConfigError, match="crop is 'left'; allowed: 'center', 'none'"):
        hub._check("anywhere", None, "left", None, 0, None)
    with pytest.raises(ConfigError, match=r"channels is 4; allowed: 1 \(grey\), 3 \(colour\)"):
        hub._check("anywhere", None, "center", 4, 0, None)

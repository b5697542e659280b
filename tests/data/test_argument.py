import pytest

from trilemma.data import HubImages, StackedDigits, Toy, data_from_argument
from trilemma.errors import ConfigError, DataError


@pytest.mark.parametrize("text", ["grid25", "swiss-roll", "swiss_roll", "two-moons"])
def test_toys(text):
    data = data_from_argument(text)
    assert isinstance(data, Toy) and data.name == text.replace("-", "_")


def test_stacked_and_pictures():
    stacked = data_from_argument("stacked:some/digits")
    assert isinstance(stacked, StackedDigits) and stacked.path == "some/digits"
    data = data_from_argument("owner/name")
    assert isinstance(data, HubImages) and data.path == "owner/name" and data.part == "train"
    assert isinstance(data_from_argument("./rings"), HubImages)


def test_near_misses():
    with pytest.raises(ConfigError, match="did you mean 'grid25'"):
        data_from_argument("grid-25")
    with pytest.raises(ConfigError, match="stacked:data/mnist"):
        data_from_argument("stacked:")
    with pytest.raises(ConfigError, match="path is empty"):
        data_from_argument("")
    with pytest.raises(DataError, match="does not exist"):
        len(data_from_argument("/no/such/folder"))

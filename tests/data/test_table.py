import csv
import io
import json
import sys

import numpy as np
import pytest
import torch

from trilemma.data import Batches, Table, data_from_argument
from trilemma.data.table import BUNDLED, Column, from_rows, to_csv, to_rows
from trilemma.errors import ConfigError, DataError

CSV = "age,job,grade,income\n"


@pytest.fixture
def people(tmp_path):
    """40 rows: two numeric columns, a text one, and one of three grades."""
    path = tmp_path / "people.csv"
    jobs = ["baker", "clerk", 'smith, "master"']
    rows = [f"{20 + i},{_quoted(jobs[i % 3])},{1 + i % 3},{1000.25 + 7.5 * i}\n" for i in range(40)]
    path.write_text(CSV + "".join(rows))
    return path


def _quoted(text):
    return '"' + text.replace('"', '""') + '"'


def everything(table):
    return table.fetch(range(len(table))).x0


def write(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_csv_finds_kinds_categories_and_units(people):
    table = Table(str(people), target="job")
    assert table.column_names == ("age", "job", "grade", "income")
    assert table.categories == (0, 3, 3, 0)
    assert table.category_names == ((), ("baker", "clerk", 'smith, "master"'), ("1", "2", "3"), ())
    assert table.event_shape == (4,) and table.num_classes == 0 and table.target == 1
    x = everything(table)
    assert x.dtype == torch.float32 and x.shape == (30, 4)
    numeric = x[:, [0, 3]].double()
    torch.testing.assert_close(numeric.mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(numeric.std(0, correction=0), torch.ones(2).double())
    for row in table.to_rows(x):
        i = int(row[0]) - 20
        assert row == [20 + i, table.category_names[1][i % 3], str(1 + i % 3), 1000.25 + 7.5 * i]


def test_parts_are_disjoint_complete_and_share_the_training_units(people):
    train = Table(str(people), test_share=0.3, seed=4)
    test = train.split("test")
    assert (len(train), len(test)) == (28, 12)
    assert test.columns == train.columns
    assert test.split("train").settings == train.settings
    ages = [row[0] for part in (train, test) for row in part.to_rows(everything(part))]
    assert sorted(ages) == list(range(20, 60))
    other = Table(str(people), test_share=0.3, seed=5)
    assert not torch.equal(everything(other), everything(train))
    assert torch.equal(everything(Table(str(people), test_share=0.3, seed=4)), everything(train))


def test_rows_go_there_and_back(people):
    table = Table(str(people))
    x = everything(table)
    torch.testing.assert_close(table.from_rows(table.to_rows(x)), x)
    description = json.loads(json.dumps(table.describe()))
    assert to_rows(x, description) == table.to_rows(x)
    torch.testing.assert_close(from_rows(to_rows(x, description), description), x)
    assert from_rows([], description).shape == (0, 4)


def test_csv_text_is_the_table_again(people, tmp_path):
    table = Table(str(people))
    x = everything(table)
    text = to_csv(x, table.describe())
    header, first = list(csv.reader(io.StringIO(text)))[:2]
    assert header == list(table.column_names)
    assert first == [f"{table.to_rows(x)[0][0]:.0f}", *first[1:3], f"{table.to_rows(x)[0][3]:.2f}"]
    again = Table(write(tmp_path, text), test_share=0.1)
    both = [*again.to_rows(everything(again)), *again.to_rows(everything(again.split("test")))]
    assert sorted(both) == sorted(table.to_rows(x))


def test_samples_are_rounded_to_the_data(people):
    """Codes go to a category that exists, numbers to the decimals that the column has."""
    table = Table(str(people))
    (row,) = table.to_rows(torch.tensor([[0.123, 1.4, 7.0, 0.0]]))
    assert row[0] == int(row[0]) and row[1] == "clerk" and row[2] == "3"
    assert row[3] == round(row[3], 2)
    assert Column("a").show(1 / 3) == 1 / 3


def test_description_opens_the_table_in_the_same_way(people):
    table = Table(str(people), seed=3, test_share=0.5, categorical=["age"], target="grade")
    assert table.categories[0] == 40
    description = table.describe()
    again = Table(str(people), **description["settings"])
    assert again.describe() == description and description["target"] == 2


def test_numbers_are_sorted_by_size_and_few_of_them_are_categories(tmp_path):
    rows = "".join(f"{i % 12},{(i * 7) % 11}\n" for i in range(60))
    path = write(tmp_path, "a,b\n" + rows)
    assert Table(path).categories == (0, 0)
    table = Table(path, max_categories=11)
    assert table.categories == (0, 11)
    assert table.category_names[1] == tuple(map(str, range(11)))
    assert Table(path, max_categories=0).categories == (0, 0)


def test_underscores_make_no_numbers(tmp_path):
    path = write(tmp_path, "a,b\n" + "".join(f"2024_{i:02d},{i}.5\n" for i in range(20)))
    table = Table(path, max_categories=2)
    assert table.categories == (20, 0) and table.category_names[0][3] == "2024_03"


def test_constant_numeric_column_keeps_its_value(tmp_path):
    table = Table(
        write(tmp_path, "a,b\n" + "".join(f"5.5,{i}\n" for i in range(20))), max_categories=0
    )
    x = everything(table)
    assert table.columns[0].std == 1.0 and not x[:, 0].any()
    assert {row[0] for row in table.to_rows(x)} == {5.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,x\n2,\n3,y\n", r"line 3, column 'b': the value is missing \(''\)"),
        ("a,b\n1,x\n2,y\nNaN,y\n", "line 4, column 'a': the value is missing"),
        ("a,b\n1,x\n2\n", "line 3: 1 entries, but the header has 2"),
        ("a,a\n1,x\n", "name every column, each differently"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,x\n2,y\n", "has 2 rows; at least 3"),
        ('a,b\n1,"x\n', "cannot read .* as CSV"),
        ("a\n" + "".join(f"{i}\n" for i in range(30)) + "12-5\n", "line 32, column 'a': '12-5' is"),
        ("a,b\n" + "".join(f"{i},name{i}\n" for i in range(200)), "leave out identifiers"),
    ],
)
def test_bad_files_are_named_with_row_and_column(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        len(Table(write(tmp_path, text)))


def test_missing_file_and_names():
    with pytest.raises(DataError, match="no-such does not exist; give a CSV file or one of wine"):
        len(Table("no-such"))


def test_chosen_categories_may_be_any_text(tmp_path):
    path = write(tmp_path, "a,b\n1,NA\n2,?\n3,x\n4,x\n")
    with pytest.raises(DataError, match="line 2, column 'b'"):
        len(Table(path))
    assert Table(path, categorical=["b"]).category_names[1] == ("?", "NA", "x")


def test_wrong_names_and_settings(people):
    with pytest.raises(ConfigError, match="no column 'jobs'; did you mean 'job'"):
        len(Table(str(people), target="jobs"))
    with pytest.raises(ConfigError, match="no column 'agee'; did you mean 'age'"):
        len(Table(str(people), categorical=["agee"]))
    with pytest.raises(ConfigError, match="Allowed: 'test', 'train'"):
        Table(str(people), split="valid")
    with pytest.raises(ConfigError, match="test_share in"):
        Table(str(people), test_share=1.0)
    with pytest.raises(ConfigError, match="one character"):
        Table(str(people), delimiter="::")
    with pytest.raises(DataError, match="no category 'cook'"):
        Table(str(people)).from_rows([[20, "cook", "1", 5.0]])
    with pytest.raises(DataError, match="'old' is not a finite number"):
        Table(str(people)).from_rows([["old", "clerk", "1", 5.0]])
    with pytest.raises(IndexError, match="use 0 to 29"):
        Table(str(people)).fetch([30])


def test_damaged_descriptions():
    with pytest.raises(DataError, match="no list of columns"):
        to_csv(torch.zeros(1, 1), {})
    with pytest.raises(DataError, match="has 1 columns"):
        to_csv(torch.zeros(1, 2), {"columns": [{"name": "a"}]})
    with pytest.raises(DataError, match="cannot be read"):
        to_csv(torch.zeros(1, 1), {"columns": [{"title": "a"}]})
    with pytest.raises(DataError, match="std must be positive"):
        to_csv(torch.zeros(1, 1), {"columns": [{"name": "a", "std": 0.0}]})


@pytest.mark.parametrize(
    ("name", "num_rows", "categories"),
    [
        ("wine", 178, (0,) * 13 + (3,)),
        ("breast-cancer", 569, (0,) * 30 + (2,)),
        ("iris", 150, (0,) * 4 + (3,)),
        ("diabetes", 442, (0, 2) + (0,) * 9),
    ],
)
def test_bundled_tables(name, num_rows, categories):
    table = Table(name)
    assert table.categories == categories and table.target == len(categories) - 1
    assert len(table) + len(table.split("test")) == num_rows
    assert torch.isfinite(everything(table)).all()
    from sklearn import datasets

    loaded = getattr(datasets, BUNDLED[name])(**({"scaled": False} if name == "diabetes" else {}))
    parts = [table, table.split("test")]
    rows = [row for part in parts for row in part.to_rows(everything(part))]
    found = np.sort([row[0] for row in rows])
    np.testing.assert_allclose(found, np.sort(loaded.data[:, 0]), rtol=1e-6)
    if categories[-1]:
        names = [str(loaded.target_names[i]) for i in loaded.target]
        assert sorted(row[-1] for row in rows) == sorted(names)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'trilemma\[tables\]'"):
        len(Table("wine"))


def test_argument_and_loader(people):
    assert isinstance(data_from_argument("breast-cancer"), Table)
    assert data_from_argument(str(people)).path == str(people)
    with pytest.raises(ConfigError, match="did you mean 'breast-cancer'"):
        data_from_argument("breast-cancr")
    (batch,) = next(Batches(Table(str(people)), batch_size=64))
    assert batch.x0.shape == (64, 4) and batch.label is None

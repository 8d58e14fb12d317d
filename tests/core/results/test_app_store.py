"""The app's own file: tables and rows come back as they went in, whoever else writes."""

import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from core.errors import StoreBusyError, StoreDamagedError, StoreWriteError
from core.files import exclusive_lock
from core.results.app_store import AppStore

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def app(tmp_path: Path) -> AppStore:
    return AppStore(tmp_path / "store")


def test_result_comes_back_as_it_was_saved(app: AppStore) -> None:
    table = pd.DataFrame(
        {
            "int": [1, -(2**60)],
            "float": [0.1, np.nan],
            "single": np.float32([0.1, np.inf]),
            "text": ['it\'s "quoted"; DROP TABLE results --', "שלום\x00🙂"],
            "none": ["a", None],
            "truth": [True, False],
            "lists": [[1, 2], []],
            "arrays": [np.float32([0.5]), np.float32([])],
            "time": pd.to_datetime(["2026-11-20 12:00:00.123456", None]),
        },
        index=[5, 9],
    )
    app.save_result("demo", "table", table)
    back = app.result("demo", "table")
    assert back is not None
    for column in table.columns.drop(["lists", "arrays"]):
        pd.testing.assert_series_equal(back[column], table[column].reset_index(drop=True))
    assert back["lists"].tolist() == [[1, 2], []]
    assert back["arrays"].tolist() == [[0.5], []]


def test_empty_result_keeps_its_columns(app: AppStore) -> None:
    app.save_result("demo", "empty", pd.DataFrame({"a": pd.Series([], dtype="int64"), "b": pd.Series([], dtype="str")}))
    back = app.result("demo", "empty")
    assert back is not None
    assert back.dtypes.map(str).to_dict() == {"a": "int64", "b": "str"}


def test_result_is_replaced_and_others_stay(app: AppStore) -> None:
    app.save_result("demo", "t", pd.DataFrame({"a": [1]}))
    app.save_result("other", "t", pd.DataFrame({"a": [2]}))
    app.save_result("demo", "t", pd.DataFrame({"b": [3]}))
    assert app.result("demo", "t").to_dict("list") == {"b": [3]}  # type: ignore[union-attr]
    assert app.result("other", "t").to_dict("list") == {"a": [2]}  # type: ignore[union-attr]
    assert app.result("demo", "nothing") is None
    assert app.results()[["setup", "what"]].to_numpy().tolist() == [["demo", "t"], ["other", "t"]]


def test_unstorable_value_is_a_type_error(app: AppStore) -> None:
    with pytest.raises(TypeError, match="numbers, text, booleans, times and lists, not set"):
        app.save_result("demo", "t", pd.DataFrame({"a": [{1, 2}]}))


def test_collected_rows_keep_their_order_and_columns(app: AppStore) -> None:
    assert app.collected().columns.tolist() == ["id", "collected_at"]
    assert app.collected().empty
    first = app.collect({"edit": "swap", "distance": np.float32(0.5), "tokens": ["a", "b"]})
    second = app.collect({"edit": "clamp", "perplexity": np.nan})
    table = app.collected()
    assert table["id"].tolist() == [first, second]
    assert table["edit"].tolist() == ["swap", "clamp"]
    assert table["distance"][0] == 0.5
    assert table["tokens"][0] == ["a", "b"]
    assert table[["distance", "perplexity"]].loc[1].isna().all()
    app.discard([first, 999])
    assert app.collected()["id"].tolist() == [second]
    assert app.collect({"edit": "sae"}) == second + 1


def test_row_collected_twice_is_one_row(app: AppStore) -> None:
    row = {"edit": "swap", "distance": np.float32(0.5)}
    first = app.collect(row)
    assert app.collect(dict(row)) is None
    assert app.collected()["id"].tolist() == [first]
    assert app.collect({**row, "seed": 1}) is not None


def test_content_is_json(app: AppStore) -> None:
    app.save_result("demo", "t", pd.DataFrame({"a": [1]}))
    with duckdb.connect(app.path) as con:
        content = con.execute("SELECT content FROM results").fetchall()
    assert content == [('[{"name": "a", "dtype": "int64", "values": [1]}]',)]


def test_threads_lose_no_row(app: AppStore) -> None:
    def work(i: int) -> None:
        for j in range(3):
            app.collect({"thread": i, "row": j})
            app.save_result("demo", "same", pd.DataFrame({"thread": [i]}))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = app.collected()
    assert sorted(zip(rows["thread"], rows["row"], strict=True)) == [(i, j) for i in range(8) for j in range(3)]
    assert rows["id"].is_unique
    assert len(app.results()) == 1


def test_processes_lose_no_row(app: AppStore) -> None:
    code = (
        "import sys; from pathlib import Path; from core.results.app_store import AppStore\n"
        "for j in range(4): AppStore(Path(sys.argv[1]), timeout_s=60).collect({'process': sys.argv[2], 'row': j})"
    )
    command = [sys.executable, "-c", code, str(app.path.parent)]
    children = [subprocess.Popen([*command, name], cwd=ROOT) for name in "abc"]
    assert [process.wait(timeout=120) for process in children] == [0, 0, 0]
    rows = app.collected()
    assert sorted(zip(rows["process"], rows["row"], strict=True)) == [(p, j) for p in "abc" for j in range(4)]


def test_file_that_stays_busy(app: AppStore) -> None:
    app.collect({"a": 1})
    hasty = AppStore(app.path.parent, timeout_s=0.05)
    with (
        exclusive_lock(app.path.with_suffix(".lock"), busy="never"),
        pytest.raises(StoreBusyError, match=r"app\.duckdb' is in use by process \d+; close the other program"),
    ):
        hasty.collect({"a": 2})
    assert hasty.collected()["a"].tolist() == [1]


@pytest.mark.parametrize("content", [b"", b"no database" * 1_000])
def test_damaged_file(app: AppStore, content: bytes) -> None:
    app.collect({"a": 1})
    whole = app.path.read_bytes()
    app.path.write_bytes(content or whole[:20_000])
    with pytest.raises(StoreDamagedError, match=r"is damaged: .*; repair it: mv .*app\.duckdb .*app\.duckdb\.damaged"):
        app.collected()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreWriteError, match="what was saved before is intact"):
        AppStore(tmp_path / "file").collect({"a": 1})

"""A store's columns: equal to SQL, shared, made anew where they are not whole, and never in the way."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import core.store.columns
import core.store.reader
from core.doctor import _store
from core.errors import StoreDamagedError
from core.settings import Distance, ScoreSettings, Summary, Variant
from core.store.prompt_weights import SUMMARIES, ends
from core.store.reader import Store
from tests.fixtures.full_disk import file_size_limit
from tests.fixtures.stores import hand_store, random_dense

ROOT = Path(__file__).resolve().parents[3]
DISTANCES = np.array([1.0, 0.5, 2.0], dtype=np.float32)  # of the three prompts of the hand case
G = pytest.approx([13 / 14, 21 / 16, 0.5])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    hand_store(tmp_path)
    return tmp_path


def edit(root: Path, statement: str) -> None:
    with duckdb.connect(root / "tiny" / "store.duckdb") as con:
        con.execute(statement)


def g(root: Path) -> list[float]:
    with Store.open(root, "tiny") as store:
        return store.neuron_sums(DISTANCES)["g"].tolist()


def files(root: Path) -> list[Path]:
    """All that is beside the store, but for locks."""
    return sorted(path for path in (root / "tiny").iterdir() if path.suffix not in (".duckdb", ".lock"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one each time that the columns are read from a store."""
    made: list[int] = []
    real = core.store.reader.packed
    monkeypatch.setattr(core.store.reader, "packed", lambda *given: [made.append(1), real(*given)][1])
    return made


# ---- the sums ----


def sums_by_sql(path: Path, distances: np.ndarray, settings: ScoreSettings) -> pd.DataFrame:
    column, divisor = SUMMARIES[settings.summary]
    near, far = ends(distances.astype(np.float64))
    weight = "1" if divisor is None else f"CASE WHEN p.{divisor} > 0 THEN 1 / p.{divisor} ELSE 0 END"
    topic = pd.DataFrame({"prompt": np.arange(len(distances)), "d": distances.astype(float), "near": near, "far": far})
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{path}' AS store (READ_ONLY)")
        con.register("topic", topic)
        return con.execute(
            f"""SELECT neuron, count(*) AS prompts, sum(v) AS weight, sum(v * v) / sum(v) ** 2 AS squares,
                       sum(v * d ** {settings.distance_power}) / sum(v) AS g,
                       sum(v) FILTER (near) / sum(v) AS near, sum(v) FILTER (far) / sum(v) AS far
                FROM (SELECT a.neuron, a."{column}"::DOUBLE * {weight} AS v, d, near, far
                      FROM store.activations AS a JOIN store.prompts AS p USING (prompt) JOIN topic USING (prompt))
                GROUP BY neuron ORDER BY neuron"""
        ).df()


@pytest.fixture(scope="module")
def random_stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Roots of stores of different sizes; neuron 0 never fires, and some prompts count for nothing."""
    roots = []
    for seed, n_prompts in enumerate((1, 2, 9, 40)):
        roots.append(tmp_path_factory.mktemp("random"))
        random_dense(seed, n_prompts=n_prompts).write(roots[-1], n_chunks=1).close()
        edit(roots[-1], "UPDATE prompts SET total = 0 WHERE prompt % 5 = 3")
    return roots


@given(
    which=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
    summary=st.sampled_from(list(SUMMARIES)),
    distance=st.sampled_from(["euclidean", "squared"]),
    variant=st.sampled_from(["mean", "variance"]),
    block_rows=st.sampled_from([1, 5, 2**18]),
)
def test_sums_equal_sql(
    random_stores: list[Path],
    which: int,
    seed: int,
    summary: Summary,
    distance: Distance,
    variant: Variant,
    block_rows: int,
) -> None:
    settings = ScoreSettings(summary=summary, distance=distance, variant=variant)
    with pytest.MonkeyPatch.context() as patch, Store.open(random_stores[which], "tiny") as store:
        patch.setattr(core.store.columns, "_BLOCK_ROWS", block_rows)
        distances = (2 * np.random.default_rng(seed).random(store.n_prompts)).astype(np.float32)
        expected = sums_by_sql(store.path, distances, settings)
        found, squares = store.neuron_sums(distances, settings), store.weight_squares(summary)
    assert found["neuron"].tolist() == expected["neuron"].tolist()
    assert found["prompts"].tolist() == expected["prompts"].tolist()
    np.testing.assert_allclose(found["weight"], expected["weight"], rtol=1e-12)
    np.testing.assert_allclose(squares[expected["neuron"]], expected["squares"], rtol=1e-12)
    for name in ("g", "near", "far"):  # SQL has NULL for the sum of nothing
        due = expected[name].where(expected["weight"] == 0, expected[name].fillna(0.0))
        np.testing.assert_allclose(found[name], due, rtol=1e-12, atol=1e-15)
    assert np.isnan(np.delete(squares, expected["neuron"])).all()


def test_one_neuron_may_have_more_rows_than_a_block(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(core.store.columns, "_BLOCK_ROWS", 1)
    assert g(root) == G


def test_neuron_rows_equal_sql(tmp_path: Path) -> None:
    random_dense(7).write(tmp_path).close()
    with Store.open(tmp_path, "tiny") as store, duckdb.connect() as con:
        con.execute(f"ATTACH '{store.path}' AS store (READ_ONLY)")
        for neuron in range(store.d_sae):
            expected = con.execute(
                """SELECT a.prompt, a.sum, a.max, a.n_tokens, p.text, p.task, p.grp AS "group", p.total,
                          p.n_tokens AS prompt_tokens
                   FROM store.activations AS a JOIN store.prompts AS p USING (prompt)
                   WHERE a.neuron = ? ORDER BY a.prompt""",
                [neuron],
            ).df()
            # of no rows at all DuckDB does not say that their texts are texts
            pd.testing.assert_frame_equal(store.neuron_rows(neuron), expected, check_dtype=len(expected) > 0)


# ---- the file ----


def test_columns_are_read_once_and_shared(root: Path, reads: list[int]) -> None:
    assert [g(root), g(root)] == [G, G]
    assert len(reads) == 1
    (file,) = files(root)
    table = np.load(file, allow_pickle=False)
    assert (table.dtype, table.shape) == (np.int32, (4, 6))
    assert table[0].tolist() == [0, 1, 0, 1, 2, 1]  # prompts of neuron 0, 1 and 2
    assert table[1].view(np.float32).tolist() == [3, 1, 1, 6, 2, 1]
    assert table[2].view(np.float32).tolist() == [2, 1, 1, 4, 2, 1]
    assert table[3].tolist() == [2, 1, 1, 2, 1, 1]


def test_mapped_columns_are_read_only(root: Path) -> None:
    g(root)
    with Store.open(root, "tiny") as store, pytest.raises(ValueError, match="read-only"):
        store._sums.columns.sum[0] = 1.0


def flipped(content: bytes) -> bytes:
    """The first prompt's number with its highest bit set, far below 0."""
    start = len(content) - 4 * 6 * 4 + 3
    return content[:start] + bytes([content[start] ^ 0x80]) + content[start + 1 :]


SPOILED = {
    "empty": lambda content: b"",
    "cut in its header": lambda content: content[:40],
    "cut short": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "other rows": lambda content: content.replace(b"(4, 6)", b"(4, 5)"),
    "other type": lambda content: content.replace(b"<i4", b"<f4"),
    "a pickle": lambda content: content.replace(b"<i4", b"|O ") + b"cos\nsystem\n",
    "no array": lambda content: b"x" * len(content),
    "a prompt that there is not": flipped,
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_columns_that_are_not_whole_are_made_anew(root: Path, reads: list[int], spoil) -> None:
    g(root)
    (file,) = files(root)
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    assert file.read_bytes() != whole
    assert g(root) == G
    assert len(reads) == 2
    assert files(root) == [file]
    assert file.read_bytes() == whole


def test_what_a_killed_process_left_is_written_over(root: Path) -> None:
    g(root)
    (file,) = files(root)
    file.rename(file.with_name(file.name + ".partial"))
    os.truncate(file.with_name(file.name + ".partial"), 100)
    assert g(root) == G
    assert files(root) == [file]


def test_folder_in_place_of_the_file(root: Path) -> None:
    g(root)
    (file,) = files(root)
    file.unlink()
    file.mkdir()
    assert g(root) == G


def test_folder_that_cannot_be_written(root: Path) -> None:
    (root / "tiny" / "columns.lock").mkdir()  # is refused to root, too
    assert g(root) == G
    assert files(root) == []


@pytest.mark.parametrize("size", [10, 150])  # within the header, within the numbers
def test_full_disk(root: Path, size: int) -> None:
    with file_size_limit(size):
        assert g(root) == G
    assert files(root) == []


def test_busy_lock_is_not_waited_for_without_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.files import exclusive_lock

    monkeypatch.setattr(core.store.columns, "_LOCK_TIMEOUT_S", 0.05)
    with exclusive_lock(root / "tiny" / "columns.lock", busy="never"):
        assert g(root) == G
    assert files(root) == []


def test_rebuilt_store_has_its_own_columns(root: Path) -> None:
    with Store.open(root, "tiny") as old:
        assert old.neuron_sums(DISTANCES)["g"].tolist() == G
        (before,) = files(root)
        dense = random_dense(0)
        dense.write(root).close()
        assert files(root) == []  # the build removed it
        with Store.open(root, "tiny") as new:
            assert len(new.neuron_sums(np.ones(40))) > 3
        assert old.neuron_sums(DISTANCES)["g"].tolist() == G  # of the old file, until it is closed
        (after,) = files(root)
        assert after != before


def test_store_that_was_replaced_writes_no_columns(root: Path) -> None:
    with Store.open(root, "tiny") as old:
        random_dense(0).write(root).close()
        assert old.neuron_sums(DISTANCES)["g"].tolist() == G
    assert files(root) == []


def test_edited_store_reads_no_columns_of_before(root: Path) -> None:
    assert g(root) == G
    edit(root, 'UPDATE activations SET "sum" = 2 * "sum" WHERE neuron = 1 AND prompt = 2')
    assert g(root)[1] == pytest.approx((1 / 4 + 3 / 8 + 4) / 3)
    assert len(files(root)) == 1


def test_eight_threads_make_columns_once(root: Path, reads: list[int]) -> None:
    found: list[list[float]] = []
    with Store.open(root, "tiny") as store:
        threads = [
            threading.Thread(target=lambda: found.append(store.neuron_sums(DISTANCES)["g"].tolist())) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [G] * 8
    assert len(reads) == 1


CHILD = """
import sys
from pathlib import Path
import numpy as np
from core.store.reader import Store

print("ready", flush=True)
sys.stdin.readline()
with Store.open(Path(sys.argv[1]), "tiny") as store:
    print(store.neuron_sums(np.array([1.0, 0.5, 2.0], dtype=np.float32))["g"].tolist())
"""


def test_four_processes_make_columns_at_once(root: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(root)]
    children = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        assert [float(number) for number in child.communicate(timeout=60)[0].strip("[]\n").split(",")] == G
    assert [file.suffix for file in files(root)] == [".npy"]


def test_doctor_finds_a_store_with_columns_in_order(root: Path) -> None:
    g(root)
    assert _store(root, "tiny") == ("store tiny", "3 prompts, 4 neurons, every block read", True)


# ---- what may be wrong with the store ----


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE activations SET \"sum\" = 'NaN' WHERE prompt = 1", "activations that are no finite number"),
        ("UPDATE activations SET \"sum\" = 'inf' WHERE prompt = 1", "activations that are no finite number"),
        ('UPDATE activations SET "sum" = NULL WHERE prompt = 1', "activations that are no finite number"),
        ("UPDATE activations SET prompt = 7 WHERE prompt = 1", "activations of a prompt or neuron that there is not"),
        ("UPDATE activations SET prompt = -1 WHERE prompt = 0", "activations of a prompt or neuron that there is not"),
        ("UPDATE activations SET neuron = 4 WHERE neuron = 2", "activations of a prompt or neuron that there is not"),
        ("UPDATE activations SET prompt = 1 - prompt WHERE neuron = 0", "not in the order of neurons and prompts"),
        ("UPDATE activations SET prompt = 0 WHERE neuron = 0", "not in the order of neurons and prompts"),
        ("UPDATE activations SET neuron = 1 - neuron WHERE neuron < 2", "not in the order of neurons and prompts"),
        ("UPDATE neurons SET prompts = 3 - neuron WHERE neuron < 3", "not in the order of neurons and prompts"),
        ("UPDATE neurons SET prompts = CASE neuron WHEN 0 THEN -2 WHEN 1 THEN 7 ELSE prompts END", "that are none"),
    ],
)
def test_damaged_activations(root: Path, statement: str, problem: str) -> None:
    edit(root, statement)
    with pytest.raises(StoreDamagedError, match=f"{problem}; repair it: python -m core build tiny"):
        g(root)
    with pytest.raises(StoreDamagedError, match=problem):  # again: nothing of it was kept
        g(root)

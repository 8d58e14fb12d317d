"""The store: numbers worked by hand, a dense reference, damage told apart, threads."""

import os
import shutil
import threading
from dataclasses import fields
from pathlib import Path

import duckdb
import numpy as np
import pytest

from core.errors import NeuronRangeError, StoreDamagedError, StoreNotBuiltError, StoreSchemaError
from core.settings import ScoreSettings, Summary
from core.store.reader import Store
from core.store.schema import HISTOGRAM_BINS, TABLES
from tests.fixtures.stores import HAND_EMBEDDINGS, Batch, hand_store, random_dense

DISTANCES = np.array([1.0, 0.5, 2.0], dtype=np.float32)  # of the three prompts of the hand case


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    hand_store(folder)
    return folder


@pytest.fixture
def store(root: Path):
    with Store.open(root, "tiny") as opened:
        yield opened


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A store to spoil; `copy / "tiny" / "store.duckdb"`."""
    shutil.copytree(root, tmp_path / "copy")
    return tmp_path / "copy"


def test_fake_batch_is_the_real_one() -> None:
    from core.store.batch import ActivationBatch

    assert [field.name for field in fields(Batch)] == [field.name for field in fields(ActivationBatch)]


# ---- the hand case ----


def test_sizes_and_meta(store: Store) -> None:
    assert (store.d_sae, store.n_prompts) == (4, 3)
    assert store.meta["schema_version"] == "1"
    assert store.meta["embedding_model"] == "fake"
    assert float(store.meta["seconds_assemble"]) > 0


def test_prompts_by_hand(store: Store) -> None:
    prompts = store.prompts()
    assert list(prompts.columns) == ["prompt", "text", "task", "group", "n_tokens", "total", "tokens"]
    assert prompts["text"].tolist() == ["prompt 0", "prompt 1", "prompt 2"]
    assert prompts["group"].tolist() == ["x", "y", "x"]
    assert prompts["n_tokens"].tolist() == [2, 3, 1]
    assert prompts["total"].tolist() == [4.0, 8.0, 2.0]
    assert list(prompts["tokens"][1]) == [" a", " c", " d"]


def test_embeddings_by_hand(store: Store) -> None:
    embeddings = store.embeddings()
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, HAND_EMBEDDINGS)
    assert store.embeddings() is embeddings
    with pytest.raises(ValueError, match="read-only"):
        embeddings[0, 0] = 5.0


def test_neurons_by_hand(store: Store) -> None:
    neurons = store.neurons().set_index("neuron")
    assert neurons["prompts"].tolist() == [2, 3, 1, 0]
    assert neurons["tokens"].tolist() == [3, 4, 1, 0]
    assert neurons["mean"].tolist() == pytest.approx([4 / 3, 9 / 4, 1.0, 0.0])
    assert neurons["max"].tolist() == [2.0, 4.0, 1.0, 0.0]
    # neuron 0 sums 2 on both of its tokens: equal ones by their text
    assert [list(words) for words in neurons["top_tokens"]] == [[" a", " b"], [" d", " b", " c"], [" c"], []]
    assert [list(words) for words in neurons["promoted"]] == [["up 0"], ["up 1"], ["up 2"], ["up 3"]]
    assert [list(words) for words in neurons["suppressed"]] == [["down 0"], ["down 1"], ["down 2"], ["down 3"]]


def test_histograms_by_hand(store: Store) -> None:
    histograms = np.stack(store.neurons()["histogram"])
    expected = np.zeros((4, HISTOGRAM_BINS), dtype=int)
    expected[0, 10], expected[0, 19] = 2, 1  # 1, 1, 2 of at most 2
    expected[1, 5], expected[1, 10], expected[1, 19] = 1, 2, 1  # 1, 2, 2, 4 of at most 4
    expected[2, 19] = 1
    np.testing.assert_array_equal(histograms, expected)


def test_neurons_of_choice_come_by_number(store: Store) -> None:
    assert store.neurons([2, 0])["neuron"].tolist() == [0, 2]
    assert store.neurons([]).empty


def test_reference_max_by_hand(store: Store) -> None:
    assert store.reference_max().tolist() == [2.0, 4.0, 1.0, 0.0]
    assert store.reference_max().dtype == np.float32


def test_neuron_rows_by_hand(store: Store) -> None:
    rows = store.neuron_rows(1)
    assert list(rows.columns) == [
        *("prompt", "sum", "max", "n_tokens", "text", "task", "group", "total", "prompt_tokens")
    ]
    assert rows["prompt"].tolist() == [0, 1, 2]
    assert rows["sum"].tolist() == [1.0, 6.0, 2.0]
    assert rows["max"].tolist() == [1.0, 4.0, 2.0]
    assert rows["n_tokens"].tolist() == [1, 2, 1]
    assert rows["prompt_tokens"].tolist() == [2, 3, 1]
    assert store.neuron_rows(3).empty


def test_contexts_by_hand(store: Store) -> None:
    contexts = store.contexts(1)
    assert [context.prompt for context in contexts] == [1, 2, 0]
    assert [context.max for context in contexts] == [4.0, 2.0, 1.0]
    assert [context.activations.tolist() for context in contexts] == [[0.0, 2.0, 4.0], [2.0], [0.0, 1.0]]
    assert contexts[0].text == "prompt 1"
    assert contexts[0].tokens == [" a", " c", " d"]
    assert store.contexts(3) == []


def test_group_mass_by_hand(store: Store) -> None:
    assert store.group_mass().to_dict("list") == {
        "group": ["y", "x"],
        "share": pytest.approx([8 / 14, 6 / 14]),
    }
    assert store.group_mass([0, 2]).to_dict("list") == {"group": ["x", "y"], "share": pytest.approx([3 / 5, 2 / 5])}
    assert store.group_mass([3]).empty


@pytest.mark.parametrize("neuron", [-1, 4])
def test_neuron_out_of_range(store: Store, neuron: int) -> None:
    message = f"neuron {neuron} is out of range: this SAE has neurons 0 to 3"
    for read in (store.neuron_rows, store.contexts, lambda n: store.neurons([n]), lambda n: store.group_mass([n])):
        with pytest.raises(NeuronRangeError, match=message):
            read(neuron)


# ---- sums over prompts ----


@pytest.mark.parametrize(
    ("settings", "weight", "g"),
    [
        (ScoreSettings(), [7 / 8, 2.0, 1 / 8], [13 / 14, 21 / 16, 0.5]),
        (ScoreSettings(summary="max"), [3.0, 7.0, 1.0], [2.5 / 3, 1.0, 0.5]),
        (ScoreSettings(summary="mean"), [11 / 6, 4.5, 1 / 3], [10 / 11, 5.5 / 4.5, 0.5]),
        (ScoreSettings(summary="count"), [4 / 3, 13 / 6, 1 / 3], [7 / 8, 17 / 13, 0.5]),
        (ScoreSettings(variant="variance"), [7 / 8, 2.0, 1 / 8], [25 / 28, (1 / 4 + 3 / 16 + 4) / 2, 0.25]),
        (ScoreSettings(distance="squared"), [7 / 8, 2.0, 1 / 8], [25 / 28, (1 / 4 + 3 / 16 + 4) / 2, 0.25]),
        (
            ScoreSettings(distance="squared", variant="variance"),
            [7 / 8, 2.0, 1 / 8],
            [(3 / 4 + 1 / 128) / (7 / 8), (1 / 4 + 3 / 64 + 16) / 2, 1 / 16],
        ),
    ],
    ids=lambda value: f"{value.summary}-{value.distance}-{value.variant}" if isinstance(value, ScoreSettings) else "",
)
def test_neuron_sums_by_hand(store: Store, settings: ScoreSettings, weight: list[float], g: list[float]) -> None:
    sums = store.neuron_sums(DISTANCES, settings)
    assert sums["neuron"].tolist() == [0, 1, 2]
    assert sums["prompts"].tolist() == [2, 3, 1]
    assert sums["weight"].tolist() == pytest.approx(weight, rel=1e-12)
    assert sums["g"].tolist() == pytest.approx(g, rel=1e-12)


def test_neuron_sums_near_and_far_by_hand(store: Store) -> None:
    # quartiles at 0.75 and 1.5: prompt 1 is near, prompt 2 far
    sums = store.neuron_sums(DISTANCES)
    assert sums["near"].tolist() == pytest.approx([1 / 7, 3 / 8, 1.0])
    assert sums["far"].tolist() == pytest.approx([0.0, 1 / 2, 0.0])


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ("sum", [[0.75, 0.25, 0, 0], [0.125, 0.75, 0.125, 0], [0, 1, 0, 0]]),
        ("max", [[2, 1, 0, 0], [1, 4, 1, 0], [0, 2, 0, 0]]),
        ("mean", [[1.5, 0.5, 0, 0], [1 / 3, 2, 1 / 3, 0], [0, 2, 0, 0]]),
        ("count", [[1, 0.5, 0, 0], [1 / 3, 2 / 3, 1 / 3, 0], [0, 1, 0, 0]]),
    ],
)
def test_summary_matrix_by_hand(store: Store, summary: Summary, expected: list[list[float]]) -> None:
    matrix = store.summary_matrix(summary)
    np.testing.assert_allclose(matrix.toarray(), expected)
    assert matrix.nnz == 6


def test_neuron_sums_refuse_wrong_shape(store: Store) -> None:
    with pytest.raises(ValueError, match="one distance for each of 3 prompts"):
        store.neuron_sums(DISTANCES[:2])


def test_tables_against_dense_reference(tmp_path: Path) -> None:
    dense = random_dense(3)
    a = dense.a
    with dense.write(tmp_path) as store:
        neurons = store.neurons()
        active = a > 0
        np.testing.assert_array_equal(neurons["prompts"], active.any(axis=1).sum(axis=0))
        np.testing.assert_array_equal(neurons["tokens"], active.sum(axis=(0, 1)))
        np.testing.assert_allclose(neurons["max"], a.max(axis=(0, 1)))
        sums, counts = a.sum(axis=(0, 1)), active.sum(axis=(0, 1))
        np.testing.assert_allclose(neurons["mean"], np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0))
        np.testing.assert_allclose(store.prompts()["total"], a.sum(axis=(1, 2)))
        for neuron in range(a.shape[-1]):
            rows = store.neuron_rows(neuron)
            expected = np.flatnonzero(active[:, :, neuron].any(axis=1))
            np.testing.assert_array_equal(rows["prompt"], expected)
            np.testing.assert_allclose(rows["sum"], a[expected, :, neuron].sum(axis=1), rtol=1e-6)
            values = a[..., neuron][active[..., neuron]]
            if len(values):
                bins = np.minimum(HISTOGRAM_BINS - 1, (values / values.max() * HISTOGRAM_BINS).astype(int))
                expected_bins = np.bincount(bins, minlength=HISTOGRAM_BINS)
                np.testing.assert_array_equal(neurons["histogram"][neuron], expected_bins)
            top = np.sort(a[..., neuron].max(axis=1))[::-1][:10]
            assert [c.max for c in store.contexts(neuron)] == pytest.approx(top[top > 0].tolist())
            for context in store.contexts(neuron):
                expected_row = a[context.prompt, : dense.n_tokens[context.prompt], neuron]
                np.testing.assert_allclose(context.activations, expected_row)


def test_activations_lie_in_the_order_of_scoring(tmp_path: Path) -> None:
    with random_dense(1).write(tmp_path) as store:
        path = store.path
    with duckdb.connect(path, read_only=True) as con:
        pairs = con.execute("SELECT neuron, prompt FROM activations ORDER BY rowid").fetchall()
    assert pairs == sorted(pairs)
    assert len(pairs) == len(set(pairs))


def test_negative_activations_count_by_magnitude(tmp_path: Path) -> None:
    from tests.fixtures.stores import HAND_ROWS, HAND_TOKENS, write_store

    rows = [(p, t, i, -a if i == 0 else a) for p, t, i, a in HAND_ROWS]
    write_store(tmp_path, HAND_TOKENS, rows, HAND_EMBEDDINGS, d_sae=4, chunks=[[0, 1, 2]])
    with Store.open(tmp_path, "tiny") as store:
        assert store.neuron_sums(DISTANCES)["g"].tolist() == pytest.approx([13 / 14, 21 / 16, 0.5])


def test_folder_with_odd_characters(tmp_path: Path) -> None:
    root = tmp_path / "it's [odd] 100% *"
    hand_store(root)
    with Store.open(root, "tiny") as store:
        assert store.n_prompts == 3


# ---- what may be wrong with the file ----


def test_open_without_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotBuiltError, match=r"no store '.*store\.duckdb'; build it: python -m core build tiny"):
        Store.open(tmp_path, "tiny")


def test_errors_name_the_folder_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreNotBuiltError, match=f"build tiny --store {tmp_path}$"):
        Store.open(tmp_path, "tiny")
    monkeypatch.setenv("STEERSCOPE_STORE", str(tmp_path))
    with pytest.raises(StoreNotBuiltError, match=r"build tiny$"):
        Store.open(tmp_path, "tiny")


def edit(copy: Path, statement: str) -> None:
    with duckdb.connect(copy / "tiny" / "store.duckdb") as con:
        con.execute(statement)


def test_open_other_schema_version(copy: Path) -> None:
    edit(copy, "UPDATE meta SET value = '0' WHERE key = 'schema_version'")
    message = r"has schema version 0, this program reads version 1; rebuild it: python -m core build tiny"
    with pytest.raises(StoreSchemaError, match=message):
        Store.open(copy, "tiny")


@pytest.mark.parametrize("table", TABLES)
def test_open_without_a_table(copy: Path, table: str) -> None:
    edit(copy, f"DROP TABLE {table}")
    with pytest.raises(StoreDamagedError, match=f"no table '{table}'; repair it: python -m core build tiny"):
        Store.open(copy, "tiny")


def test_open_without_a_column(copy: Path) -> None:
    edit(copy, "ALTER TABLE neurons DROP COLUMN histogram")
    with pytest.raises(StoreDamagedError, match="table 'neurons' has no column 'histogram'"):
        Store.open(copy, "tiny")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_open_truncated(copy: Path, share: float) -> None:
    path = copy / "tiny" / "store.duckdb"
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(StoreDamagedError, match=r"is damaged: .*; repair it: python -m core build tiny"):
        Store.open(copy, "tiny")


def test_open_something_else(copy: Path) -> None:
    (copy / "tiny" / "store.duckdb").write_bytes(b"this is no database" * 1_000)
    with pytest.raises(StoreDamagedError, match="is damaged"):
        Store.open(copy, "tiny")


def test_check_finds_a_corrupt_block(tmp_path: Path) -> None:
    with random_dense(0, n_prompts=200).write(tmp_path) as store:
        store.check()
        path = store.path
    content = bytearray(path.read_bytes())
    block = (len(content) - 12_288) // 2 + 12_288
    content[block : block + 64] = bytes(reversed(range(64)))
    path.write_bytes(content)
    with pytest.raises(StoreDamagedError, match="repair it: python -m core build tiny"):
        Store.open(tmp_path, "tiny").check()


# ---- readers at work ----


def test_changed_and_reopened_in_one_process(tmp_path: Path) -> None:
    hand_store(tmp_path)
    with Store.open(tmp_path, "tiny") as old:
        assert not old.changed()
        random_dense(0).write(tmp_path).close()
        assert old.changed()
        with Store.open(tmp_path, "tiny") as new:
            assert (old.n_prompts, new.n_prompts) == (3, 40)
            assert len(old.prompts()) == 3  # the old file, until it is closed
            assert len(new.prompts()) == 40
        old.path.unlink()
        assert old.changed()


def test_eight_threads_share_a_store(tmp_path: Path) -> None:
    dense = random_dense(5)
    topics = [np.random.default_rng(i).random(40).astype(np.float32) for i in range(8)]
    with dense.write(tmp_path) as store:
        alone = [store.neuron_sums(distances)["g"].to_numpy() for distances in topics]
        start, wrong = threading.Barrier(8), []

        def work(i: int) -> None:
            start.wait()
            for _ in range(5):
                if not np.allclose(store.neuron_sums(topics[i])["g"], alone[i], rtol=1e-12):
                    wrong.append(i)
                if len(store.neuron_rows(i)) != (dense.a[..., i] > 0).any(axis=1).sum():
                    wrong.append(i)
                if store.embeddings().shape != (40, 8):
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []

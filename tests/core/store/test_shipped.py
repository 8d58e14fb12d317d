"""Stores that come with a checkout: written small, taken where they fit, and the scores stay the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from core.build.fingerprint import fingerprint
from core.catalog import Setup
from core.errors import StoreDamagedError
from core.results.app_store import AppStore
from core.scoring.scores import score_topic
from core.settings import ScoreSettings
from core.store.reader import Store
from core.store.shipped import META, find_shipped, write_shipped
from core.text.prompts import reference_prompts
from tests.fixtures.builds import CHUNK, refuse, run_build, tables, tiny_setup
from tests.fixtures.full_disk import file_size_limit

RESULT = pd.DataFrame({"share": [0.25, None], "token": ["a", "b"]})


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return tiny_setup(tmp_path)


@pytest.fixture
def shipped(setup: Setup, tmp_path: Path) -> Path:
    """The folder of shipped stores, with one made from a build in `tmp_path/made`."""
    run_build(setup, tmp_path / "made", shipped=tmp_path / "none")
    AppStore(tmp_path / "made").save_result("tiny", "topk", RESULT)
    with Store.open(tmp_path / "made", "tiny") as store:
        write_shipped(store, AppStore(tmp_path / "made").contents("tiny"), tmp_path / "shipped" / "tiny")
    return tmp_path / "shipped"


def take(setup: Setup, root: Path, shipped: Path, **options: object) -> None:
    """A build that has nothing to compute."""
    from core.build.pipeline import build

    build(setup, root, pipeline=refuse, chunk_prompts=CHUNK, shipped=shipped, **options)  # type: ignore[arg-type]


def test_taken_store_equals_the_built_one(setup: Setup, shipped: Path, tmp_path: Path) -> None:
    take(setup, tmp_path / "taken", shipped)
    built, taken = tables(tmp_path / "made"), tables(tmp_path / "taken")
    assert taken.keys() == built.keys()
    for name in ("prompts", "neurons", "meta"):
        assert taken[name] == built[name]
    for name in ("activations", "contexts", "embeddings"):  # rounded to 11 significant bits
        exact, short = ([np.hstack([np.ravel(v) for v in row]) for row in rows[name]] for rows in (built, taken))
        np.testing.assert_allclose(np.hstack(short), np.hstack(exact), rtol=2**-11)


def test_scores_stay(setup: Setup, shipped: Path, tmp_path: Path) -> None:
    take(setup, tmp_path / "taken", shipped)
    scores = []
    for root in ("made", "taken"):
        with Store.open(tmp_path / root, "tiny") as store:
            scores.append(score_topic(store, store.embeddings()[:2], ScoreSettings(min_prompts=1)).steering_vector())
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)


def test_results_come_along_and_own_ones_stay(setup: Setup, shipped: Path, tmp_path: Path) -> None:
    own = pd.DataFrame({"share": [1.0]})
    AppStore(tmp_path / "kept").save_result("tiny", "topk", own)
    for root, expected in (("taken", RESULT), ("kept", own)):
        take(setup, tmp_path / root, shipped)
        result = AppStore(tmp_path / root).result("tiny", "topk")
        assert result is not None
        pd.testing.assert_frame_equal(result, expected)


def test_store_without_results_is_taken_too(setup: Setup, shipped: Path, tmp_path: Path) -> None:
    with Store.open(tmp_path / "made", "tiny") as store:
        write_shipped(store, AppStore(tmp_path / "empty").contents("tiny"), shipped / "tiny")
    take(setup, tmp_path / "taken", shipped)
    assert AppStore(tmp_path / "taken").results().empty


def test_results_come_to_a_store_that_is_current(setup: Setup, shipped: Path, tmp_path: Path) -> None:
    take(setup, tmp_path / "taken", shipped)
    AppStore(tmp_path / "taken").path.unlink()
    take(setup, tmp_path / "taken", shipped)
    assert AppStore(tmp_path / "taken").result("tiny", "topk") is not None


@pytest.mark.parametrize(
    "options", [{"force": True}, {"resume": False}, {"prompts": 5}], ids=["force", "anew", "fewer"]
)
def test_not_taken_where_asked_to_compute(
    setup: Setup, shipped: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    with pytest.raises(AssertionError, match="nothing was to be computed"):
        take(setup, tmp_path / "taken", shipped, **options)


def test_other_prompts_weights_or_schema_make_it_unfit(setup: Setup, shipped: Path, tmp_path: Path) -> None:
    due = fingerprint(setup, reference_prompts(setup.reference), CHUNK)
    assert find_shipped("tiny", due, shipped) == shipped / "tiny"
    other = fingerprint(replace(setup, context_size=8), reference_prompts(setup.reference), CHUNK)
    assert find_shipped("tiny", other, shipped) is None
    assert find_shipped("other", due, shipped) is None
    (shipped / "tiny" / META).write_text("[1]")
    assert find_shipped("tiny", due, shipped) is None


def test_shipped_files_name_no_place_of_this_machine(setup: Setup, shipped: Path, tmp_path: Path) -> None:
    meta = json.loads((shipped / "tiny" / META).read_text())
    assert str(tmp_path) not in json.dumps(meta)
    assert meta["fingerprint"] == fingerprint(setup, reference_prompts(setup.reference), CHUNK)


def test_single_activations_are_kept_once(shipped: Path) -> None:
    rows = pq.read_table(shipped / "tiny" / "activations.parquet").to_pandas()
    assert (rows["max"].isna() == (rows["n_tokens"] == 1)).all()


def test_damaged_shipped_table_is_named(setup: Setup, shipped: Path, tmp_path: Path) -> None:
    (shipped / "tiny" / "neurons.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(StoreDamagedError, match=r"neurons\.parquet.*build tiny --store .* --no-resume"):
        take(setup, tmp_path / "taken", shipped)
    assert not (tmp_path / "taken" / "tiny" / "store.duckdb").exists()


def test_writing_replaces_whole_folders(setup: Setup, shipped: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in (shipped / "tiny").iterdir()}
    with Store.open(tmp_path / "made", "tiny") as store:
        contents = AppStore(tmp_path / "made").contents("tiny")
        with file_size_limit(500), pytest.raises(Exception, match="intact"):
            write_shipped(store, contents, shipped / "tiny")
        assert {path.name: path.read_bytes() for path in (shipped / "tiny").iterdir()} == before
        write_shipped(store, contents, shipped / "tiny")
    assert {path.name for path in (shipped / "tiny").iterdir()} == set(before)

"""The published tables hold what the paper prints; shipped results and SAEs come in the shape of a training run's."""

import json
import tomllib
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.catalog import DATA
from core.errors import AutoencoderError, MissingFileError
from core.results import published as module
from core.results.app_store import AppStore
from core.results.published import published, published_names, shipped_autoencoders, shipped_results
from core.training.autoencoder_config import AutoencoderConfig
from core.training.corpus import TextSource
from core.training.method_comparison import compared

SETTING = ["model", "layer", "expansion", "architecture", "method", "tokens"]


@pytest.fixture(scope="module")
def fast_mse() -> pd.Series:
    return published("fast_mse").set_index(SETTING)["log2_mse"]


# typed by hand from the paper's text: the first and the last cell of every table, and others of its inside
@pytest.mark.parametrize(
    ("model", "layer", "expansion", "architecture", "method", "tokens", "value"),
    [
        ("Llama-3.1-8B-Instruct", 4, 8, "standard", "btp", "all", -5.5059),
        ("Llama-3.1-8B-Instruct", 18, 8, "jumprelu", "btf", "all", -15.0851),
        ("Llama-3.1-8B-Instruct", 25, 8, "jumprelu", "fast", "special", -15.9845),
        ("Llama-3.2-3B-Instruct", 4, 8, "standard", "btp", "all", -4.5650),
        ("Llama-3.2-3B-Instruct", 4, 8, "jumprelu", "fast", "all", -9.0852),
        ("Llama-3.2-3B-Instruct", 20, 8, "standard", "fast", "all", -0.9527),
        ("Llama-3.2-3B-Instruct", 20, 16, "jumprelu", "fast", "special", -12.1711),
        ("Llama-3.2-1B-Instruct", 4, 8, "standard", "btp", "all", -5.3374),
        ("Llama-3.2-1B-Instruct", 9, 16, "standard", "btf", "special", -3.3775),
        ("Llama-3.2-1B-Instruct", 14, 16, "jumprelu", "fast", "special", -13.3547),
        ("Qwen2.5-7B-Instruct", 4, 8, "standard", "btp", "all", 1.2919),
        ("Qwen2.5-7B-Instruct", 18, 8, "standard", "btp", "special", 5.1985),
        ("Qwen2.5-7B-Instruct", 18, 8, "standard", "btf", "special", 1.5093),
        ("Qwen2.5-7B-Instruct", 18, 8, "standard", "fast", "special", 0.6468),
        ("Qwen2.5-7B-Instruct", 18, 8, "jumprelu", "fast", "special", -9.7604),
        ("Qwen2.5-7B-Instruct", 25, 8, "jumprelu", "fast", "special", -5.5615),
        ("Qwen2.5-3B-Instruct", 4, 8, "standard", "btp", "all", -0.8873),
        ("Qwen2.5-3B-Instruct", 18, 16, "jumprelu", "btp", "special", -3.1930),
        ("Qwen2.5-3B-Instruct", 32, 16, "jumprelu", "fast", "special", -7.2653),
        ("Qwen2.5-1.5B-Instruct", 4, 8, "standard", "btp", "all", -0.1150),
        ("Qwen2.5-1.5B-Instruct", 14, 8, "jumprelu", "btf", "special", 0.2762),
        ("Qwen2.5-1.5B-Instruct", 24, 16, "jumprelu", "fast", "special", -8.0686),
        ("Qwen2.5-0.5B-Instruct", 4, 8, "standard", "btp", "all", -2.7554),
        ("Qwen2.5-0.5B-Instruct", 12, 8, "jumprelu", "fast", "special", -25.6605),
        ("Qwen2.5-0.5B-Instruct", 20, 16, "jumprelu", "fast", "special", -18.0564),
    ],
)
def test_fast_mse_is_as_printed(
    fast_mse: pd.Series,
    model: str,
    layer: int,
    expansion: int,
    architecture: str,
    method: str,
    tokens: str,
    value: float,
) -> None:
    assert fast_mse[model, layer, expansion, architecture, method, tokens] == value


def test_fast_mse_has_the_rows_of_each_table() -> None:
    # layers x expansions x 3 methods x 2 architectures x (all, special)
    rows = {"D.2": 5 * 12, "D.3": 6 * 12, "D.4": 6 * 12, "D.5": 5 * 12, "D.6": 6 * 12, "D.6.1": 6 * 12, "D.7": 6 * 12}
    table = published("fast_mse")
    assert Counter(table["table"]) == rows
    assert (table.groupby("table")["model"].nunique() == 1).all()


def test_fast_mse_covers_the_paper_grid(fast_mse: pd.Series) -> None:
    grid = tomllib.loads((DATA / "configs" / "paper_grid.toml").read_text(encoding="utf-8"))["grid"]
    architectures = [architecture["architecture"] for architecture in grid["architectures"]]
    expected = {
        (model["model"].split("/")[1], *rest)
        for model in grid["models"]
        for rest in product(model["layers"], model["expansions"], architectures, grid["methods"], ["all", "special"])
    }
    assert len(expected) == 480
    assert set(fast_mse.index) == expected
    assert fast_mse.index.is_unique
    assert np.isfinite(fast_mse).all()


def test_published_tables_are_those_of_the_folder() -> None:
    assert published_names() == sorted(path.stem for path in (DATA / "published").glob("*.csv"))
    readme = (DATA / "published" / "README.md").read_text(encoding="utf-8")
    assert [name for name in published_names() if f"{name}.csv" not in readme] == []


@pytest.mark.parametrize("name", ["fast", "../published/fast_mse", ""])
def test_unknown_table_names_those_there_are(name: str) -> None:
    with pytest.raises(MissingFileError, match=r"the published tables are: .*fast_mse"):
        published(name)


def test_shipped_results_are_those_of_their_kind_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESULTS", tmp_path / "no folder")
    assert shipped_results("training") == {}
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    assert shipped_results("training") == {}
    training = pd.DataFrame({"name": ["a", "b"], "mse": [0.1 + 0.2, 1e-9], "seed": [0, 1], "error": [None, "no text"]})
    training.to_csv(tmp_path / "smollm2_comparison_training.csv", index=False)
    pd.DataFrame({"step": [10]}).to_csv(tmp_path / "smollm2_comparison_losses.csv", index=False)
    found = shipped_results("training")
    assert list(found) == ["smollm2-comparison"]
    store = AppStore(tmp_path)
    store.save_result("smollm2-comparison", "training", training)
    pd.testing.assert_frame_equal(found["smollm2-comparison"], store.result("smollm2-comparison", "training"))


CONFIG = {
    "architecture": "jumprelu",
    "d_in": 32,
    "d_sae": 256,
    "metadata": {
        "model_name": "models/tiny",
        "hook_name": "blocks.1.hook_resid_post",
        "training_method": "fast",
        "training_architecture": "batchtopk",  # saved as a JumpReLU
        "training_tokens": 5_000,
        "training_seed": 3,
    },
}
FIGURES = {
    "tokens": 900,
    "mse_all": {"by_sequence": 0.25, "pooled": 0.3, "tokens": 900},
    "l0": 12.5,
    "mse_all_log2": -2.0,
}


def shipped(folder: Path, **files: object) -> Path:
    """Writes an SAE's folder; its files as JSON, by their stem."""
    folder.mkdir()
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def saes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "AUTOENCODERS", tmp_path)
    return tmp_path


def test_card_has_settings_of_the_config_where_training_left_none(saes: Path) -> None:
    shipped(saes / "tiny", cfg=CONFIG, evaluation=FIGURES)
    row = shipped_autoencoders().iloc[0]
    expected = {"name": "tiny", "model": "models/tiny", "method": "fast", "architecture": "batchtopk", "expansion": 8}
    expected |= {"d_sae": 256, "tokens": 5_000, "evaluated_tokens": 900, "seed": 3, "sparsity": None}
    expected |= {"l0": 12.5, "mse_all_by_sequence": 0.25, "mse_all_log2": -2.0, "folder": "tiny", "error": None}
    assert {name: row[name] for name in expected} == expected


def test_cards_compare_as_the_rows_of_a_training_run(saes: Path) -> None:
    errors = {"by_sequence": 0.25, "pooled": 0.3, "tokens": 900}
    figures = FIGURES | {"mse_special": errors, "mse_special_without_roles": errors}
    figures |= {"explained_variance": 0.9, "dead_share": 0.0, "ce_recovered": 0.95}
    for seed in (0, 1):
        config = AutoencoderConfig(
            name=f"job-{seed}", model="models/other", hook_name="blocks.0.hook_resid_post", method="btf", seed=seed,
            architecture="jumprelu", sparsity=0.7, expansion=8, sources=(TextSource(path="x", licence="CC0"),),
        )  # fmt: skip
        shipped(saes / config.name, cfg=CONFIG, training=config.as_dict(), evaluation=figures)
    cards = shipped_autoencoders()
    assert cards["tokens"].tolist() == [config.tokens] * 2
    row = compared(cards).iloc[0]
    expected = {"model": "models/other", "method": "btf", "architecture": "jumprelu", "sparsity": 0.7, "seeds": 2}
    assert {name: row[name] for name in expected} == expected
    assert row["mse_special_by_sequence"] == -2.0


def test_sae_that_was_not_measured_has_no_figures(saes: Path) -> None:
    shipped(saes / "a", cfg=CONFIG, evaluation=FIGURES)
    shipped(saes / "b", cfg=CONFIG)
    (saes / "no SAE").mkdir()
    table = shipped_autoencoders()
    assert table["name"].tolist() == ["a", "b"]
    assert table["l0"].isna().tolist() == [False, True]


def test_no_saes_give_an_empty_table(saes: Path) -> None:
    assert shipped_autoencoders().empty


def test_damaged_card_is_named(saes: Path) -> None:
    (shipped(saes / "a", cfg=CONFIG) / "evaluation.json").write_text('{"l0": 3', encoding="utf-8")
    with pytest.raises(AutoencoderError, match=r"evaluation\.json' cannot be read .*; restore it"):
        shipped_autoencoders()


def test_every_shipped_sae_has_its_figures() -> None:
    table = shipped_autoencoders()
    folders = sorted(folder.name for folder in (DATA / "saes").iterdir() if (folder / "cfg.json").is_file())
    assert table["folder"].tolist() == folders
    for name in ("method", "tokens", "l0", "mse_all_log2", "mse_special_log2", "explained_variance", "ce_recovered"):
        assert table[name].notna().all(), name

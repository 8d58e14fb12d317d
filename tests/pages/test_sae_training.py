"""The SAE training page shows how batches are formed, what was trained, what is shipped, and what the paper printed."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from core.results import published as published_module
from core.results.app_store import AppStore
from core.results.published import published
from core.training.method_comparison import FIGURES, at_matched_l0
from pages.parts.sae_training import batches as forming
from pages.shared.charts import methods
from pages.shared.charts import training as charts
from tests.pages.conftest import APP, checked, html_of
from tests.test_layers import HEAVY

OpenTraining = Callable[..., AppTest]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and nothing shipped but the published tables; the page needs no setup's store."""
    monkeypatch.setenv("STEERSCOPE_STORE", str(tmp_path))
    for name in ("RESULTS", "AUTOENCODERS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(published_module, name, tmp_path / name)
    return tmp_path


@pytest.fixture
def open_training(root: Path) -> Iterator[OpenTraining]:
    """Opens the page with a query, each key without its `training_`; its run had no exception."""

    def opened(**query: str | list[str]) -> AppTest:
        app = AppTest.from_file(APP, default_timeout=300).switch_page("pages/sae_training.py")
        for name, value in query.items():
            app.query_params[f"training_{name}"] = value
        return checked(app.run())

    yield opened
    st.cache_data.clear()
    st.cache_resource.clear()


def row(method: str, seed: int, sparsity: float, l0: float, mse: float, **more: object) -> dict[str, object]:
    """A finished job; its error is `mse` over all tokens and 4 times that over special ones."""
    return {
        "name": f"{method}-{sparsity}-{seed}", "model": "models/tiny", "hook_name": "blocks.1.hook_resid_post",
        "method": method, "architecture": "jumprelu", "expansion": 8, "seed": seed, "sparsity": sparsity, "k": 32,
        **dict.fromkeys(FIGURES, 0.5), "mse_all_by_sequence": mse, "mse_special_by_sequence": 4 * mse, "l0": l0,
        "folder": "somewhere", "error": None, **more,
    }  # fmt: skip


# FAST at L0 40 and 20 by two seeds, BT(P) at 60 and 36; no BT(F)
TRAINED = pd.DataFrame(
    [
        row("fast", 0, 1.0, 40, 1.0),
        row("fast", 1, 1.0, 40, 4.0),
        row("fast", 0, 2.0, 20, 16.0),
        row("fast", 1, 2.0, 20, 16.0),
        row("btp", 0, 1.0, 60, 8.0),
        row("btp", 0, 2.0, 36, 32.0),
    ]
)
LOSSES = pd.DataFrame(
    [
        {"name": name, "step": step, "tokens": 10 * step, "loss": 100 / step, "l0": 50.0, "dead": 0.25}
        for name in TRAINED["name"]
        for step in (10, 20)
    ]
)


@pytest.fixture
def trained(root: Path) -> AppStore:
    store = AppStore(root)
    store.save_result("tiny", "training", TRAINED)
    store.save_result("tiny", "losses", LOSSES)
    return store


def tables(app: AppTest) -> list[list[list[str]]]:
    """The HTML tables of figures, as rows of cells; their headings left out."""
    found = []
    for html in re.findall(r"<tbody>(.*?)</tbody>", html_of(app), flags=re.DOTALL):
        rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
        found.append([[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in cells] for cells in rows])
    return found


def table_with(app: AppTest, column: str) -> pd.DataFrame:
    """The one data frame of the page that has a column."""
    (found,) = [frame.value for frame in app.dataframe if column in frame.value]
    return found


def texts(app: AppTest) -> str:
    """All text of the page, without the marks that keep Markdown plain."""
    elements = [*app.markdown, *app.caption, *app.code, *app.warning, *app.error]
    return "\n".join(element.value for element in elements).replace("\\", "")


# ---------------------------------------------------------------- how batches are formed


@pytest.mark.parametrize("method", ["btp", "btf"])
def test_blocks_of_the_picture_hold_every_token_once_in_order(method: str) -> None:
    passes = forming.example_passes(method)
    assert {len(tokens) for tokens in passes} == {forming.EXAMPLE_BLOCK}
    letters = [token.text for tokens in passes for token in tokens]
    assert letters == sorted(letters)
    assert set(letters) == {"A", "B", "C"}
    assert any(len({token.text for token in tokens}) > 1 for tokens in passes)  # a block that crosses texts


def test_fast_runs_each_conversation_of_the_picture_alone() -> None:
    passes = forming.example_passes("fast")
    assert [{token.text for token in tokens} for tokens in passes] == [{"A"}, {"B"}, {"C"}]
    assert [(tokens[0].word, tokens[-1].word) for tokens in passes] == [("<|im_start|>", "<|im_end|>")] * 3
    same = [token for tokens in forming.example_passes("btf") for token in tokens]
    assert [token for tokens in passes for token in tokens] == same


def test_plain_text_of_the_picture_has_no_role_words() -> None:
    kinds = {
        method: {t.kind for tokens in forming.example_passes(method) for t in tokens} for method in methods.METHODS
    }
    assert kinds == {"fast": set(forming.KINDS), "btf": set(forming.KINDS), "btp": {"content", "special token"}}


def test_picture_draws_every_token_where_it_stands() -> None:
    figure = forming.batches()
    drawn = {trace.marker.color[0]: trace for trace in figure.data}
    assert set(drawn) == set(forming.KINDS.values())
    roles = drawn[forming.KINDS["role word"]]
    assert list(roles.y) == ["FAST"] * 6 + ["BT(F)"] * 6  # two messages a conversation
    assert roles.customdata[0] == "<b>user</b> role word of text A"
    assert sum(len(trace.y) for trace in figure.data) == sum(
        len(tokens) for method in methods.METHODS for tokens in forming.example_passes(method)
    )


# ---------------------------------------------------------------- what was trained


def test_nothing_trained_says_the_command_and_shows_the_paper(open_training: OpenTraining) -> None:
    app = open_training()
    configs = [code.value.split()[4] for code in app.code if code.value.startswith("python -m core train ")]
    assert configs == ["data/configs/example_sae_grid.toml", "data/configs/smollm2_comparison.toml"]
    assert all((APP.parent / config).is_file() for config in configs)
    assert tables(app) == []
    assert len(table_with(app, "gain")) == 40


def test_as_trained_has_mean_and_spread_over_seeds(open_training: OpenTraining, trained: AppStore) -> None:
    app = open_training()
    as_trained = tables(app)[0]
    methods = [cells[0] for cells in as_trained]
    assert methods == ["FAST", "BT(P)", "FAST", "BT(P)"]
    fast = as_trained[0]
    assert fast[1:3] == ["1", "2"]  # lambda, seeds
    assert fast[3] == "1.000 ± 1.414"  # log2 of 1 and 4: 0 and 2
    assert fast[4] == "2.00"  # 2 ** 1
    assert fast[5:7] == ["3.000 ± 1.414", "8.00"]
    assert as_trained[1][3:5] == ["3.000", "8.00"]  # one seed has no spread
    assert "tiny · blocks.1.hook_resid_post · x8 · JumpReLU" in texts(app)
    assert "python -m core train" not in texts(app)


def test_matched_l0_is_interpolated_and_its_best_in_bold(open_training: OpenTraining, trained: AppStore) -> None:
    app = open_training(l0="38")
    matched = tables(app)[1]
    expected = at_matched_l0(TRAINED, 38).set_index("method")
    # log2 of BT(P)'s 8 and 32 is 3 and 5; 38 lies a twelfth of the way from 36 to 60
    assert expected.loc["btp", "mse_all_by_sequence"] == pytest.approx(5 - 2 / 12)
    assert [cells[0] for cells in matched] == ["FAST", "BT(P)"]
    assert float(matched[1][2]) == pytest.approx(expected.loc["btp", "mse_all_by_sequence"], abs=5e-4)
    assert matched[0][2].startswith(f"{expected.loc['fast', 'mse_all_by_sequence']:.3f} ± ")
    html = html_of(app).split("<tbody>")[2]
    assert re.findall(r'class="([^"]*)"[^>]*>([^<]*)</td>', html)[0] == ("ss-best", matched[0][2])
    assert 'class="" style' in html.split("BT(P)")[1]


def test_l0_starts_where_all_methods_have_figures(open_training: OpenTraining, trained: AppStore) -> None:
    slider = open_training().slider(key="training_l0")
    assert (slider.min, slider.max, slider.value) == (20, 60, 38)  # all have 36 to 40


def test_l0_outside_a_method_is_not_extrapolated(open_training: OpenTraining, trained: AppStore) -> None:
    app = open_training()
    app.slider(key="training_l0").set_value(50).run()
    assert [cells[0] for cells in tables(checked(app))[1]] == ["BT(P)"]
    assert "No figures for FAST: all SAEs lie on one side of this L0." in texts(app)


def test_l0_of_a_link_that_no_sae_has_is_passed_over(open_training: OpenTraining, trained: AppStore) -> None:
    assert open_training(l0="9999").slider(key="training_l0").value == 38


def test_one_lambda_says_that_nothing_can_be_matched(open_training: OpenTraining, root: Path) -> None:
    AppStore(root).save_result("single", "training", TRAINED[TRAINED["sparsity"] == 1.0])
    app = open_training()
    assert len(app.slider) == 0
    assert "nothing to interpolate between" in texts(app)
    assert "No losses were saved" in texts(app)


def test_k_takes_the_place_of_lambda(open_training: OpenTraining, root: Path) -> None:
    rows = [row("fast", 0, 5.0, k, 1 / k, architecture="topk", k=k, name=f"k{k}") for k in (16, 32)]
    AppStore(root).save_result("topk", "training", pd.DataFrame(rows))
    as_trained = tables(open_training())[0]
    assert [cells[1:3] for cells in as_trained] == [["16", "1"], ["32", "1"]]


def test_groups_are_compared_one_at_a_time(open_training: OpenTraining, root: Path) -> None:
    standard = TRAINED.assign(architecture="standard", name="s-" + TRAINED["name"], l0=TRAINED["l0"] + 100)
    AppStore(root).save_result("both", "training", pd.concat([TRAINED, standard], ignore_index=True))
    app = open_training()
    assert {cells[1] for cells in tables(app)[0]} == {"JumpReLU", "Standard"}
    assert app.slider(key="training_l0").max == 60
    app.selectbox(key="training_group").select_index(1).run()
    assert checked(app).slider(key="training_l0").max == 160


def test_failed_jobs_are_told_and_left_out(open_training: OpenTraining, root: Path) -> None:
    settings = {key: value for key, value in row("btf", 0, 1.0, 0, 1).items() if key not in FIGURES}
    failed = pd.DataFrame([settings | {"folder": None, "error": "no *text* <b>"}])
    AppStore(root).save_result("part", "training", pd.concat([TRAINED, failed], ignore_index=True))
    AppStore(root).save_result("none", "training", failed)
    app = open_training(run="part")
    assert "1 of 7 jobs failed. btf-1.0-0: no *text* <b>" in texts(app)
    assert "BT(F)" not in [cells[0] for cells in tables(app)[0]]
    app.selectbox(key="training_run").set_value("none").run()
    assert tables(checked(app)) == []


def test_losses_have_a_line_an_sae_in_the_colour_of_its_method() -> None:
    losses = LOSSES.merge(TRAINED[["name", "method"]], on="name")
    figure = charts.loss_curves(losses, "dead")
    assert len(figure.data) == 6
    assert [trace.line.color for trace in figure.data].count(methods.COLOURS["fast"]) == 4
    assert list(figure.data[0].x) == [100, 200]
    assert set(figure.data[0].y) == {0.25}


def test_curve_is_chosen(open_training: OpenTraining, trained: AppStore) -> None:
    app = open_training(curve="dead neurons")
    assert app.session_state["training_curve"] == "dead"
    assert "No losses" not in texts(app)


def test_shipped_results_are_shown_by_the_same_code(open_training: OpenTraining, root: Path, trained: AppStore) -> None:
    own = tables(open_training(l0="38"))
    TRAINED.to_csv(root / "RESULTS" / "tiny_training.csv", index=False)
    LOSSES.to_csv(root / "RESULTS" / "tiny_losses.csv", index=False)
    app = open_training(l0="38", run="tiny (shipped)")
    assert app.selectbox(key="training_run").options == ["tiny", "tiny (shipped)"]
    assert tables(app) == own
    assert "No losses" not in texts(app)


def test_run_of_a_link_that_is_not_there_says_so(open_training: OpenTraining, trained: AppStore) -> None:
    app = open_training(run="gone")
    assert "The link asks for a run 'gone'" in texts(app)
    assert app.selectbox(key="training_run").value == "tiny"


def test_damaged_app_store_leaves_what_is_shipped(open_training: OpenTraining, root: Path) -> None:
    TRAINED.to_csv(root / "RESULTS" / "tiny_training.csv", index=False)
    (root / "app.duckdb").write_bytes(b"this is no database" * 1_000)
    app = open_training()
    assert "is damaged" in app.error[0].value
    assert len(tables(app)) == 2
    assert "Nothing trained" not in texts(app)


# ---------------------------------------------------------------- what is shipped and published


def test_shipped_saes_are_listed(open_training: OpenTraining, root: Path) -> None:
    assert "None is here." in texts(open_training())
    card = {"architecture": "topk", "d_in": 8, "d_sae": 64, "k": 4, "metadata": {"training_method": "btf"}}
    folder = root / "AUTOENCODERS" / "ours"
    folder.mkdir()
    (folder / "cfg.json").write_text(pd.Series(card).to_json())
    (folder / "evaluation.json").write_text('{"l0": 4.0, "mse_all_log2": -1.5}')
    cards = table_with(open_training(), "d_sae")
    expected = {"name": "ours", "method": "BT(F)", "architecture": "TopK", "d_sae": 64, "l0": 4.0, "mse_all_log2": -1.5}
    assert cards[list(expected)].to_dict("records") == [expected]


def test_published_rows_are_filtered(open_training: OpenTraining) -> None:
    app = open_training(paper_model=["Qwen2.5-7B-Instruct"], paper_tokens="all tokens", paper_architecture="Standard")
    shown = table_with(app, "gain")
    assert shown["layer"].tolist() == [4, 12, 18, 20, 25]
    assert shown["fast"].tolist() == [-0.7358, 0.6177, 1.3892, 2.0796, 4.4471]
    assert shown["gain"].round(4).tolist() == [0.2125, 0.1504, 0.0857, 0.0657, -0.0332]
    assert "FAST has the lowest in 4 of 5 rows" in texts(app)
    app.multiselect(key="training_paper_layer").set_value([18]).run()
    assert len(table_with(checked(app), "gain")) == 1
    assert app.multiselect(key="training_paper_expansion").options == ["8"]
    app.multiselect(key="training_paper_model").set_value(["Llama-3.2-1B-Instruct"]).run()
    assert table_with(checked(app), "gain")["layer"].tolist() == [4, 4, 9, 9, 14, 14]  # it has no layer 18


def test_published_lines_are_a_method_and_expansion_each() -> None:
    table = published("fast_mse").query("model == 'Llama-3.2-1B-Instruct' and architecture == 'standard'")
    figure = charts.published_layers(table[table["tokens"] == "all"], -6, 0)
    assert len(figure.data) == 6
    lines = {(trace.line.color, trace.line.dash): list(trace.y) for trace in figure.data}
    assert lines[methods.COLOURS["fast"], "dot"] == [-5.3804, -3.8344, -1.8409]
    assert list(figure.data[0].x) == ["4", "9", "14"]


def test_figures_against_l0_mark_the_chosen_one() -> None:
    from core.training.method_comparison import compared

    figure = charts.errors_against_l0(compared(TRAINED), "mse_all_by_sequence", "log2 MSE", 38)
    lines = {trace.line.color: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert lines[methods.COLOURS["btp"]] == ([36, 60], [5, 3])
    assert lines[methods.COLOURS["fast"]] == ([20, 40], [4, 1])
    assert figure.layout.shapes[0].x0 == 38
    assert np.isfinite([bar for trace in figure.data for bar in trace.error_y.array]).all()


def test_nothing_of_the_page_is_markup_of_others(open_training: OpenTraining, root: Path) -> None:
    bold = TRAINED.assign(model="models/<b>x", hook_name=["<i>a", "<i>b"] * 3)
    AppStore(root).save_result("<u>run", "training", bold)
    html = html_of(open_training())
    assert "<i>" not in html
    assert "&lt;i&gt;a" in html


def test_page_loads_no_heavy_library(root: Path, trained: AppStore) -> None:
    code = (
        "import sys\nfrom streamlit.testing.v1 import AppTest\n"
        f"app = AppTest.from_file({str(APP)!r}, default_timeout=60).switch_page('pages/sae_training.py').run()\n"
        f"print(len(app.exception), len(app.dataframe), [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=APP.parent, env={**os.environ}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "0 2 []", done.stderr

"""Colours, tokens, figures: contrast, escaping, and what is drawn."""

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.evaluation.experiments import TEXT_COLUMNS
from core.settings import ScoreSettings
from pages.shared.charts import figures as charts
from pages.shared.charts import text as charts_text
from pages.shared.charts.colours import (
    ACCENT,
    BACKGROUND,
    BORDER,
    EDITS,
    LINK,
    MIN_CONTRAST,
    RAMP_STEPS,
    TEXT,
    contrast,
    ramp,
    ramp_step,
)
from pages.shared.links import file_name
from pages.shared.messages import plain
from pages.shared.tokens import Shaded, legend, style_sheet, token_list, token_spans

CONFIG = tomllib.loads((Path(__file__).resolve().parents[2] / ".streamlit" / "config.toml").read_text())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_are_those_of_the_theme(theme: str) -> None:
    configured = CONFIG["theme"][theme]
    ours = (BACKGROUND[theme], ACCENT[theme], TEXT[theme], BORDER[theme])
    assert ours == tuple(configured[f"{name}Color"] for name in ("background", "primary", "text", "border"))
    assert LINK[theme] == configured["linkColor"]


def test_charts_of_streamlit_use_the_same_categories() -> None:
    assert CONFIG["theme"]["chartCategoricalColors"] == list(EDITS.values())


def test_contrast_of_known_colours() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)  # the usual example of a near miss


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_ramp_runs_from_background_to_accent_and_stays_readable(theme: str) -> None:
    steps = ramp(theme)
    assert len(steps) == RAMP_STEPS
    assert (steps[0][0], steps[-1][0]) == (BACKGROUND[theme], ACCENT[theme])
    assert min(contrast(background, text) for background, text in steps) >= MIN_CONTRAST
    towards = [contrast(background, BACKGROUND[theme]) for background, _ in steps]
    assert towards == sorted(towards)


def test_ramp_step_keeps_the_lowest_for_zero() -> None:
    assert [ramp_step(value, 2.0) for value in (0.0, 1e-9, 1.0, 2.0, 9.0)] == [0, 1, 5, 10, 10]
    assert ramp_step(1.0, 0.0) == 0


def test_token_spans_escape_and_shade() -> None:
    html = token_spans([Shaded(" <b>", 1.0, 'a "tip"'), Shaded("\n", None)], 2.0, prefix="<i>&")
    assert '<span class="ss-prefix">&lt;i&gt;&amp;</span>' in html
    assert '<span class="ss ss-5" data-tip="a &quot;tip&quot;"> &lt;b&gt;</span>' in html
    assert '<span class="ss">↵\n</span>' in html


def test_token_list_and_legend_escape() -> None:
    assert token_list(["<x>"]) == '<code class="ss-token">&lt;x&gt;</code>'
    assert "&lt;0" in legend("<0", "1", "share")


def test_style_sheet_defines_each_step_for_both_themes() -> None:
    for step, (light, dark) in enumerate(zip(ramp("light"), ramp("dark"), strict=True)):
        rule = (
            f".ss-{step} {{ background: light-dark({light[0]}, {dark[0]}); color: light-dark({light[1]}, {dark[1]}); }}"
        )
        assert rule in style_sheet()


def test_plain_text_is_no_markdown() -> None:
    assert plain("*a* [b](c)\n:red[d] $e$") == r"\*a\* \[b\]\(c\) \:red\[d\] \$e\$"


@pytest.mark.parametrize(
    ("parts", "name"), [(("smollm2", "Heart surgery!"), "smollm2-heart-surgery.csv"), (("../x", "/"), "x.csv")]
)
def test_file_names_hold_letters_digits_hyphens(parts: tuple[str, ...], name: str) -> None:
    assert file_name(*parts, suffix="csv") == name


ROWS = pd.DataFrame(
    {
        "prompt": [0, 2],
        "sum": [6.0, 2.0],
        "max": [4.0, 2.0],
        "n_tokens": [2, 1],
        "total": [12.0, 8.0],
        "prompt_tokens": [4, 10],
        "text": ["a <b>bold</b> prompt", "b"],
        "group": ["x&y", "z"],
    }
)


@pytest.mark.parametrize(
    ("summary", "expected"), [("sum", [0.5, 0.25]), ("max", [4, 2]), ("mean", [1.5, 0.2]), ("count", [0.5, 0.1])]
)
def test_prompt_summaries_by_hand(summary: str, expected: list[float]) -> None:
    figure = charts.summary_against_distance(ROWS, np.array([0.5, 1.0, 1.5]), ScoreSettings(summary=summary))
    assert list(figure.data[0].y) == expected
    assert list(figure.data[0].x) == [0.5, 1.5]
    assert figure.data[0].customdata[0].tolist() == ["a &lt;b&gt;bold&lt;/b&gt; prompt", "x&amp;y"]


def test_violin_marks_the_open_neuron() -> None:
    figure = charts.score_violin(np.linspace(0, 1, 10_001), 0.25, 12)
    assert len(figure.data[0].x) <= 2_000
    assert (figure.data[0].x[0], figure.data[0].x[-1]) == (0.0, 1.0)
    assert figure.layout.shapes[0].x0 == 0.25
    assert figure.layout.annotations[0].text == "neuron 12"
    assert len(charts.score_violin(np.linspace(0, 1, 5), None, 12).layout.shapes) == 0
    assert len(charts.score_violin(np.linspace(0, 1, 5), float("nan"), 12).layout.shapes) == 0


@pytest.mark.parametrize("name", TEXT_COLUMNS)
def test_every_column_of_the_text_experiment_has_a_title_and_a_colour(name: str) -> None:
    assert charts_text.TITLES[name]
    assert charts_text.CONTROLS.get(name, name) in EDITS

"""What neurons are called: the user's label before the judge's before the tokens, and labels as a file and back."""

from pathlib import Path

import pandas as pd
import pytest

from core.errors import NeuronRangeError, UsageError
from core.results.app_store import MAX_LABEL_CHARACTERS, AppStore
from core.results.export import export_bytes
from core.results.names import Names, parse_labels, top_words

TOKENS = [[" heart", " Heart", " beat", " chest", " pulse"], ["\n", " "], []]


@pytest.fixture
def app(tmp_path: Path) -> AppStore:
    return AppStore(tmp_path)


def _names(app: AppStore) -> Names:
    return Names(TOKENS, app.labels("demo"))


def test_name_is_the_number_and_three_words(app: AppStore) -> None:
    assert [str(name) for name in _names(app).values()] == ["0 heart, beat, chest", '1 "↵", "␣"', "2"]
    assert _names(app)[0].source == "tokens"


def test_words_that_differ_in_case_alone_count_once() -> None:
    assert top_words([" a", "A", "b", " c", "d"], n=3) == "a, b, c"
    assert top_words([",", " ,", " it's"]) == '",", it\'s'


def test_users_label_comes_before_the_judges(app: AppStore) -> None:
    app.save_labels("demo", {0: "about hearts", 1: "white space"}, "judge")
    app.save_labels("demo", {0: "  the\nheart "}, "user")
    app.save_labels("other", {2: "another setup's"}, "user")
    names = _names(app)
    assert (str(names[0]), names[0].source) == ("0 the heart", "user")
    assert (str(names[1]), names[1].source) == ("1 white space", "judge")
    assert str(names[2]) == "2"
    app.save_labels("demo", {0: " "}, "user")
    assert (str(_names(app)[0]), _names(app)[0].source) == ("0 about hearts", "judge")


def test_long_label_is_cut_beside_a_number_and_kept_whole(app: AppStore) -> None:
    label = "word " * 20
    app.save_labels("demo", {0: label}, "judge")
    name = _names(app)[0]
    assert name.words == label.strip()
    assert str(name).endswith(" ...")
    assert len(name.short) <= 60


def test_wrong_labels_save_nothing(app: AppStore) -> None:
    with pytest.raises(UsageError, match="at most 300 characters, neuron 1's has 301"):
        app.save_labels("demo", {0: "good", 1: "x" * (MAX_LABEL_CHARACTERS + 1)}, "user")
    with pytest.raises(UsageError, match="user or judge, not 'me'"):
        app.save_labels("demo", {0: "good"}, "me")  # type: ignore[arg-type]
    assert app.labels("demo").empty


def test_neuron_out_of_range_has_no_name(app: AppStore) -> None:
    for neuron in (-1, 3):
        assert neuron not in _names(app)
        with pytest.raises(NeuronRangeError, match="neurons 0 to 2"):
            _names(app)[neuron]


def test_labels_come_back_from_their_own_table(app: AppStore) -> None:
    app.save_labels("demo", {0: "=heart", 2: 'commas, "quotes"'}, "user")
    app.save_labels("demo", {0: "é 心"}, "judge")
    content = export_bytes(app.labels("demo"), "csv")
    assert parse_labels(content, 3) == {"user": {0: "=heart", 2: 'commas, "quotes"'}, "judge": {0: "é 心"}}


def test_file_of_a_users_own_needs_no_source() -> None:
    assert parse_labels(b"neuron,label\n1,beats\n", 3) == {"user": {1: "beats"}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no CSV in UTF-8"),
        (b"\xff\xfe\x00", "no CSV in UTF-8"),
        (b"neuron,words\n1,a\n", "'label' is missing"),
        (b"neuron,label\n-1,a\n", "row 1 of the labels: .* not '-1'"),
        (b"neuron,label,source\n1,a,user\n1,a,me\n", "row 2 of the labels: .* 'me'"),
        (b"neuron,label\n3,a\n", "neuron 3 is out of range"),
    ],
)
def test_wrong_file_of_labels_is_named(content: bytes, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_labels(content, 3)


def test_older_file_of_the_app_gets_its_table_of_labels(app: AppStore) -> None:
    import duckdb

    app.save_result("demo", "t", pd.DataFrame({"a": [1]}))
    with duckdb.connect(app.path) as con:
        con.execute("DROP TABLE labels")
    app.save_labels("demo", {1: "beats"}, "user")
    assert app.labels("demo")[["neuron", "label", "source"]].to_numpy().tolist() == [[1, "beats", "user"]]
    assert app.result("demo", "t") is not None

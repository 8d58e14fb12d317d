"""The judge against an endpoint on this machine."""

import math
import subprocess
import sys
import traceback

import pytest

from core.errors import JudgeError, UsageError
from core.models import judge
from core.models.judge import Judge, Rating, judge_from_environment, parse_rating
from tests.fixtures.judge_endpoint import Endpoint, completion

KEY = "secret-key"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("2 1 0", Rating(2.0, 1.0, 0.0)),
        ("concept: 1\ninstruction: 2\nfluency: 2", Rating(1.0, 2.0, 2.0)),
        ("1 2", Rating()),
        ("7 1 2", Rating()),
        ("2.0 1.0 0.0", Rating(2.0, 1.0, 0.0)),
        ("1.5 1 2", Rating()),
        ("9" * 5_000 + " 1 2", Rating()),  # more digits than `int` reads
        ("I cannot say.", Rating()),
        ("", Rating()),
    ],
)
def test_parse_rating(answer: str, expected: Rating) -> None:
    assert str(parse_rating(answer)) == str(expected)  # NaN equals nothing


def test_rate_asks_about_topic_prompt_and_text(endpoint: Endpoint) -> None:
    assert Judge(endpoint.url, "m", KEY).rate("law", "The judge", " said no.") == Rating(2, 1, 0)
    (asked,) = endpoint.asked
    assert (asked["path"], asked["model"], asked["temperature"]) == ("/v1/chat/completions", "m", 0)
    assert asked["headers"]["Authorization"] == f"Bearer {KEY}"
    question = asked["messages"][0]["content"]
    assert all(part in question for part in ("Topic: law", "Beginning: The judge", "Continuation:  said no."))


def test_rate_all_keeps_the_order(endpoint: Endpoint) -> None:
    shares: list[float] = []
    ratings = Judge(endpoint.url, "m").rate_all([("law", "a", str(i)) for i in range(20)], shares.append)
    assert len(ratings) == len(endpoint.asked) == 20
    assert shares[-1] == 1
    assert endpoint.asked[0]["headers"]["Authorization"] is None


@pytest.mark.parametrize("key", ["", KEY])
def test_the_account_of_the_openai_variables_is_not_sent(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "another-secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer another-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    Judge(endpoint.url, "m", key).ask("?")
    assert "another-secret" not in str(endpoint.asked[0]["headers"])


def test_an_answer_is_rated_without_a_topic(endpoint: Endpoint) -> None:
    endpoint.replies = ["1 2", "7 1", "2"]
    ratings = Judge(endpoint.url, "m").rate_answers([("Who?", "I.")])
    assert (ratings[0].instruction, ratings[0].fluency) == (1, 2)
    assert math.isnan(ratings[0].concept)
    assert all(part in endpoint.asked[0]["messages"][0]["content"] for part in ("Question: Who?", "Answer: I."))
    assert str(Judge(endpoint.url, "m").rate_answer("a", "b")) == str(Rating())  # 7 is no rating
    assert str(Judge(endpoint.url, "m").rate_answer("a", "b")) == str(Rating())


SCHEMA = {"type": "object", "properties": {}}


def test_a_schema_is_sent(endpoint: Endpoint) -> None:
    assert Judge(endpoint.url, "m").ask("?", SCHEMA) == "2 1 0"
    form = endpoint.asked[0]["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", SCHEMA)
    Judge(endpoint.url, "m").ask("?")
    assert "response_format" not in endpoint.asked[1]


@pytest.mark.parametrize("status", [400, 422])
def test_an_endpoint_without_schemas_is_asked_without(endpoint: Endpoint, status: int) -> None:
    endpoint.replies = [status, "yes"]
    assert Judge(endpoint.url, "m").ask("?", SCHEMA) == "yes"
    assert ["response_format" in asked for asked in endpoint.asked] == [True, False]


def test_what_is_refused_without_a_schema_too_never_shows_the_key(endpoint: Endpoint) -> None:
    endpoint.replies = [400]
    with pytest.raises(JudgeError, match="status 400") as caught:
        Judge(endpoint.url, "m", KEY).ask("?", SCHEMA)
    assert len(endpoint.asked) == 2
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_options_come_before_the_environment(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(judge.URL, "http://localhost:8000/v1")
    monkeypatch.setenv(judge.MODEL, "m")
    assert judge_from_environment(endpoint.url) == Judge(endpoint.url, "m")
    assert judge_from_environment(model="n") == Judge("http://localhost:8000/v1", "n")
    monkeypatch.delenv(judge.MODEL)
    endpoint.models = ["its-only-one"]
    assert judge_from_environment(endpoint.url) == Judge(endpoint.url, "its-only-one")


@pytest.mark.parametrize(("models", "said"), [(["b", "a"], "a, b"), ([], "no model")])
def test_several_models_are_listed_to_choose_from(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, models: list[str], said: str
) -> None:
    monkeypatch.delenv(judge.MODEL, raising=False)
    endpoint.models = models
    with pytest.raises(UsageError, match=f"has {said}; name one"):
        judge_from_environment(endpoint.url)


def test_an_endpoint_that_does_not_list_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(judge.MODEL, raising=False)
    monkeypatch.setattr(judge, "_RETRIES", 0)
    with pytest.raises(JudgeError, match="which models it has; name one: --model"):
        judge_from_environment("http://127.0.0.1:9/v1")


@pytest.mark.parametrize("url", ["http://[::1", "http://a b/c"])
def test_a_malformed_address_of_an_option_names_the_option(url: str) -> None:
    with pytest.raises(UsageError, match="--judge is an address such as"):
        judge_from_environment(url, "m")


def test_a_busy_endpoint_is_asked_again(endpoint: Endpoint) -> None:
    endpoint.replies = [429, 503, "1 1 1"]
    assert Judge(endpoint.url, "m").rate("t", "p", "x") == Rating(1, 1, 1)
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (404, 1), (429, 5), (503, 5)])
def test_a_refusal_never_shows_the_key(endpoint: Endpoint, status: int, asked: int) -> None:
    endpoint.replies = [status]
    with pytest.raises(
        JudgeError, match=rf"the judge at '{endpoint.url}' gives no answer \(status {status}\)"
    ) as caught:
        Judge(endpoint.url, "m", KEY).ask("?")
    assert len(endpoint.asked) == asked
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in repr(Judge(endpoint.url, "m", KEY))
    assert "\n" not in str(caught.value)


def test_no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_RETRIES", 0)
    with pytest.raises(JudgeError, match=r"gives no answer \(no connection\)"):
        Judge("http://127.0.0.1:9", "m").ask("?")


def test_an_endpoint_that_is_too_slow_is_asked_again(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_RETRIES", 1)
    monkeypatch.setattr(judge, "TIMEOUT_S", 0.1)
    endpoint.delay_s = 0.4
    with pytest.raises(JudgeError, match=r"gives no answer \(timed out after 0.1 s\)"):
        Judge(endpoint.url, "m").ask("?")
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "none"}',
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": {"0": 1}}',
        completion(["2 1 0"]),
        completion(210),
        b'["2 1 0"]',
        b"null",
        b'"2 1 0"',
        b"2 1 0",
        b"\xff",
        b"",
        b"[" * 100_000,
    ],
    ids=lambda body: body[:20].decode(errors="replace") or "empty",
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_reply_in_another_format(endpoint: Endpoint, body: bytes, content_type: str) -> None:
    endpoint.replies, endpoint.content_type = [body], content_type
    with pytest.raises(JudgeError, match=r"gives no answer \(its reply is no chat completion\)"):
        Judge(endpoint.url, "m").ask("?")
    assert len(endpoint.asked) == 1


def test_a_judge_that_declines(endpoint: Endpoint) -> None:
    endpoint.replies = [completion(None)]
    assert str(Judge(endpoint.url, "m").rate("t", "p", "x")) == str(Rating())


def test_environment_names_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(judge.URL, "http://localhost:8000/v1")
    monkeypatch.setenv(judge.MODEL, "m")
    monkeypatch.delenv(judge.KEY, raising=False)
    assert judge_from_environment() == Judge("http://localhost:8000/v1", "m")


@pytest.mark.parametrize(
    ("url", "model", "problem"),
    [("", "m", "no judge is configured"), ("http://x", "", "no judge"), ("file:///etc/passwd", "m", "is an address")],
)
def test_environment_without_a_judge(monkeypatch: pytest.MonkeyPatch, url: str, model: str, problem: str) -> None:
    monkeypatch.setenv(judge.URL, url)
    monkeypatch.setenv(judge.MODEL, model)
    with pytest.raises(UsageError, match=problem):
        judge_from_environment()


@pytest.mark.parametrize(
    "url",
    [
        *("http://[::1", "http://a b/c", "localhost:8000/v1", "//localhost/v1", "ftp://localhost/v1", "http://"),
        *("http:///v1", "http://x:port/v1", "http://x:99999/v1", "http://x/v1#part", "http://x\n/v1", "http://x/\x01"),
    ],
)
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(judge.URL, url)
    monkeypatch.setenv(judge.MODEL, "m")
    with pytest.raises(UsageError, match="STEERSCOPE_JUDGE_URL is an address such as") as caught:
        judge_from_environment()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://999.1.1.1/v1", "http://é..com/v1"])
def test_a_host_that_the_client_does_not_take(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(judge.URL, url)
    monkeypatch.setenv(judge.MODEL, "m")
    with pytest.raises(UsageError, match=rf"STEERSCOPE_JUDGE_URL is '{url}', which the client does not take "):
        judge_from_environment()


@pytest.mark.parametrize("url", [f"https://user:{KEY}@x/v1", f"https://x/v1?key={KEY}", f"http://user:{KEY}@a b"])
def test_an_address_with_a_secret_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(judge.URL, url)
    monkeypatch.setenv(judge.MODEL, "m")
    with pytest.raises(UsageError, match="STEERSCOPE_JUDGE_URL is an address without user name and query") as caught:
        judge_from_environment()
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY} x", f"{KEY}é"])
def test_a_key_that_no_header_holds(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(judge.URL, "http://localhost:8000/v1")
    monkeypatch.setenv(judge.MODEL, "m")
    monkeypatch.setenv(judge.KEY, key)
    with pytest.raises(UsageError, match="STEERSCOPE_JUDGE_KEY holds a blank") as caught:
        judge_from_environment()
    assert KEY not in str(caught.value)


def test_openai_is_imported_only_to_ask() -> None:
    code = "import sys, core.models.judge; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_no_rating_is_not_a_number() -> None:
    assert math.isnan(Rating().concept)

"""The judge against an endpoint on this machine."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from core.errors import JudgeError, UsageError
from core.models import judge
from core.models.judge import Judge, Rating, judge_from_environment, parse_rating

KEY = "secret-key"


class Endpoint(HTTPServer):
    """Answers with what stands in `replies`: a text, or a status to fail with; the last one stays."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[str | int] = ["2 1 0"]
        self.asked: list[dict] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        reply = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        self.send_response(reply if isinstance(reply, int) else 200)
        self.end_headers()
        if isinstance(reply, str):
            self.wfile.write(json.dumps({"choices": [{"message": {"content": reply}}]}).encode())

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(judge, "_PAUSE_S", 0.0)
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("2 1 0", Rating(2.0, 1.0, 0.0)),
        ("concept: 1\ninstruction: 2\nfluency: 2", Rating(1.0, 2.0, 2.0)),
        ("1 2", Rating()),
        ("7 1 2", Rating()),
        ("I cannot say.", Rating()),
    ],
)
def test_parse_rating(answer: str, expected: Rating) -> None:
    assert str(parse_rating(answer)) == str(expected)  # NaN equals nothing


def test_rate_asks_about_topic_prompt_and_text(endpoint: Endpoint) -> None:
    assert Judge(endpoint.url, "m", KEY).rate("law", "The judge", " said no.") == Rating(2, 1, 0)
    (asked,) = endpoint.asked
    assert (asked["path"], asked["model"], asked["temperature"]) == ("/v1/chat/completions", "m", 0)
    assert asked["key"] == f"Bearer {KEY}"
    question = asked["messages"][0]["content"]
    assert all(part in question for part in ("Topic: law", "Beginning: The judge", "Continuation:  said no."))


def test_rate_all_keeps_the_order(endpoint: Endpoint) -> None:
    shares: list[float] = []
    ratings = Judge(endpoint.url, "m").rate_all([("law", "a", str(i)) for i in range(20)], shares.append)
    assert len(ratings) == len(endpoint.asked) == 20
    assert shares[-1] == 1
    assert endpoint.asked[0]["key"] is None


def test_a_busy_endpoint_is_asked_again(endpoint: Endpoint) -> None:
    endpoint.replies = [429, 503, "1 1 1"]
    assert Judge(endpoint.url, "m").rate("t", "p", "x") == Rating(1, 1, 1)
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (503, 3)])
def test_a_refusal_never_shows_the_key(endpoint: Endpoint, status: int, asked: int) -> None:
    endpoint.replies = [status]
    with pytest.raises(
        JudgeError, match=rf"the judge at '{endpoint.url}' gives no answer \(status {status}\)"
    ) as caught:
        Judge(endpoint.url, "m", KEY).ask("?")
    assert len(endpoint.asked) == asked
    assert KEY not in str(caught.value)
    assert KEY not in repr(Judge(endpoint.url, "m", KEY))


def test_no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_PAUSE_S", 0.0)
    with pytest.raises(JudgeError, match="gives no answer"):
        Judge("http://127.0.0.1:9", "m").ask("?")


def test_an_answer_in_another_format(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge.json, "load", lambda file: {"error": "none"})
    with pytest.raises(JudgeError, match=r"gives no answer \(KeyError\)"):
        Judge(endpoint.url, "m").ask("?")
    assert len(endpoint.asked) == 1


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


def test_no_rating_is_not_a_number() -> None:
    assert math.isnan(Rating().concept)

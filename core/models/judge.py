"""A language model that judges texts: any OpenAI-compatible endpoint, named by options or in the environment.

STEERSCOPE_JUDGE_URL    such as http://localhost:8000/v1
STEERSCOPE_JUDGE_MODEL  the model's name there
STEERSCOPE_JUDGE_KEY    its key, where it needs one; never stored and never shown

The `openai` package speaks to it. What that package's own variables say of an account (OPENAI_API_KEY and the
like) belongs to another endpoint and is not sent.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from core.errors import JudgeError, UsageError

if TYPE_CHECKING:
    from openai import OpenAI  # imported where it is used: that takes a second or two
    from openai.types.chat import ChatCompletion

URL, MODEL, KEY = "STEERSCOPE_JUDGE_URL", "STEERSCOPE_JUDGE_MODEL", "STEERSCOPE_JUDGE_KEY"
TIMEOUT_S = 60.0
_RETRIES = 4  # of a question, after 0.5, 1, 2 and 4 s or what Retry-After says: time-outs, no connection, 429, 5xx
AT_ONCE = 8  # questions
_NO_SCHEMA = (400, 422)  # what endpoints answer that cannot be told the form of an answer
_RATINGS = (0.0, 1.0, 2.0)  # as AxBench has them

# our words for AxBench's three questions (Wu et al. 2025, arXiv:2501.17148)
_QUESTION = """A language model was given the beginning of a text and wrote the continuation below.
Rate the continuation three times, each 0, 1 or 2.
concept: is it about the topic? 0 not at all, 1 in part, 2 clearly
instruction: does it go on from the beginning? 0 not at all, 1 in part, 2 clearly
fluency: is it readable English? 0 not at all, 1 in part, 2 fully

Topic: {topic}
Beginning: {prompt}
Continuation: {text}

Answer with the three digits in this order, separated by spaces, and nothing else."""

# the two of them that concern an answer, for the alpha sweep
_ANSWER_QUESTION = """A language model was asked the question below and wrote the answer below it.
Rate the answer twice, each 0, 1 or 2.
instruction: does it answer the question, and rightly? 0 not at all, 1 in part, 2 fully
fluency: is it readable text? 0 not at all, 1 in part, 2 fully

Question: {question}
Answer: {answer}

Answer with the two digits in this order, separated by a space, and nothing else."""

_Asked = TypeVar("_Asked")


@dataclass(frozen=True)
class Rating:
    """What the judge says of a text, 0 to 2 each; NaN where its answer is none, or where it was not asked."""

    concept: float = math.nan
    instruction: float = math.nan
    fluency: float = math.nan


@dataclass(frozen=True)
class Judge:
    """An endpoint and a model there. `judge_from_environment` makes one and checks its address."""

    url: str
    model: str
    key: str = field(default="", repr=False)

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI

        # the client insists on a key; the header that is sent is the one that `ask` gives
        return OpenAI(base_url=self.url, api_key=self.key or "none", timeout=TIMEOUT_S, max_retries=_RETRIES)

    def ask(self, question: str, schema: Mapping[str, Any] | None = None) -> str:
        """The judge's answer; empty where it declines to say anything.

        Args:
            schema: JSON schema of the answer, for endpoints that can keep a model to one; the question says it, too.

        Raises:
            JudgeError: the endpoint cannot be reached, refuses, or answers in another format. Neither its message nor
                a traceback holds the key: the client's own errors, which may quote it, are not chained.
        """
        from openai import APIConnectionError, APIResponseValidationError, APIStatusError, APITimeoutError, Omit

        form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        knows_no_schema = False
        try:
            completion = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                response_format=form if schema else Omit(),  # type: ignore[arg-type]
                extra_headers=self._account(),
            )
            return _content(completion)
        except APIStatusError as exc:
            problem = f"status {exc.status_code}"
            knows_no_schema = schema is not None and exc.status_code in _NO_SCHEMA
        except APITimeoutError:
            problem = f"timed out after {TIMEOUT_S:g} s"
        except APIConnectionError:
            problem = "no connection"
        except (APIResponseValidationError, ValueError, RecursionError):  # the last two: JSON that cannot be read
            problem = "its reply is no chat completion"
        if knows_no_schema:
            return self.ask(question)
        raise JudgeError(self.url, problem)

    def _account(self) -> dict[str, Any]:
        """The headers that say who asks: our key or none, and nothing of the package's own variables."""
        from openai import Omit

        key = f"Bearer {self.key}" if self.key else Omit()
        return {"Authorization": key, "OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}

    def models(self) -> list[str]:
        """Names of the models that the endpoint says it has.

        Raises:
            JudgeError: it does not say; the message asks for a name.
        """
        from openai import OpenAIError

        try:
            return sorted(model.id for model in self._client.models.list(extra_headers=self._account()))
        except (OpenAIError, ValueError, TypeError, AttributeError, RecursionError):
            pass
        raise JudgeError(self.url, f"to the question which models it has; name one: --model, or {MODEL}")

    def rate(self, topic: str, prompt: str, text: str) -> Rating:
        """How the judge rates a continuation."""
        return parse_rating(self.ask(_QUESTION.format(topic=topic, prompt=prompt, text=text)))

    def rate_answer(self, question: str, answer: str) -> Rating:
        """How the judge rates the answer to a question; no topic is asked about, so `concept` stays NaN."""
        numbers = _numbers(self.ask(_ANSWER_QUESTION.format(question=question, answer=answer)), 2)
        return Rating(math.nan, *numbers) if numbers else Rating()

    def rate_all(
        self, texts: Sequence[tuple[str, str, str]], progress: Callable[[float], None] = lambda share: None
    ) -> list[Rating]:
        """Ratings of (topic, prompt, text), several asked at once."""
        return _at_once(lambda text: self.rate(*text), texts, progress)

    def rate_answers(
        self, texts: Sequence[tuple[str, str]], progress: Callable[[float], None] = lambda share: None
    ) -> list[Rating]:
        """Ratings of (question, answer), several asked at once."""
        return _at_once(lambda text: self.rate_answer(*text), texts, progress)


def _at_once(
    rate: Callable[[_Asked], Rating], texts: Sequence[_Asked], progress: Callable[[float], None]
) -> list[Rating]:
    ratings = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for rating in pool.map(rate, texts):
            ratings.append(rating)
            progress(len(ratings) / len(texts))
    return ratings


def _content(completion: ChatCompletion) -> str:
    """The text of a reply. The client builds its objects from any JSON, so the types are checked here.

    Raises:
        ValueError: the JSON has another shape.
    """
    try:
        content: object = completion.choices[0].message.content
    except (AttributeError, IndexError, KeyError, TypeError) as exc:
        raise ValueError("no message") from exc
    if content is not None and not isinstance(content, str):
        raise ValueError("a message that is no text")
    return content or ""


def _numbers(answer: str, n: int) -> list[float]:
    """The first `n` numbers of an answer; empty where one of them is missing or is no rating."""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", answer)[:n]]
    return numbers if len(numbers) == n and set(numbers).issubset(_RATINGS) else []


def parse_rating(answer: str) -> Rating:
    """The first three numbers of an answer as ratings; NaN where one of them is missing or is no rating."""
    return Rating(*_numbers(answer, 3))


def judge_from_environment(url: str | None = None, model: str | None = None) -> Judge:
    """The judge that the environment names; a `url` or `model` given here comes before what it says.

    A `url` without any model's name is asked which model it has.

    Raises:
        UsageError: no judge is named, the address is malformed, the key cannot stand in an HTTP header, or the
            endpoint has several models.
        JudgeError: the endpoint does not say which models it has.
    """
    address, name, key = url or os.environ.get(URL, ""), model or os.environ.get(MODEL, ""), os.environ.get(KEY, "")
    if not address or not (name or url):
        raise UsageError(f"no judge is configured; set {URL} (an OpenAI-compatible endpoint) and {MODEL}")
    if re.search(r"[^!-~]", key):
        raise UsageError(f"{KEY} holds a blank, a line break or a letter beyond ASCII, which no key has; set it anew")
    where = "--judge" if url else URL
    if "@" in address or "?" in address:  # not shown: there may be a password in it
        raise UsageError(f"{where} is an address without user name and query; set the key in {KEY}")
    if not _is_web_address(address):
        raise UsageError(f"{where} is an address such as http://localhost:8000/v1, not {address!r}")
    judge = Judge(address, name, key)
    try:
        judge._client  # noqa: B018  # made now, because it refuses a host such as 999.1.1.1
    except ImportError:
        raise
    except Exception as exc:  # the errors of its HTTP library have no common base
        reason = " ".join(str(exc).split())
        raise UsageError(
            f"{where} is {address!r}, which the client does not take ({reason}); check the address"
        ) from exc
    return judge if name else Judge(address, _only_model(judge), key)


def _only_model(judge: Judge) -> str:
    """The endpoint's model, where it has a single one.

    Raises:
        JudgeError: it does not say.
        UsageError: it has several, or none.
    """
    names = judge.models()
    if len(names) != 1:
        known = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise UsageError(f"'{judge.url}' has {known or 'no model'}; name one: --model, or {MODEL}")
    return names[0]


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port  # raises ValueError where it is not a number up to 65,535
    except ValueError:
        return False
    plain = url.isprintable() and " " not in url and not parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and plain

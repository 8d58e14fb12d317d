"""A language model that judges texts: any OpenAI-compatible endpoint, named in the environment.

STEERSCOPE_JUDGE_URL    such as http://localhost:8000/v1
STEERSCOPE_JUDGE_MODEL  the model's name there
STEERSCOPE_JUDGE_KEY    its key, where it needs one; never stored and never shown
"""

from __future__ import annotations

import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from core.errors import JudgeError, UsageError

URL, MODEL, KEY = "STEERSCOPE_JUDGE_URL", "STEERSCOPE_JUDGE_MODEL", "STEERSCOPE_JUDGE_KEY"
TIMEOUT_S = 60.0
_ATTEMPTS, _PAUSE_S = 3, 2.0  # of a question; only where the endpoint is busy or fails
_AT_ONCE = 8  # questions
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MOST = 2  # of a rating, as AxBench has it

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


@dataclass(frozen=True)
class Rating:
    """What the judge says of a text, 0 to 2 each; NaN where its answer is none."""

    concept: float = math.nan
    instruction: float = math.nan
    fluency: float = math.nan


@dataclass(frozen=True)
class Judge:
    """An endpoint and a model there."""

    url: str
    model: str
    key: str = field(default="", repr=False)

    def ask(self, question: str) -> str:
        """The judge's answer.

        Raises:
            JudgeError: the endpoint cannot be reached, refuses, or gives no answer; its message never holds the key.
        """
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                    answer = json.load(response)["choices"][0]["message"]["content"]
                return str(answer or "")
            except urllib.error.HTTPError as exc:
                exc.close()
                if exc.code not in _BUSY or attempt == _ATTEMPTS:
                    raise JudgeError(self.url, f"status {exc.code}") from exc
            except (OSError, ValueError, KeyError, IndexError, TypeError) as exc:
                if attempt == _ATTEMPTS or not isinstance(exc, OSError):
                    raise JudgeError(self.url, type(exc).__name__) from exc
            time.sleep(_PAUSE_S * attempt)
        raise AssertionError  # the last attempt returns or raises

    def rate(self, topic: str, prompt: str, text: str) -> Rating:
        """How the judge rates a continuation."""
        return parse_rating(self.ask(_QUESTION.format(topic=topic, prompt=prompt, text=text)))

    def rate_all(
        self, texts: Sequence[tuple[str, str, str]], progress: Callable[[float], None] = lambda share: None
    ) -> list[Rating]:
        """Ratings of (topic, prompt, text), several asked at once."""
        ratings = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for rating in pool.map(lambda text: self.rate(*text), texts):
                ratings.append(rating)
                progress(len(ratings) / len(texts))
        return ratings


def parse_rating(answer: str) -> Rating:
    """The first three digits of an answer, where they are ratings; else none."""
    digits = [int(d) for d in re.findall(r"\d+", answer)[:3]]
    return Rating(*map(float, digits)) if len(digits) == 3 and max(digits) <= _MOST else Rating()


def judge_from_environment() -> Judge:
    """The judge that the environment names.

    Raises:
        UsageError: it names none, or an address that is none of the web.
    """
    url, model = os.environ.get(URL, ""), os.environ.get(MODEL, "")
    if not (url and model):
        raise UsageError(f"no judge is configured; set {URL} (an OpenAI-compatible endpoint) and {MODEL}")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{URL} is an address such as http://localhost:8000/v1, not '{url}'")
    return Judge(url, model, os.environ.get(KEY, ""))

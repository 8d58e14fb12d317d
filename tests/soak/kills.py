"""Commands killed at random moments: what they leave, once run again, is what an unbroken run leaves."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fixtures.judge_endpoint import serving_judge
from tests.soak.bench import SETUP, Bench, Outcome, ended

N_KILLS = 100
AT_ONCE = 2  # commands side by side, each in a folder of its own
NEURONS = 20  # that a judge rates
_LATE = "late"


@dataclass(frozen=True)
class Whole:
    """What an unbroken run of a command left, and how long it took."""

    contents: dict[str, Any]
    seconds: float


def _commands(bench: Bench, judge: str) -> dict[str, Callable[[Path], list[str]]]:
    """The commands that may be killed, each writing to the folder that it is given."""
    train = [str(bench.folder / "train.toml"), "--text", str(bench.folder)]
    topics = ["--topic", "medical", "--topic", "law"]
    text = ["--columns", "swap", "--prompts", "unaligned", "--n", "2", "--tokens", "4"]
    rate = ["--neurons", str(NEURONS), "--judge", judge, "--model", "m"]
    return {
        "build": lambda to: ["build", SETUP, "--store", str(to)],
        "evaluate": lambda to: ["evaluate", SETUP, "--what", "coverage,text", *topics, *text, "--store", str(to)],
        "sweep": lambda to: ["sweep", SETUP, "--neuron", "3", "--alphas", "0,5", "--tokens", "4", "--store", str(to)],
        "train": lambda to: ["train", *train, "--work", str(to / "work"), "--out", str(to / "out"), "--store", str(to)],
        "interpret": lambda to: ["interpret", SETUP, *rate, "--store", str(to)],
    }


def _contents(to: Path) -> dict[str, Any]:
    """What a command left: the rows of the store, the results, the ratings, and the trained weights."""
    from safetensors.numpy import load_file

    from core.results.ratings import RatingStore
    from core.store.reader import Store

    found: dict[str, Any] = {}
    if (to / SETUP / "store.duckdb").exists():
        with Store.open(to, SETUP) as store:
            store.check()
            found["prompts"] = store.prompts()["text"].tolist()
            found["neurons"] = store.neurons().round(4).astype(str).to_dict("list")
    if (to / "app.duckdb").exists():
        results = RatingStore(to)
        for setup, what in results.results()[["setup", "what"]].itertuples(index=False):
            table = results.result(setup, what)
            assert table is not None
            timeless = table.drop(columns=["seconds", "folder"], errors="ignore")
            found[f"{setup} {what}"] = timeless.round(3).astype(str).to_dict("list")
        ratings = results.ratings(SETUP).drop(columns="rated_at").sort_values("neuron")
        found["ratings"] = ratings.astype(str).to_dict("list")
    if (to / "out" / "sae_weights.safetensors").exists():
        found |= {name: w.tobytes() for name, w in load_file(to / "out" / "sae_weights.safetensors").items()}
    return found


def _fresh(bench: Bench, to: Path, name: str) -> Path:
    """An empty folder for a command; one with the built store, but for the build."""
    shutil.rmtree(to, ignore_errors=True)
    if name == "build":
        to.mkdir()
        return to
    return Path(shutil.copytree(bench.base, to))


def _killed(bench: Bench, to: Path, name: str, command: list[str], whole: Whole, moment: float) -> str | None:
    """Kills a command after this share of its time, runs it again; what is wrong then, if anything."""
    process = bench.start(command)
    time.sleep(moment * whole.seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if (problem := ended(bench.start(command))) is not None:
        return f"{name}: {problem}"
    left = _contents(to)
    if left == whole.contents:
        return None
    wrong = [key for key in {*left, *whole.contents} if left.get(key) != whole.contents.get(key)]
    return f"{name}: {', '.join(sorted(wrong))} not as an unbroken run leaves them"


def kills(bench: Bench, until: float, n: int = N_KILLS, names: tuple[str, ...] = (), seed: int = 0) -> Outcome:
    """Kills the commands in turn, each at a random moment."""
    outcome, rng = Outcome("kills"), random.Random(seed)
    with serving_judge() as endpoint, ThreadPoolExecutor(AT_ONCE) as pool:
        endpoint.answer = _verdict
        commands = {k: v for k, v in _commands(bench, endpoint.url).items() if not names or k in names}
        whole: dict[str, Whole] = {}
        for name, command in commands.items():
            to, started = _fresh(bench, bench.folder / "whole", name), time.monotonic()
            if (problem := ended(bench.start(command(to)))) is not None:
                outcome.problems.append(f"{name}: {problem}")
                return outcome
            whole[name] = Whole(_contents(to), time.monotonic() - started)

        def one(number: int) -> str | None:
            name = list(commands)[number % len(commands)]
            if number >= len(commands) and time.monotonic() > until:
                return _LATE
            to = _fresh(bench, bench.folder / f"run-{number}", name)
            problem = _killed(bench, to, name, commands[name](to), whole[name], moments[number])
            shutil.rmtree(to)
            return problem

        moments = [rng.random() for _ in range(n)]
        found = [problem for problem in pool.map(one, range(n)) if problem != _LATE]
    outcome.done, outcome.problems = len(found), [problem for problem in found if problem]
    return outcome


def _verdict(question: str) -> str:
    """A judge that always says the same of the same neuron."""
    return json.dumps({"summary": "words", "score": 1 + len(question) % 5})

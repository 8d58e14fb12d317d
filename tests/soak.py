"""The soak: `make soak` kills commands at random moments, fuzzes every entry, runs sessions, and watches memory.

    python -m tests.soak --minutes 30      whole
    python -m tests.soak --minutes 1       a taste: each part at least once

Everything runs on tiny checkpoints that it writes itself. It ends with a line a part and exit code 1 where anything was
lost, doubled, leaked, or ended in a traceback. The parts share the time; a part that has reached its number ends early.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETUP = "soak"
N_KILLS, N_FUZZED, N_SESSIONS, N_GENERATIONS = 100, 10_000, 50, 1_000
MAX_GROWTH_MB = 100  # of memory over all generations, once the first tenth is over
TOPICS = ("heart surgery", "court law", "running shoes", "boiling soup", "rain in spring")

TRAIN = """
[autoencoder]
name = "soak"
model = "MODEL"
hook_name = "blocks.1.hook_resid_post"
context_size = 32
expansion = 2
k = 4
tokens = 4_096
batch_size = 128
buffer_size = 512
forward_tokens = 256
warmup_steps = 2
median_tokens = 256
checkpoint_steps = 4
evaluation_tokens = 200
device = "cpu"
autocast = false
[[autoencoder.sources]]
path = "text.jsonl"
licence = "CC0"
"""


@dataclass
class Outcome:
    """What a part did, and what went wrong in it."""

    what: str
    done: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        first = f": {self.problems[0]}" if self.problems else ""
        return f"{self.done:,} {self.what}, {len(self.problems):,} problems{first}"


@dataclass(frozen=True)
class Bench:
    """A folder with tiny checkpoints and the setups that name them."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> "Bench":
        from tests.fixtures.autoencoders import residual_stream, write_autoencoder
        from tests.fixtures.language_models import write_embedding_model, write_qwen2
        from tests.fixtures.text import write_reference

        model = write_qwen2(folder / "model")
        metadata = {"model_name": "soak", "prepend_bos": False}
        write_autoencoder(folder / "sae", "topk", residual_stream(model), metadata=metadata, seed=0)
        write_embedding_model(folder / "embedding")
        write_reference(folder / "reference.jsonl", 96)
        shutil.copy(folder / "reference.jsonl", folder / "text.jsonl")
        (folder / "setups.toml").write_text(
            f'[setups.{SETUP}]\nmodel = "model"\nsae = "sae"\nhook_name = "blocks.1.hook_resid_post"\ndevice = "cpu"\n'
            'reference = "reference.jsonl"\nembedding_model = "embedding"\nchat = true\n',
            encoding="utf-8",
        )
        (folder / "train.toml").write_text(TRAIN.replace("MODEL", str(model)), encoding="utf-8")
        return cls(folder)

    def environment(self) -> dict[str, str]:
        own = {"STEERSCOPE_SETUPS": str(self.folder / "setups.toml"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return {name: value for name, value in os.environ.items() if name != "STEERSCOPE_STORE"} | own

    def start(self, arguments: list[str]) -> "subprocess.Popen[str]":
        """A command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "core", *arguments],
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


# ---- kills ----


def _commands(bench: Bench) -> dict[str, Callable[[Path], list[str]]]:
    """The commands that may be killed, each writing to the folder that it is given."""
    train = [str(bench.folder / "train.toml"), "--text", str(bench.folder)]
    topics = ["--topic", "medical", "--topic", "law"]
    text = ["--columns", "swap", "--prompts", "unaligned", "--n", "2", "--tokens", "4"]
    return {
        "build": lambda to: ["build", SETUP, "--store", str(to)],
        "evaluate": lambda to: ["evaluate", SETUP, "--what", "coverage,text", *topics, *text, "--store", str(to)],
        "sweep": lambda to: ["sweep", SETUP, "--neuron", "3", "--alphas", "0,5", "--tokens", "4", "--store", str(to)],
        "train": lambda to: ["train", *train, "--work", str(to / "work"), "--out", str(to / "out"), "--store", str(to)],
    }


def _contents(to: Path) -> dict[str, Any]:
    """What a command left: the rows of the store, the results, and the trained weights."""
    from safetensors.numpy import load_file

    from core.results.app_store import AppStore
    from core.store.reader import Store

    found: dict[str, Any] = {}
    if (to / SETUP / "store.duckdb").exists():
        with Store.open(to, SETUP) as store:
            store.check()
            found["prompts"] = store.prompts()["text"].tolist()
            found["neurons"] = store.neurons().round(4).astype(str).to_dict("list")
    if (to / "app.duckdb").exists():
        results = AppStore(to)
        for setup, what in results.results()[["setup", "what"]].itertuples(index=False):
            table = results.result(setup, what)
            assert table is not None
            found[f"{setup} {what}"] = table.round(3).astype(str).to_dict("list")
    if (to / "out" / "sae_weights.safetensors").exists():
        found |= {name: w.tobytes() for name, w in load_file(to / "out" / "sae_weights.safetensors").items()}
    return found


def kills(bench: Bench, until: float, n: int = N_KILLS, names: tuple[str, ...] = (), seed: int = 0) -> Outcome:
    """Kills each command at random moments, lets it go on, and compares what it leaves with an unbroken run's."""
    outcome, rng = Outcome("kills"), random.Random(seed)
    commands = {name: command for name, command in _commands(bench).items() if not names or name in names}
    base = bench.folder / "base"
    if bench.start(_commands(bench)["build"](base)).wait() != 0:
        outcome.problems.append("the first build failed")
        return outcome
    whole, seconds = {}, {}
    for name, command in commands.items():
        to, started = _fresh(bench, base, name), time.monotonic()
        if (problem := _ended(bench.start(command(to)))) is not None:
            outcome.problems.append(f"{name}: {problem}")
            return outcome
        whole[name], seconds[name] = _contents(to), time.monotonic() - started
    while outcome.done < n and (time.monotonic() < until or outcome.done < len(commands)):
        name = list(commands)[outcome.done % len(commands)]
        to = _fresh(bench, base, name)
        process = bench.start(commands[name](to))
        time.sleep(rng.uniform(0.0, seconds[name]))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (problem := _ended(bench.start(commands[name](to)))) is not None:
            outcome.problems.append(f"{name}: {problem}")
        elif _contents(to) != whole[name]:
            outcome.problems.append(f"{name}: other rows than the unbroken run's")
        outcome.done += 1
    return outcome


def _fresh(bench: Bench, base: Path, name: str) -> Path:
    """An empty folder for a command; one with the built store, but for the build."""
    to = bench.folder / "run"
    shutil.rmtree(to, ignore_errors=True)
    if name == "build":
        to.mkdir()
        return to
    return Path(shutil.copytree(base, to))


def _ended(process: "subprocess.Popen[str]") -> str | None:
    """Waits for a command; what went wrong with it, if anything."""
    _, errors = process.communicate()
    if process.returncode == 0 and "Traceback" not in errors:
        return None
    return errors.strip().splitlines()[-1] if errors.strip() else f"exit code {process.returncode}"


# ---- fuzzed inputs ----


def _inputs(rng: random.Random) -> Iterator[bytes]:
    """Random bytes, and odd but well-formed text, without end."""
    odd = ["", "\0", "[/]", "=1+1", "nan", "1e999999", "-1", "[[[[", '{"text": 3}', "\ufeffx", "\u202e", "a" * 5_000]
    odd += [
        "[setups.x]\nmodel=1",
        "[autoencoder]\nlr='x'",
        "text\n\n",
        '{"messages": [1]}',
        "0:1:0",
        "99999999999999999999",
    ]
    while True:
        if rng.random() < 0.4:
            yield rng.randbytes(rng.randrange(0, 400))
        else:
            yield "".join(rng.choice(odd) for _ in range(rng.randrange(1, 4))).encode()


def _entries(folder: Path) -> dict[str, Callable[[bytes], object]]:
    """Every place where a file or a text comes in."""
    from core.catalog import listed_setups
    from core.scoring.sharpness import parse_sharpness
    from core.settings import given_path
    from core.sweep.request import parse_alphas, read_questions
    from core.text.prompts import parse_topic, read_topic
    from core.training.corpus import read_documents
    from core.training.grid import load_grid
    from core.training.run import run_training

    def of_file(suffix: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def entry(content: bytes) -> object:
            path = folder / f"fuzzed{suffix}"
            path.write_bytes(content)
            return read(path)

        return entry

    def of_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
        return lambda content: read(content.decode("utf-8", "replace"))

    def train(path: Path) -> object:
        return run_training(path, folder, folder / "work", folder / "out", lambda stage, share: None)

    topics = {f"topic file {end}": of_file(end, read_topic) for end in (".txt", ".csv", ".jsonl", ".parquet")}
    return {
        **topics,
        "questions": of_file(".txt", read_questions),
        "setups": of_file(".toml", listed_setups),
        "training config": of_file(".toml", train),
        "grid": of_file(".toml", load_grid),
        "corpus": of_file(".jsonl", lambda path: list(read_documents(path))),
        "topic": of_text(parse_topic),
        "alphas": of_text(parse_alphas),
        "sharpness": of_text(parse_sharpness),
        "path": of_text(given_path),
    }


def fuzz(bench: Bench, until: float, n: int = N_FUZZED, seed: int = 0) -> Outcome:
    """Every entry takes an input or refuses it with an error of the program's own, in one line."""
    from core.errors import SteerscopeError

    outcome, inputs = Outcome("fuzzed inputs"), _inputs(random.Random(seed))
    entries = list(_entries(bench.folder).items())
    while outcome.done < n and (time.monotonic() < until or outcome.done < len(entries)):
        name, entry = entries[outcome.done % len(entries)]
        content = next(inputs)
        try:
            entry(content)
        except SteerscopeError as exc:
            if not str(exc).strip():
                outcome.problems.append(f"{name}: an error without a word")
        except Exception as exc:
            outcome.problems.append(f"{name}: {type(exc).__name__}: {exc} for {content[:60]!r}")
        outcome.done += 1
    return outcome


# ---- sessions and memory ----


def sessions(bench: Bench, until: float, n: int = N_SESSIONS) -> Outcome:
    """Sessions side by side, each with a topic of its own: every page shows its own topic and no error."""
    from streamlit.testing.v1 import AppTest

    os.environ.update(bench.environment() | {"STEERSCOPE_STORE": str(bench.folder / "base")})
    outcome = Outcome("sessions")

    def visit(number: int) -> str | None:
        if number >= len(TOPICS) and time.monotonic() > until:
            return "late"
        topic = f"{TOPICS[number % len(TOPICS)]} {number}"
        app = AppTest.from_file(ROOT / "app.py", default_timeout=600)
        for name, value in {"setup": SETUP, "min_prompts": "5", "topic": topic}.items():
            app.query_params[name] = value
        app.run()
        if app.exception:
            return f"session {number}: {app.exception[0].message}"
        shown = app.text_area(key="topic").value
        return None if shown == topic else f"session {number} shows {shown!r} instead of {topic!r}"

    with ThreadPoolExecutor(8) as pool:
        found = [problem for problem in pool.map(visit, range(n)) if problem != "late"]
    outcome.done, outcome.problems = len(found), [problem for problem in found if problem]
    return outcome


def memory(bench: Bench, until: float, n: int = N_GENERATIONS) -> Outcome:
    """Generations one after another do not make the process grow."""
    from core import api
    from core.settings import GenerationSettings

    os.environ.update(bench.environment())
    outcome = Outcome("generations")
    setup = api.open_setup(SETUP, store=bench.folder / "base")
    scored = api.score(setup, "heart surgery")
    settled, least = 0, max(2, n // 10)
    while outcome.done < n and (time.monotonic() < until or outcome.done < least):
        api.generate(setup, "My heart", scored, edits=("none", "swap"), generation=GenerationSettings(max_new_tokens=8))
        outcome.done += 1
        if outcome.done == least:
            settled = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled) / 1024
    outcome.what += f" (grown by {grown:.0f} MiB)"
    if grown > MAX_GROWTH_MB:
        outcome.problems.append(f"memory grew by {grown:.0f} MiB")
    return outcome


PARTS: dict[str, tuple[Callable[[Bench, float], Outcome], float]] = {  # and its share of the time
    "kills": (kills, 0.6),
    "fuzz": (fuzz, 0.15),
    "sessions": (sessions, 0.15),
    "memory": (memory, 0.1),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills, fuzzed inputs, sessions side by side, memory.")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all parts together; each runs at least once")
    parser.add_argument("--only", choices=PARTS, help="this part alone")
    options = parser.parse_args()
    chosen = {options.only: PARTS[options.only]} if options.only else PARTS
    shares = sum(share for _, share in chosen.values())
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.write(Path(folder))
        if "kills" not in chosen and bench.start(_commands(bench)["build"](bench.folder / "base")).wait() != 0:
            return 1
        for part, share in chosen.values():
            outcomes.append(part(bench, time.monotonic() + 60 * options.minutes * share / shares))
            print(outcomes[-1], flush=True)
    print(json.dumps({outcome.what: [outcome.done, len(outcome.problems)] for outcome in outcomes}))
    return int(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

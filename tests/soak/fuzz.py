"""Random and odd inputs for every file and text that comes in."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.soak.bench import Bench, Outcome

N_FUZZED = 10_000


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

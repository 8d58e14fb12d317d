"""`python -m tests.soak`."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.soak.bench import Bench, Outcome
from tests.soak.fuzz import fuzz
from tests.soak.kills import kills
from tests.soak.memory import memory
from tests.soak.sessions import sessions

PARTS: dict[str, tuple[Callable[[Bench, float], Outcome], float]] = {  # and its share of the time
    "kills": (kills, 0.65),
    "fuzz": (fuzz, 0.1),
    "sessions": (sessions, 0.2),
    "memory": (memory, 0.05),
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
        for part, share in chosen.values():
            outcomes.append(part(bench, time.monotonic() + 60 * options.minutes * share / shares))
            print(outcomes[-1], flush=True)
    print(json.dumps({outcome.what: [outcome.done, len(outcome.problems)] for outcome in outcomes}))
    return int(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

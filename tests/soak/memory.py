"""Generations one after another do not make the process grow."""

import os
import resource
import time

from tests.soak.bench import SETUP, Bench, Outcome

N_GENERATIONS = 1_000
MAX_GROWTH_MB = 100  # over all generations, once the first tenth is over


def memory(bench: Bench, until: float, n: int = N_GENERATIONS) -> Outcome:
    """Generations one after another do not make the process grow."""
    from core import api
    from core.settings import GenerationSettings

    os.environ.update(bench.environment())
    outcome = Outcome("generations")
    setup = api.open_setup(SETUP, store=bench.base)
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

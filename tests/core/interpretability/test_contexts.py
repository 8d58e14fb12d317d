"""What a rater is shown: which neurons are drawn, and which part of which texts."""

import numpy as np
import pytest

from core.catalog import DATA, read_setups
from core.errors import UsageError
from core.interpretability.contexts import (
    FROM_STORE,
    NeuronContexts,
    contexts_from_store,
    contexts_of,
    contexts_table,
    draw,
    drawn_from_store,
    shown_part,
)
from core.results.published import published
from core.store.reader import Context, Store
from core.training.grid import load_grid


def test_drawn_neurons_fire_on_five_prompts(store: Store) -> None:
    known = store.neurons()
    able = set(known.loc[known["prompts"] >= 5, "neuron"])
    assert len(able) < store.d_sae
    assert set(drawn_from_store(store, 1_000, seed=0)) == able
    for neuron in drawn_from_store(store, 10, seed=3):
        shown = contexts_from_store(store, neuron)
        assert len(shown.contexts) == 5
        assert shown.source == FROM_STORE
        assert all(context.max > 0 for context in shown.contexts)
        assert [c.max for c in shown.contexts] == sorted((c.max for c in shown.contexts), reverse=True)


def test_a_draw_follows_from_its_seed_and_grows_at_its_end(store: Store) -> None:
    large = drawn_from_store(store, 64, seed=5)
    assert drawn_from_store(store, 64, seed=5) == large
    assert drawn_from_store(store, 20, seed=5) == large[:20]
    assert drawn_from_store(store, 64, seed=6) != large
    assert len(set(large)) == 64
    assert draw([3, 1, 2], 9, seed=0) == draw([1, 2, 3], 9, seed=0)


def test_nothing_to_draw_from() -> None:
    with pytest.raises(UsageError, match="no neuron fires on 5 of these texts"):
        draw([], 5, seed=0)


@pytest.mark.parametrize(("peak", "first", "last"), [(0, 0, 24), (50, 10, 74), (99, 59, 99)])
def test_a_long_text_is_shown_around_its_strongest_token(peak: int, first: int, last: int) -> None:
    activations = np.zeros(100, dtype=np.float32)
    activations[peak] = 2.0
    tokens, values = shown_part(Context(0, "", [str(i) for i in range(100)], activations, 2.0))
    assert (tokens[0], tokens[-1]) == (str(first), str(last))
    assert values[tokens.index(str(peak))] == 2.0


def test_contexts_survive_being_saved(sample: list[NeuronContexts]) -> None:
    again = contexts_of(contexts_table(sample))
    assert [shown.neuron for shown in again] == [shown.neuron for shown in sample]
    for one, other in zip(again, sample, strict=True):
        assert [c.tokens for c in one.contexts] == [c.tokens for c in other.contexts]
        assert all(
            np.array_equal(a.activations, b.activations) for a, b in zip(one.contexts, other.contexts, strict=True)
        )


def test_config_of_the_paper_names_jobs_of_its_grid() -> None:
    setups = read_setups(DATA / "configs" / "paper_interpretability.toml")
    table = published("fast_interpreted_saes")
    assert len(table) == 12
    assert len(setups) == 36
    jobs = {job.name: job for job in load_grid(DATA / "configs" / "paper_grid.toml").jobs}
    rated = [jobs[setup.sae.split("/")[-2]] for setup in setups]
    assert {job.architecture for job in rated} == {"jumprelu"}
    found = {(job.model.split("/")[1], job.hook_name, job.expansion, job.method) for job in rated}
    hooks = "blocks." + table["layer"].astype(str) + ".hook_resid_post"
    rows = list(zip(table["model"], hooks, table["expansion"], strict=True))
    assert found == {(*row, method) for row in rows for method in ("btp", "btf", "fast")}
    assert all(jobs[setup.sae.split("/")[-2]].model == setup.model for setup in setups)

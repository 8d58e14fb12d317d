"""Contexts from instances: against a pass over every instance alone, and saved."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from core.build.pipeline import build
from core.catalog import find_setup
from core.errors import MissingFileError, UsageError
from core.interpretability import instances as module
from core.interpretability.contexts import saved_contexts
from core.interpretability.instances import InstanceSettings, instance_contexts, strongest_instances
from core.results.app_store import AppStore
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store

SETUP = "qwen2-jumprelu"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Iterator[Workbench]:
    root = tmp_path_factory.mktemp("instances")
    setup = find_setup(SETUP, user_setups)
    build(setup, root)
    with Store.open(root, SETUP) as store:
        yield open_workbench(setup, store)


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from core.text.prompts import dialogues

    path = tmp_path_factory.mktemp("text") / "chats.jsonl"
    rows = [{"messages": row["messages"]} for row in dialogues()[:30]] + [{"text": "A document about soup."}] * 2
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def alone(bench: Workbench, file: Path, *, special: bool) -> list[np.ndarray]:
    """Dense activations [token d_sae] of each instance, run by itself, on the tokens that count."""
    found = []
    for document in InstanceSettings(file=str(file)).read():
        model, sae = bench.model, bench.sae
        prompt = model.tokenise_chat(document.messages) if document.messages else model.tokenise(document.text)
        prompt_ids = prompt.ids[: model.n_context]
        kept = [at for at in range(len(prompt_ids)) if special or not prompt.special[at]]
        cut = type(prompt)(prompt_ids, prompt.special[: len(prompt_ids)], [])
        with torch.inference_mode():
            x = model.activations(model.pad([cut]), sae.hook_name)[0]
            found.append(sae.activate(sae.pre_activations(x[kept])).float().numpy())
    return found


@pytest.mark.parametrize("special", [False, True])
def test_the_five_strongest_equal_those_of_instances_run_alone(
    bench: Workbench, conversations: Path, special: bool
) -> None:
    settings = InstanceSettings(file=str(conversations))
    prompts = [module._tokenised(bench.model, document) for document in settings.read()]
    values, indices = strongest_instances(bench.model, bench.sae, prompts, special=special)
    largest = np.stack([a.max(0) for a in alone(bench, conversations, special=special)])
    expected = np.sort(largest, axis=0)[::-1][:5]
    assert values == pytest.approx(np.maximum(expected, 0), abs=1e-4)
    for neuron in np.flatnonzero((values > 0).all(0))[:20]:
        assert largest[indices[:, neuron], neuron] == pytest.approx(values[:, neuron], abs=1e-4)
    assert (values[0] > 0).any()


@pytest.mark.parametrize("special", [False, True])
def test_contexts_hold_the_activations_of_every_token(
    bench: Workbench, conversations: Path, tmp_path: Path, special: bool
) -> None:
    settings = InstanceSettings(file=str(conversations), neurons=10, special=special)
    found = instance_contexts(bench, settings, AppStore(tmp_path), SETUP)
    dense = alone(bench, conversations, special=special)
    assert len(found) == 10
    for shown in found:
        assert len(shown.contexts) == 5
        assert ("template tokens too" in shown.source) == special
        for context in shown.contexts:
            assert context.activations == pytest.approx(dense[context.prompt][:, shown.neuron], abs=1e-4)
            assert len(context.tokens) == len(context.activations)
    texts = [token for shown in found for context in shown.contexts for token in context.tokens]
    assert ("<|im_start|>" in texts) == special


def test_contexts_are_computed_once(
    bench: Workbench, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, results = InstanceSettings(file=str(conversations), neurons=4), AppStore(tmp_path)
    assert saved_contexts(results, SETUP) == []
    found = instance_contexts(bench, settings, results, SETUP)
    monkeypatch.setattr(module, "strongest_instances", lambda *_, **__: pytest.fail("computed again"))
    again = instance_contexts(bench, settings, results, SETUP)
    for one, other in zip(found, again, strict=True):
        assert (one.neuron, one.source) == (other.neuron, other.source)
        assert [context.tokens for context in one.contexts] == [context.tokens for context in other.contexts]
    assert [shown.neuron for shown in saved_contexts(results, SETUP)] == [shown.neuron for shown in found]
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        instance_contexts(bench, InstanceSettings(file=str(conversations), neurons=5), results, SETUP)


def test_instances_are_drawn_by_seed(conversations: Path) -> None:
    def read(seed: int) -> list[str]:
        return [d.text for d in InstanceSettings(file=str(conversations), instances=10, seed=seed).read()]

    assert read(1) == read(1) != read(2)
    assert len(read(1)) == 10
    assert len(InstanceSettings(file=str(conversations)).read()) == 32
    assert len(InstanceSettings(instances=7).read()) == 7  # bundled


def test_files_without_instances(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no text"):
        InstanceSettings(file=str(empty)).read()
    with pytest.raises(MissingFileError):
        InstanceSettings(file=str(tmp_path / "none.jsonl")).read()

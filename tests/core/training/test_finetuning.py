from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.catalog import find_setup
from core.errors import EmptyTopicError
from core.models.language_model import LanguageModel
from core.models.loading import load_language_model
from core.steering.metrics import perplexity
from core.training.finetuning import Finetuned, FinetuningSettings, finetune

PROMPTS = ["The court heard the case.", "The judge read the contract aloud."]
SETTINGS = FinetuningSettings(epochs=6, batch_size=2, lr=5e-3, seed=1)


@pytest.fixture(scope="module")
def model(user_setups: Path) -> LanguageModel:
    return load_language_model(find_setup("gpt2-topk", user_setups))


@pytest.fixture(scope="module")
def before(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.model.state_dict().items()}


@pytest.fixture(scope="module")
def finetuned(model: LanguageModel, before: dict[str, torch.Tensor]) -> Finetuned:
    return finetune(model, PROMPTS, SETTINGS)


def _perplexity(model: LanguageModel) -> float:
    tokens = [model.tokenise(prompt) for prompt in PROMPTS]
    starts = [type(t)(t.ids[:1], t.special[:1]) for t in tokens]
    return sum(perplexity(model, starts, [t.ids[1:] for t in tokens]))


def test_finetune_makes_the_prompts_likelier(model: LanguageModel, finetuned: Finetuned) -> None:
    assert len(finetuned.losses) == SETTINGS.epochs
    assert finetuned.losses[-1] < finetuned.losses[0]
    assert _perplexity(finetuned.model) < 0.8 * _perplexity(model)
    assert finetuned.seconds > 0


def test_finetune_leaves_the_model_as_it_was(model: LanguageModel, finetuned: Finetuned, before) -> None:
    after = model.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert any(not torch.equal(finetuned.model.model.state_dict()[name], weight) for name, weight in before.items())


def test_finetune_prints_nothing(model: LanguageModel, capfd: pytest.CaptureFixture[str]) -> None:
    finetune(model, PROMPTS, replace(SETTINGS, epochs=1))
    assert capfd.readouterr().out == ""


def test_finetune_is_seeded(model: LanguageModel, finetuned: Finetuned) -> None:
    assert finetune(model, PROMPTS, SETTINGS).losses == finetuned.losses


@pytest.mark.parametrize("autocast", [False, True])
def test_finetune_ends_in_the_precision_of_the_model(model: LanguageModel, autocast: bool) -> None:
    shares: list[float] = []
    settings = replace(SETTINGS, epochs=2, autocast=autocast)
    trained = finetune(model, PROMPTS, settings, shares.append)
    assert shares == [0.5, 1.0]
    assert trained.losses[1] < trained.losses[0]
    assert {weight.dtype for weight in trained.model.model.parameters()} == {torch.float32}
    module = trained.model.model
    fresh = type(module)(module.config).eval()
    fresh.load_state_dict(module.state_dict())
    ids = torch.tensor([model.tokenise(PROMPTS[0]).ids])
    assert torch.equal(module(ids).logits, fresh(ids).logits)  # the autocast of training has ended


def test_finetune_without_prompts_is_refused(model: LanguageModel) -> None:
    with pytest.raises(EmptyTopicError):
        finetune(model, [])

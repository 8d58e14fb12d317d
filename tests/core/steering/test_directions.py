"""Mean activations over ordinary tokens, against transformers' own hidden states."""

import pytest
import torch

from core.errors import UsageError
from core.models.language_model import LanguageModel
from core.steering.directions import mean_activation
from tests.fixtures.autoencoders import HOOK_LAYER, HOOK_NAME

PROMPTS = ("The surgeon mends a heart.", "Rain", "The old ship left the harbour before the storm and")


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_mean_activation_is_over_the_ordinary_tokens_of_all_prompts(name: str, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(name)
    rows = []
    for prompt in map(model.tokenise, PROMPTS):
        with torch.no_grad():
            states = model.model(torch.tensor([prompt.ids]), output_hidden_states=True).hidden_states
        rows.append(states[HOOK_LAYER + 1][0, ~torch.tensor(prompt.special)])
    expected = torch.cat(rows).mean(0)
    torch.testing.assert_close(mean_activation(model, HOOK_NAME, PROMPTS), expected, atol=1e-5, rtol=1e-5)


def test_prompt_beyond_the_context_is_cut(gpt2: LanguageModel) -> None:
    long = "rain " * 400
    cut = gpt2.tokenizer.decode(gpt2.tokenise(long, max_length=gpt2.n_context).ids[1:])
    expected = mean_activation(gpt2, HOOK_NAME, [cut])
    torch.testing.assert_close(mean_activation(gpt2, HOOK_NAME, [long]), expected, atol=1e-4, rtol=1e-4)


def test_prompts_without_a_token_are_refused(gpt2: LanguageModel) -> None:
    with pytest.raises(UsageError, match="needs prompts with at least one token"):
        mean_activation(gpt2, HOOK_NAME, [""])

"""bfloat16 where the hardware has it, and what was asked for otherwise."""

import pytest
import sae_lens
import torch
from sae_lens.saes.sae import TrainStepInput

from core.errors import TrainingConfigError
from core.training.precision import Autocast, has_bfloat16_units, in_bfloat16
from core.training.sparse_topk import SparseTopKTrainingSAE
from tests.core.training.conftest import Configure

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({}, False), ({"avx512_f": True, "amx_bf16": False}, False), ({"amx_bf16": True}, True), ({"bf16": True}, True)],
)
def test_processor_says_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bfloat16_units(CPU) == expected
    assert in_bfloat16("auto", CPU) == expected


@pytest.mark.parametrize("supported", [True, False])
def test_gpu_is_asked_without_emulation(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert has_bfloat16_units(torch.device("cuda")) == supported


@pytest.mark.parametrize("autocast", [True, False])
def test_a_plain_answer_is_taken(monkeypatch: pytest.MonkeyPatch, autocast: Autocast) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": not autocast})
    assert in_bfloat16(autocast, CPU) == autocast


def test_this_processor_is_known() -> None:
    assert {"amx_bf16", "avx512_bf16", "bf16"} & set(torch.cpu.get_capabilities())  # torch still calls them so


def test_other_answers_are_refused(configure: Configure) -> None:
    with pytest.raises(TrainingConfigError, match="autocast is true, false or 'auto', not 'bfloat16'"):
        configure(autocast="bfloat16")


def test_topk_trains_in_bfloat16() -> None:
    config = sae_lens.TopKTrainingSAEConfig(d_in=8, d_sae=32, k=4)
    sae = SparseTopKTrainingSAE(config)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    losses = []
    for autocast in (False, True):
        sae.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            step = sae.training_forward_pass(TrainStepInput(x, {}, torch.zeros(32, dtype=torch.bool), 0, False))
        step.loss.backward()
        assert all(bool(weight.grad.isfinite().all()) for weight in sae.parameters())
        losses.append(step.loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)

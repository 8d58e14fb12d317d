"""bfloat16 where the hardware has it, and what was asked for otherwise."""

import pytest
import torch

from core.errors import TrainingConfigError
from core.training.precision import Autocast, has_bfloat16_units, in_bfloat16
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

"""Whether matrix products run in bfloat16: faster on hardware with bfloat16 units, much slower elsewhere."""

from typing import Literal

import torch

Autocast = bool | Literal["auto"]

_CPU_UNITS = ("amx_bf16", "avx512_bf16", "bf16")  # as torch names them: x86, x86, Arm


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware. A CPU without such units is three times slower at it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(unit, False) for unit in _CPU_UNITS)
    return False


def in_bfloat16(autocast: Autocast, device: torch.device) -> bool:
    """Whether the setting `autocast` means bfloat16 on this device; "auto" follows the hardware."""
    return has_bfloat16_units(device) if autocast == "auto" else autocast

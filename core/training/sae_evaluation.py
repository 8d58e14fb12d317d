"""How well an SAE reconstructs held-out text: MSE, L0, explained variance, dead neurons, cross-entropy recovered.

MSE (our reading of FAST paper, Eq. 7) is the mean over sequences of the mean over tokens of ||x - x_hat||^2 / d_in.
Beside it stand the mean over all tokens pooled, and both over special tokens only, with and without the role words.
Values are raw; we read the paper's tables as log2 of them.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.catalog import Setup
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, check_fits, load_sparse_autoencoder
from core.training.activation_source import TokenBatches, kept_positions, on_device
from core.training.encoded_texts import TrainingTokens

EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError:
    """The reconstruction error over one kind of token; None if the texts have no such token."""

    by_sequence: float | None  # mean over sequences of the mean over their tokens
    pooled: float | None  # mean over all tokens
    tokens: int

    @property
    def log2(self) -> float | None:
        """log2 of the mean over sequences."""
        return None if not self.by_sequence else math.log2(self.by_sequence)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of one SAE on held-out text."""

    sequences: int
    tokens: int  # activations that the figures are over
    mse_all: MeanSquaredError
    mse_special: MeanSquaredError
    mse_special_without_roles: MeanSquaredError
    l0: float  # mean number of active neurons per token
    explained_variance: float
    dead_share: float  # share of neurons that fired on none of the tokens
    ce_model: float  # next-token cross-entropy of the unedited model, in nats per token
    ce_spliced: float  # the same with the SAE's reconstruction at the hook point
    ce_zero: float  # the same with zeros at the hook point

    @property
    def ce_recovered(self) -> float:
        """Cross-entropy recovered: 1 if the SAE changes nothing, 0 if it is as bad as zeros."""
        return (self.ce_zero - self.ce_spliced) / (self.ce_zero - self.ce_model)

    def save(self, folder: Path) -> None:
        figures = asdict(self) | {"ce_recovered": self.ce_recovered, "mse_all_log2": self.mse_all.log2}
        figures["mse_special_log2"] = self.mse_special.log2
        (folder / EVALUATION_FILE).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


class _Errors:
    """Running sums of the squared error over one kind of token."""

    def __init__(self) -> None:
        self.total, self.tokens, self.of_sequences, self.sequences = 0.0, 0, 0.0, 0

    def add(self, error: Float[Tensor, "seq pos"], where: Bool[Tensor, "seq pos"]) -> None:
        counts = where.sum(1)
        sums = (error * where).sum(1).double()
        has = counts > 0
        self.total += sums.sum().item()
        self.tokens += int(counts.sum())
        self.of_sequences += (sums[has] / counts[has]).sum().item()
        self.sequences += int(has.sum())

    def mean(self) -> MeanSquaredError:
        if not self.tokens:
            return MeanSquaredError(by_sequence=None, pooled=None, tokens=0)
        return MeanSquaredError(
            by_sequence=self.of_sequences / self.sequences, pooled=self.total / self.tokens, tokens=self.tokens
        )


class _Variance:
    """Total variance of activations: squared distances from their mean, summed over tokens and dimensions."""

    def __init__(self, d_in: int) -> None:
        self.n, self.sum, self.squares = 0, torch.zeros(d_in, dtype=torch.float64), 0.0

    def add(self, x: Float[Tensor, "token d_in"]) -> None:
        x = x.double().cpu()
        self.n, self.sum, self.squares = self.n + len(x), self.sum + x.sum(0), self.squares + x.pow(2).sum().item()

    def total(self) -> float:
        return self.squares - (self.sum.pow(2).sum() / self.n).item()


def _next_token_nats(logits: Float[Tensor, "seq pos vocab"], tokens: TrainingTokens) -> tuple[float, int]:
    """Cross-entropy summed over all tokens that follow another (nats), and the number of these tokens."""
    real = tokens.attention[:, 1:]
    nats = nn.functional.cross_entropy(logits[:, :-1][real].float(), tokens.ids[:, 1:][real], reduction="sum")
    return nats.item(), int(real.sum())


def _spliced(
    model: LanguageModel, hook_name: str, tokens: TrainingTokens, new: Tensor, where: Bool[Tensor, "seq pos"]
) -> tuple[float, int]:
    """`_next_token_nats` with the activation replaced by `new` at the given positions."""
    with model.intervene({hook_name: lambda x: torch.where(where[..., None], new.to(x), x)}):
        return _next_token_nats(model.forward(tokens), tokens)


@torch.inference_mode()
def evaluate_autoencoder(
    sae: SparseAutoencoder,
    model: LanguageModel,
    batches: TokenBatches,
    *,
    max_tokens: int,
    keep_special: bool,
    skip_first: bool = False,
) -> Evaluation:
    """Evaluates an SAE on one pass of the batches, or until `max_tokens` activations are seen.

    Args:
        keep_special: whether special tokens count in all figures and are replaced when the SAE is spliced in. If not,
            they keep their activations and only their own MSE is measured.
        skip_first: whether first positions keep their activations and are left out of every figure over activations.

    Raises:
        AutoencoderError: the SAE's width is not the model's.
    """
    errors = {name: _Errors() for name in ("all", "special", "special_without_roles")}
    variance = _Variance(sae.d_in)
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    squared_error, active, sequences = 0.0, 0, 0
    nats = {"model": 0.0, "spliced": 0.0, "zero": 0.0}
    predicted = 0
    for number in range(batches.batches_in_first_pass):
        tokens = on_device(batches.batch(number), model.device)
        x = model.activations(tokens, sae.hook_name)
        check_fits(sae, x.shape[-1], model.name)
        pre = sae.pre_activations(x)
        a = sae.activate(pre)
        x_hat = sae.decode(a, pre)
        kept = kept_positions(tokens, keep_special, skip_first=skip_first)
        special = kept_positions(tokens, True, skip_first=skip_first) & tokens.special
        error = (x - x_hat).pow(2).mean(-1)
        for name, where in zip(errors, (kept, special, special & ~tokens.role), strict=True):
            errors[name].add(error, where)
        variance.add(x[kept])
        squared_error += (error[kept].double().sum() * sae.d_in).item()
        active += int((a[kept] != 0).sum())
        fired |= (a[kept] != 0).any(0).cpu()
        sequences += len(tokens.ids)
        own, n = _next_token_nats(model.forward(tokens), tokens)
        nats["model"] += own
        nats["spliced"] += _spliced(model, sae.hook_name, tokens, x_hat, kept)[0]
        nats["zero"] += _spliced(model, sae.hook_name, tokens, torch.zeros_like(x), kept)[0]
        predicted += n
        if variance.n >= max_tokens:
            break
    return Evaluation(
        sequences=sequences,
        tokens=variance.n,
        mse_all=errors["all"].mean(),
        mse_special=errors["special"].mean(),
        mse_special_without_roles=errors["special_without_roles"].mean(),
        l0=active / variance.n,
        explained_variance=1 - squared_error / variance.total(),
        dead_share=1 - fired.float().mean().item(),
        ce_model=nats["model"] / predicted,
        ce_spliced=nats["spliced"] / predicted,
        ce_zero=nats["zero"] / predicted,
    )


def load_trained(folder: Path, device: torch.device) -> SparseAutoencoder:
    """Loads the SAE from a folder that training wrote."""
    return load_sparse_autoencoder(Setup(name=folder.parent.name, model="none", sae=str(folder)), device)

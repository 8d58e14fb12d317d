"""How well an SAE reconstructs held-out text: MSE, L0, explained variance, dead neurons, cross-entropy recovered.

MSE (our reading of FAST paper, Eq. 7) is the mean over sequences of the mean over tokens of ||x - x_hat||^2 / d_in.
Beside it stand the mean over all tokens pooled, and both over the special tokens alone: those of FAST's Table 11 (role
words and the markers around them), the markers without role words, and all tokens of the template, of which many are
line breaks. The first position stands apart. Values are raw; we read the paper's tables as log2 of them.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.catalog import Setup
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, check_fits, load_sparse_autoencoder
from core.progress import Progress
from core.training.activation_source import TokenBatches, kept_positions, on_device
from core.training.encoded_texts import TrainingTokens
from core.training.shared_activations import KeptChunks

EVALUATION_FILE = "evaluation.json"
ERRORS = ("mse_all", "mse_special", "mse_special_without_roles", "mse_template", "mse_first")  # by the kind of token


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
    mse_special: MeanSquaredError  # role words and markers (FAST paper, Table 11)
    mse_special_without_roles: MeanSquaredError
    mse_template: MeanSquaredError  # with the template's plain text: line breaks, a default system message
    mse_first: MeanSquaredError  # the first position of each sequence, an attention sink in many models
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


@dataclass(frozen=True, kw_only=True)
class HeldOutText:
    """What an SAE is evaluated on: one pass of the batches, or as much of it as `max_tokens` activations."""

    batches: TokenBatches
    max_tokens: int
    keep_special: bool  # special tokens count in all figures; if not, only their own MSE is measured
    skip_first: bool = False  # first positions are left out of every figure over activations but their own MSE
    cross_entropy_tokens: int | None = None  # tokens to predict, at three whole forward passes each; None: all
    kept: KeptChunks | None = None  # activations of the batches, shared with the evaluation of other SAEs

    def activations(
        self, number: int, tokens: TrainingTokens, model: LanguageModel, hook_name: str
    ) -> Float[Tensor, "seq pos d_in"]:
        """Activations of a batch, padding included."""
        if self.kept is None:
            return model.activations(tokens, hook_name)
        kept = self.kept.chunk(number, hook_name, lambda hook_names: model.activations_at(tokens, hook_names))
        return kept.to(model.device)


class _Reconstruction:
    """Running sums of every figure that needs the activations alone."""

    def __init__(self, sae: SparseAutoencoder, text: HeldOutText) -> None:
        self._sae, self._keep_special, self._skip_first = sae, text.keep_special, text.skip_first
        self.errors = {name: _Errors() for name in ERRORS}
        self.variance = _Variance(sae.d_in)
        self.fired = torch.zeros(sae.d_sae, dtype=torch.bool)
        self.squared_error, self.active, self.sequences = 0.0, 0, 0

    def add(
        self, tokens: TrainingTokens, x: Float[Tensor, "seq pos d_in"]
    ) -> tuple[Float[Tensor, "seq pos d_in"], Bool[Tensor, "seq pos"]]:
        """Adds a batch; returns the reconstruction and the mask of the positions that the figures are over."""
        pre = self._sae.pre_activations(x)
        a = self._sae.activate(pre)
        x_hat = self._sae.decode(a, pre)
        kept = kept_positions(tokens, self._keep_special, skip_first=self._skip_first)
        within = kept_positions(tokens, True, skip_first=self._skip_first)
        error = (x - x_hat).pow(2).mean(-1)
        first = torch.zeros_like(within)
        first[:, 0] = True
        kinds = (kept, within & (tokens.marker | tokens.role), within & tokens.marker, within & tokens.special, first)
        for errors, where in zip(self.errors.values(), kinds, strict=True):
            errors.add(error, where)
        self.variance.add(x[kept])
        self.squared_error += (error[kept].double().sum() * self._sae.d_in).item()
        active = a[kept] != 0
        self.active += int(active.sum())
        self.fired |= active.any(0).cpu()
        self.sequences += len(tokens.ids)
        return x_hat, kept

    def figures(self) -> dict[str, Any]:
        return {
            "sequences": self.sequences,
            "tokens": self.variance.n,
            **{name: errors.mean() for name, errors in self.errors.items()},
            "l0": self.active / self.variance.n,
            "explained_variance": 1 - self.squared_error / self.variance.total(),
            "dead_share": 1 - self.fired.float().mean().item(),
        }


class _CrossEntropy:
    """Running sums of the next-token cross-entropy of the model, with the SAE spliced in, and with zeros."""

    def __init__(self, model: LanguageModel, hook_name: str) -> None:
        self._model, self._hook_name = model, hook_name
        self._nats, self._predicted = dict.fromkeys(("ce_model", "ce_spliced", "ce_zero"), 0.0), 0

    @property
    def tokens(self) -> int:
        """Number of tokens predicted so far."""
        return self._predicted

    def add(self, tokens: TrainingTokens, x_hat: Float[Tensor, "seq pos d_in"], where: Bool[Tensor, "seq pos"]) -> None:
        own, n = _next_token_nats(self._model.forward(tokens), tokens)
        self._nats["ce_model"] += own
        for name, new in (("ce_spliced", x_hat), ("ce_zero", torch.zeros_like(x_hat))):
            self._nats[name] += _spliced(self._model, self._hook_name, tokens, new, where)[0]
        self._predicted += n

    def figures(self) -> dict[str, Any]:
        return {name: nats / self._predicted for name, nats in self._nats.items()}


@torch.inference_mode()
def evaluate_autoencoder(
    sae: SparseAutoencoder,
    model: LanguageModel,
    text: HeldOutText,
    progress: Progress = lambda stage, share: None,
) -> Evaluation:
    """Evaluates an SAE on held-out text. Positions outside the figures keep their activations when it is spliced in.

    Raises:
        AutoencoderError: the SAE's width is not the model's.
    """
    reconstruction, nats = _Reconstruction(sae, text), _CrossEntropy(model, sae.hook_name)
    n_batches = text.batches.batches_in_first_pass
    for number in range(n_batches):
        tokens = on_device(text.batches.batch(number), model.device)
        x = text.activations(number, tokens, model, sae.hook_name)
        check_fits(sae, x.shape[-1], model.name)
        x_hat, where = reconstruction.add(tokens, x)
        if text.cross_entropy_tokens is None or nats.tokens < text.cross_entropy_tokens:
            nats.add(tokens, x_hat, where)
        progress("held-out text", max((number + 1) / n_batches, min(1.0, reconstruction.variance.n / text.max_tokens)))
        if reconstruction.variance.n >= text.max_tokens:
            break
    return Evaluation(**reconstruction.figures(), **nats.figures())


def load_trained(folder: Path, device: torch.device) -> SparseAutoencoder:
    """Loads the SAE from a folder that training wrote."""
    return load_sparse_autoencoder(Setup(name=folder.parent.name, model="none", sae=str(folder)), device)

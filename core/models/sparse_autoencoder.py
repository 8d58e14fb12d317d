"""Sparse autoencoders as stateless functions of their weights: pre-activations, activation function, decoder.

Outside training, only this module imports sae_lens. An `sae_lens.SAE` stores the normalisation statistics
of each batch on itself, so concurrent calls would overwrite each other's. Here they are returned with the
pre-activations, and threads can share one SAE. Results equal `sae_lens` bit for bit (tested for every architecture).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.catalog import Setup
from core.errors import AutoencoderError, HubError, SteerscopeError
from core.models.codes import Encoding, Formed, PreActivations, SparseCode, sparse
from core.models.dictionary_learning import load_dictionary_learning
from core.models.first_pass import FEW_TOKENS, FirstPass, Screened
from core.models.hub import hub_or_cache
from core.models.language_model import LanguageModel
from core.models.loading import load_language_model, not_finite
from core.models.releases import is_sparsify_repository, nearest_releases
from core.models.sae_folder import ARCHITECTURES, WITHOUT_PRE_ACTIVATIONS, check_architecture, library_of
from core.models.sparsify import fetch_sparsify, load_sparsify
from core.settings import canonical_hook
from core.validated import shown

NORMALISATIONS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")
_LAYER_NORM_EPSILON = 1e-5  # as in sae_lens


@dataclass(frozen=True, kw_only=True)
class SparseAutoencoder:
    """Weights and settings of one SAE; shapes as in sae_lens: `W_enc` [d_in d_sae], `W_dec` [d_sae d_in]."""

    name: str
    architecture: str
    hook_name: str
    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, "d_in"]
    b_enc: Float[Tensor, "d_sae"]  # gated: the gate's bias
    W_mag: Float[Tensor, "d_in d_sae"] | None = None  # gated only: W_enc * exp(r_mag)
    b_mag: Float[Tensor, "d_sae"] | None = None  # gated only
    threshold: Float[Tensor, "d_sae"] | None = None  # jumprelu only
    decoder_norms: Float[Tensor, "d_sae"] | None = None  # only if pre-activations are rescaled by them
    k: int | None = None
    normalisation: str = "none"
    apply_b_dec_to_input: bool = True
    center_input: bool = False  # trained on a model whose writing weights were centred (gpt2 res-jb)
    prepend_bos: bool = True
    first_token: str | None = None  # special token that plain text began with in training; None: the tokenizer's own
    skip_first: bool = False  # first positions, attention sinks, were left out of training: edits leave them alone

    @property
    def d_in(self) -> int:
        return int(self.W_dec.shape[1])

    @property
    def d_sae(self) -> int:
        return int(self.W_dec.shape[0])

    def _normalised(
        self, x: Float[Tensor, "... d_in"]
    ) -> tuple[Float[Tensor, "... d_in"], Tensor | None, Tensor | None]:
        """The normalised input, and the (scale, shift) that undo the normalisation of a reconstruction."""
        if self.normalisation == "layer_norm":
            mean = x.mean(dim=-1, keepdim=True)
            x = x - mean
            std = x.std(dim=-1, keepdim=True)
            return x / (std + _LAYER_NORM_EPSILON), std, mean
        if self.normalisation == "constant_norm_rescale":
            coefficient = (self.d_in**0.5) / x.norm(dim=-1, keepdim=True)
            return x * coefficient, coefficient, None
        return x, None, None

    def _input(self, x: Float[Tensor, "... d_in"]) -> tuple[Float[Tensor, "... d_in"], Tensor | None, Tensor | None]:
        """What the encoder's weights are multiplied with, and the (scale, shift) of its normalisation."""
        x = x.to(self.W_enc.dtype)
        if self.center_input:
            x = x - x.mean(dim=-1, keepdim=True)
        x, scale, shift = self._normalised(x)
        return x - self.b_dec * self.apply_b_dec_to_input, scale, shift

    def pre_activations(self, x: Float[Tensor, "... d_in"]) -> PreActivations:
        """gamma of the activation `x`, exactly as the SAE's own `encode` forms it."""
        x, scale, shift = self._input(x)
        if self.architecture == "gated":
            assert self.W_mag is not None
            assert self.b_mag is not None
            return Formed(x @ self.W_mag + self.b_mag, x @ self.W_enc + self.b_enc, scale, shift)
        gamma = x @ self.W_enc + self.b_enc
        if self.decoder_norms is not None:
            gamma = gamma * self.decoder_norms
        return Formed(gamma, None, scale, shift)

    @cached_property
    def _first_pass(self) -> FirstPass | None:
        """For SAEs that need only the largest pre-activations, where the processor can."""
        if self.architecture not in ("topk", "abstopk") or self.decoder_norms is not None:
            return None
        return FirstPass.of(self.W_enc, self.b_enc)

    def _screened(self, x: Float[Tensor, "token d_in"]) -> PreActivations:
        """`pre_activations` of a few tokens by a first pass where there is one: equal up to rounding."""
        if len(x) > FEW_TOKENS or (first := self._first_pass) is None:
            return self.pre_activations(x)
        x, scale, shift = self._input(x)
        return Screened(first, x, first.rough(x), None, scale, shift)

    def activate(self, pre: PreActivations) -> Float[Tensor, "... d_sae"]:
        """a = sigma(gamma), with the SAE's own activation function."""
        gamma = pre.gamma
        match self.architecture:
            case "topk" | "abstopk":
                code = self.select(pre)
                return torch.zeros_like(gamma).scatter_(-1, code.neurons, code.values)
            case "jumprelu":
                assert self.threshold is not None
                return torch.relu(gamma) * (gamma > self.threshold).to(gamma.dtype)
            case "gated":
                assert pre.gate is not None
                return (pre.gate > 0).to(gamma.dtype) * torch.relu(gamma)
            case _:
                return torch.relu(gamma)

    def select(self, pre: PreActivations) -> SparseCode:
        """a = sigma(gamma) as sparse entries [token slot], with as many slots as the busiest token needs."""
        if self.architecture == "topk":
            assert self.k is not None
            neurons = pre.largest(self.k)
            return SparseCode(neurons, pre.at(neurons).relu())
        if self.architecture == "abstopk":
            assert self.k is not None
            neurons = pre.largest(self.k, magnitude=True)
            return SparseCode(neurons, pre.at(neurons))
        return sparse(self.activate(pre))

    def encoding(self, x: Float[Tensor, "token d_in"]) -> Encoding:
        """Pre- and post-activations of the activations `x`."""
        pre = self._screened(x)
        return Encoding(pre, self.select(pre))

    def _denormalised(self, out: Float[Tensor, "... d_in"], pre: PreActivations) -> Float[Tensor, "... d_in"]:
        if pre.scale is None:
            return out
        return out / pre.scale if pre.shift is None else out * pre.scale + pre.shift

    def decode(self, a: Float[Tensor, "... d_sae"], pre: PreActivations) -> Float[Tensor, "... d_in"]:
        """x_sae from dense post-activations; `pre` holds the normalisation to undo."""
        if self.decoder_norms is not None:
            a = a * (1 / self.decoder_norms)  # as sae_lens rounds it
        return self._denormalised(a @ self.W_dec + self.b_dec, pre)

    def decode_sparse(self, code: SparseCode, pre: PreActivations) -> Float[Tensor, "token d_in"]:
        """`decode` of sparse post-activations: reads only the decoder rows in use; equal up to rounding."""
        values = code.values
        if self.decoder_norms is not None:
            values = values * (1 / self.decoder_norms)[code.neurons]
        out = torch.nn.functional.embedding_bag(code.neurons, self.W_dec, per_sample_weights=values, mode="sum")
        return self._denormalised(out + self.b_dec, pre)


def from_sae_lens(sae: Any, name: str, hook_name: str | None = None) -> SparseAutoencoder:
    """Takes weights and settings from an `sae_lens.SAE`.

    Raises:
        AutoencoderError: an architecture without pre-activations, an unknown normalisation, or no hook point.
    """
    cfg, architecture = sae.cfg, sae.cfg.architecture()
    if architecture == WITHOUT_PRE_ACTIVATIONS:
        raise AutoencoderError(f"{name}: matching pursuit picks neurons one by one and has no pre-activations to edit")
    if architecture not in ARCHITECTURES:
        raise AutoencoderError(
            f"{name}: architecture '{architecture}' is not supported; {', '.join(ARCHITECTURES)} are"
        )
    if cfg.normalize_activations not in NORMALISATIONS:
        raise AutoencoderError(
            f"{name}: normalisation '{cfg.normalize_activations}' is not supported; fold it into the weights first"
        )
    hook = hook_name or canonical_hook(cfg.metadata.hook_name or "")
    if not hook:
        raise AutoencoderError(f"{name} does not name its hook point; set hook_name in the setup")
    weights = {key: value.detach() for key, value in sae.named_parameters()}
    gated = architecture == "gated"
    trained_on = cfg.metadata.model_from_pretrained_kwargs or {}
    rescaled = getattr(cfg, "rescale_acts_by_decoder_norm", False)
    return SparseAutoencoder(
        name=name,
        architecture=architecture,
        hook_name=hook,
        W_enc=weights["W_enc"],
        W_dec=weights["W_dec"],
        b_dec=weights["b_dec"],
        b_enc=weights["b_gate" if gated else "b_enc"],
        W_mag=weights["W_enc"] * weights["r_mag"].exp() if gated else None,
        b_mag=weights.get("b_mag"),
        threshold=weights.get("threshold"),
        decoder_norms=weights["W_dec"].norm(dim=-1) if rescaled else None,
        k=getattr(cfg, "k", None),
        normalisation=cfg.normalize_activations,
        apply_b_dec_to_input=cfg.apply_b_dec_to_input,
        center_input=bool(trained_on.get("center_writing_weights", False)),
        prepend_bos=bool(cfg.metadata.get("prepend_bos", True)),
        first_token=cfg.metadata.get("first_token"),
        skip_first=bool(cfg.metadata.get("skip_first", False)),
    )


def _loaded(setup: Setup, device: str) -> SparseAutoencoder:
    release, _, sae_id = setup.sae.partition(":")
    if setup.sae_is_release and is_sparsify_repository(setup.sae):
        fields = load_sparsify(fetch_sparsify(release, sae_id), setup.hook_name, device)
        return SparseAutoencoder(**{**fields, "name": setup.sae})
    if setup.sae_is_release:
        from sae_lens import SAE

        return from_sae_lens(SAE.from_pretrained(release, sae_id, device=device), setup.sae, setup.hook_name)
    folder = Path(setup.sae)
    match library_of(folder):
        case "sparsify":
            return SparseAutoencoder(**load_sparsify(folder, setup.hook_name, device))
        case "dictionary_learning":
            return SparseAutoencoder(**load_dictionary_learning(folder, setup.hook_name, device))
    check_architecture(folder)
    from sae_lens import SAE

    return from_sae_lens(SAE.load_from_disk(setup.sae, device=device), setup.sae, setup.hook_name)


def _check_weights(sae: SparseAutoencoder) -> None:
    """Raises AutoencoderError for weights that are no numbers, and a k that cannot be."""
    tensors = ((name, value) for name, value in vars(sae).items() if isinstance(value, Tensor))
    if (wrong := not_finite(tensors)) is not None:
        raise AutoencoderError(f"SAE '{sae.name}' holds NaN or infinity in {wrong}; copy it again")
    if "topk" in sae.architecture and not (type(sae.k) is int and 1 <= sae.k <= sae.d_sae):
        raise AutoencoderError(
            f"k of SAE '{sae.name}' is a whole number from 1 to its {sae.d_sae} neurons, not {shown(sae.k)}"
        )


def load_sparse_autoencoder(setup: Setup, device: str | torch.device = "cpu") -> SparseAutoencoder:
    """Loads the setup's SAE from a folder, from an sae_lens release (`release:id`) or a repository of sparsify.

    Raises:
        AutoencoderError: no such folder or release, or an SAE of an unsupported kind.
        UnsafeWeightsError: the folder has no safetensors weights.
        HubError: the release is neither cached nor can it be downloaded.
    """
    with hub_or_cache() if setup.sae_is_release else nullcontext() as unreachable:
        try:
            sae = _loaded(setup, str(device))
        except SteerscopeError:
            raise
        except Exception as exc:  # settings of the wrong shape make sae_lens raise whatever its code stumbles over
            if setup.sae_is_release and isinstance(exc, OSError):
                reason = unreachable or str(exc).splitlines()[0]
                raise HubError(
                    f"cannot fetch SAE '{setup.sae}' ({reason}); connect, or give a folder as `sae`"
                ) from exc
            reason = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
            raise AutoencoderError(f"cannot load SAE '{setup.sae}': {reason}{_releases(setup)}") from exc
    _check_weights(sae)
    return sae


def _releases(setup: Setup) -> str:
    """The nearest releases, where the setup names one."""
    near = nearest_releases(setup.sae.partition(":")[0]) if setup.sae_is_release else []
    return f"; releases like it are {'; '.join(near)}" if near else ""


def check_fits(sae: SparseAutoencoder, d_in: int, model_name: str) -> None:
    """Raises AutoencoderError unless the SAE's d_in is `d_in`, the width of the model's activation."""
    if sae.d_in != d_in:
        raise AutoencoderError(
            f"SAE '{sae.name}' reads {sae.d_in} dimensions at {sae.hook_name}, but {model_name} has {d_in} there"
        )


def load_setup(setup: Setup) -> tuple[LanguageModel, SparseAutoencoder]:
    """Loads the setup's model and SAE to one device; the model follows the SAE's `prepend_bos`.

    Raises:
        ModelFolderError, AutoencoderError, UnsafeWeightsError, HubError: see the loaders.
        UnknownHookError: the model has no such hook point.
    """
    model = load_language_model(setup)
    sae = load_sparse_autoencoder(setup, model.device)
    model.prepend_bos = sae.prepend_bos
    model.first_token = setup.first_token or sae.first_token
    model.hook_site(sae.hook_name)  # an unknown hook point fails here rather than minutes later
    return model, sae

"""The language model: tokenisation that marks special positions, and interventions at hook points.

Outside training, only `core.models` imports transformers, and only this module transformer_lens. The model runs
unwrapped, as transformers loads it; `TransformerBridge` only tells which of its modules a hook name refers to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Literal, cast
from unittest.mock import patch

import torch
from jaxtyping import Float
from jinja2 import TemplateError
from torch import Tensor, nn

from core.errors import ConversationError, ModelFolderError, UnknownHookError, in_one_line
from core.models.tokens import TokenisedPrompt, Tokens
from core.settings import canonical_hook
from core.text.chat_template import ROLES, encode_conversation, encode_text

Intervention = Callable[[Tensor], Tensor | None]  # takes the activation, returns its replacement; None: unchanged

# this thread's interventions by (model, hook name); a context variable, so that no thread sees another's edits
_interventions: ContextVar[Mapping[tuple[int, str], Intervention]] = ContextVar(
    "interventions", default=MappingProxyType({})
)


_MARGIN_TOKENS = 32  # read beyond those that are kept, so that the cut does not change how the last ones are joined


@contextmanager
def _without_processor() -> Iterator[None]:
    """Keeps transformer_lens from looking for the image processor of a model that takes images, too.

    Where it finds none it runs `pip install torchvision`, which replaces torch by whatever version that asks for.
    """
    from transformers import AutoProcessor

    with patch.object(AutoProcessor, "from_pretrained", return_value=None):
        yield


class _StopForward(Exception):  # noqa: N818 - a signal, not an error
    """Ends a forward pass at the hook point, once the activation has been captured."""


@dataclass(frozen=True)
class HookSite:
    """Where a hook point is in the native model: at the input or the output of one of its modules."""

    hook_name: str
    module_path: str
    side: Literal["hook_in", "hook_out"]


class LanguageModel:
    """A causal language model with its tokenizer, its device and its hook points."""

    def __init__(
        self, name: str, model: Any, tokenizer: Any, *, chat: bool = False, first_token: str | None = None
    ) -> None:
        self.name = name
        self.place = name  # what transformers loads it from: not the name of a GGUF file, but its folder
        self.model = model
        self.tokenizer = tokenizer
        self.chat = chat
        self.first_token = first_token  # special token that plain text begins with; None: the tokenizer's own
        self.prepend_bos = True  # as the SAE was trained; set from its metadata
        self.device = next(model.parameters()).device
        config = model.config.get_text_config()
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self.n_context: int = config.max_position_embeddings
        self._sites: dict[str, HookSite] = {}
        self._lock = threading.Lock()

    # ---- tokens ----

    @property
    def first_token_id(self) -> int:
        """Id of the first token of plain text: the setup's, else the tokenizer's BOS, else its EOS (GPT-2).

        Raises:
            ModelFolderError: the setup's first token is not a special token of the tokenizer.
        """
        if self.first_token is not None:
            known = {str(token): i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
            if self.first_token not in known:
                raise ModelFolderError(
                    f"first_token {self.first_token!r} is not a special token of {self.name}; it has {', '.join(known)}"
                )
            return int(known[self.first_token])
        bos = self.tokenizer.bos_token_id
        return int(bos if bos is not None else self.tokenizer.eos_token_id)

    @property
    def end_token_ids(self) -> list[int]:
        """Ids of the tokens that end a generation."""
        end = self.model.generation_config.eos_token_id
        if end is None:
            end = self.tokenizer.eos_token_id
        return [] if end is None else [int(i) for i in (end if isinstance(end, list) else [end])]

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(self.tokenizer.chat_template)

    def tokenise(
        self, text: str, *, generate: bool = False, max_length: int | None = None, chat: bool | None = None
    ) -> TokenisedPrompt:
        """Tokenises a prompt: after the first token, or in a chat as a user's message in the chat template.

        Args:
            generate: in a chat, append the header of the assistant's turn.
            max_length: truncate to this many tokens.
            chat: whether it is a chat; None: as the setup says.
        """
        if self.chat if chat is None else chat:
            return self.tokenise_chat([{"role": "user", "content": text}], generate=generate, max_length=max_length)
        ids = list(encode_text(self.tokenizer, text[: self._readable(max_length)]).input_ids)
        special = [False] * len(ids)
        if self.prepend_bos:
            ids, special = [self.first_token_id, *ids], [True, *special]
        return TokenisedPrompt(ids[:max_length], special[:max_length])

    def _readable(self, max_length: int | None) -> int:
        """Characters that hold more tokens than are read: what follows costs time and memory, and is cut off unread."""
        return ((max_length or self.n_context) + _MARGIN_TOKENS) * self._longest_token

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self.tokenizer.get_vocab()))  # in bytes, as most vocabularies write them, or characters

    def tokenise_chat(
        self, messages: Sequence[Mapping[str, str]], *, generate: bool = False, max_length: int | None = None
    ) -> TokenisedPrompt:
        """Tokenises a conversation with the chat template; all tokens but those of the messages' contents are special.

        Raises:
            ModelFolderError: the tokenizer has no chat template.
            ConversationError: the template refuses the conversation, a system message for example.
        """
        if not self.has_template:
            raise ModelFolderError(f"the tokenizer of {self.name} has no chat template; use a setup with chat = false")
        readable = self._readable(max_length)
        cut = [{**message, "content": message["content"][:readable]} for message in messages]
        try:
            ids, roles = encode_conversation(self.tokenizer, cut, generate=generate)
        except TemplateError as exc:
            raise ConversationError(f"the chat template of {self.name} refuses it: {in_one_line(exc)}") from None
        return TokenisedPrompt(ids[:max_length], [not role for role in roles[:max_length]], roles[:max_length])

    def pad(self, prompts: Sequence[TokenisedPrompt], side: Literal["left", "right"] = "right") -> Tokens:
        """Pads prompts of different lengths to one batch, [prompt pos], on the model's device."""
        longest = max(len(prompt.ids) for prompt in prompts)
        ids = torch.zeros((len(prompts), longest), dtype=torch.long)  # never attended to: any token will do
        attention = torch.zeros((len(prompts), longest), dtype=torch.bool)
        special = torch.ones((len(prompts), longest), dtype=torch.bool)
        roles = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            n = len(prompt.ids)
            place = slice(longest - n, longest) if side == "left" else slice(0, n)
            ids[row, place] = torch.tensor(prompt.ids)
            attention[row, place] = True
            special[row, place] = torch.tensor(prompt.special)
            roles[row, place] = torch.tensor([ROLES.get(role, 0) for role in prompt.roles or [""] * n])
        ids, attention, special, roles = (t.to(self.device) for t in (ids, attention, special, roles))
        return Tokens(ids, attention, special, roles=roles if all(prompt.roles for prompt in prompts) else None)

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token as text, with its leading space."""
        return [self.tokenizer.decode([int(i)]) for i in ids]

    # ---- hook points ----

    @cached_property
    def _bridge(self) -> Any:
        """A `TransformerBridge` around a copy of the model without weights, to look up hook names."""
        from transformer_lens.model_bridge import TransformerBridge
        from transformers import AutoModelForCausalLM

        def booted(device: str) -> Any:
            with torch.device("meta"):
                skeleton = AutoModelForCausalLM.from_config(self.model.config)
            if device != "meta":
                skeleton = skeleton.to_empty(device=device)
            return TransformerBridge.boot_transformers(
                self.name, hf_model=skeleton, tokenizer=self.tokenizer, device=device
            )

        with _without_processor():
            try:
                return booted("meta")
            except NotImplementedError:  # booting splits a fused QKV projection: that needs memory, not real weights
                return booted("cpu")

    def hook_site(self, hook_name: str) -> HookSite:
        """The native module, and which side of it, that a TransformerLens hook name refers to.

        Raises:
            UnknownHookError: no such hook point, or it is not the input or output of a single module.
        """
        hook_name = canonical_hook(hook_name)
        if hook_name not in self._sites:
            site = self._find_site(hook_name)
            if site is None:
                last = self.n_layers - 1
                known = (
                    f"blocks.0 to blocks.{last}, each with hook_resid_pre, hook_resid_post, hook_mlp_out, attn.hook_z"
                )
                raise UnknownHookError(hook_name, self.name, known)
            self._sites[hook_name] = self._install(site)
        return self._sites[hook_name]

    def _find_site(self, hook_name: str) -> HookSite | None:
        point = self._bridge.hook_dict.get(hook_name)
        component, _, side = (point.name if point is not None else "").rpartition(".")
        # the bridge reads hook_resid_mid at the input of a norm: an edit there would miss the residual branch
        if side not in ("hook_in", "hook_out") or not component or hook_name.endswith("hook_resid_mid"):
            return None
        path = self._bridge.adapter.translate_transformer_lens_path(component)
        try:
            self.model.get_submodule(path)
        except AttributeError:  # the bridge splits a fused query, key and value projection; the model does not
            return None
        return HookSite(hook_name, path, cast(Literal["hook_in", "hook_out"], side))

    def _install(self, site: HookSite) -> HookSite:
        """Registers one permanent hook at the site; it runs the current thread's intervention, if there is one."""
        module: nn.Module = self.model.get_submodule(site.module_path)
        key = (id(self), site.hook_name)

        def on_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            intervention = _interventions.get().get(key)
            if intervention is None:
                return None
            if args:
                new = intervention(args[0])
                return None if new is None else ((new, *args[1:]), kwargs)
            new = intervention(kwargs["hidden_states"])
            return None if new is None else (args, {**kwargs, "hidden_states": new})

        def on_output(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            intervention = _interventions.get().get(key)
            if intervention is None:
                return None
            # blocks return a tensor or a tuple, by architecture and version of transformers
            if isinstance(output, tuple):
                new = intervention(output[0])
                return None if new is None else (new, *output[1:])
            return intervention(output)

        with self._lock:
            if site.hook_name not in self._sites:
                if site.side == "hook_in":
                    module.register_forward_pre_hook(on_input, with_kwargs=True)
                else:
                    module.register_forward_hook(on_output)
                self._sites[site.hook_name] = site
        return site

    @contextmanager
    def intervene(self, interventions: Mapping[str, Intervention]) -> Iterator[None]:
        """Applies each intervention at its hook point, in this thread only, until the context exits.

        Raises:
            UnknownHookError: see `hook_site`.
        """
        mine = {(id(self), self.hook_site(name).hook_name): made for name, made in interventions.items()}
        token = _interventions.set({**_interventions.get(), **mine})
        try:
            yield
        finally:
            _interventions.reset(token)

    # ---- forward passes ----

    def activations(self, tokens: Tokens, hook_name: str) -> Float[Tensor, "prompt pos d_in"]:
        """Activations at a hook point; the forward pass stops there."""
        return self.activations_at(tokens, [hook_name])[hook_name]

    @torch.inference_mode()
    def activations_at(self, tokens: Tokens, hook_names: Sequence[str]) -> dict[str, Float[Tensor, "prompt pos d_in"]]:
        """Activations at several hook points by one forward pass, which stops at the last of them."""
        seen: dict[str, Tensor] = {}

        def catch(hook_name: str, x: Tensor) -> None:
            seen[hook_name] = x
            if len(seen) == len(set(hook_names)):
                raise _StopForward

        with self.intervene({name: partial(catch, name) for name in hook_names}):
            try:
                self.forward(tokens)
            except _StopForward:
                return seen
        missing = next(name for name in hook_names if name not in seen)
        raise UnknownHookError(missing, self.name, "no forward pass through it")

    @torch.inference_mode()
    def forward(
        self, tokens: Tokens, cache: Any = None, *, position_ids: Tensor | None = None, last_only: bool = False
    ) -> Float[Tensor, "prompt pos vocabulary"]:
        """Logits of a batch, or with `last_only` those of its last position.

        With a cache, `tokens.ids` holds only the new tokens, while `tokens.attention` covers the cached ones too.
        """
        output = self.model(
            input_ids=tokens.ids,
            attention_mask=tokens.attention.long(),
            position_ids=tokens.position_ids if position_ids is None else position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
            **({"logits_to_keep": 1} if last_only else {}),
        )
        return output.logits  # type: ignore[no-any-return]

    def new_cache(self) -> Any:
        """An empty key-value cache."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    @torch.inference_mode()
    def unembed(self, directions: Float[Tensor, "direction d_model"]) -> Float[Tensor, "direction vocabulary"]:
        """Logit lens of residual-stream directions: each direction times the unembedding matrix."""
        weight = self.model.get_output_embeddings().weight
        return cast(Tensor, directions.to(weight) @ weight.T)

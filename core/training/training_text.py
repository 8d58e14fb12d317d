"""Turns the sources of a config into batches of tokens, by the config's method; encoded texts are cached on disk."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import CheckpointError, TrainingConfigError
from core.files import exclusive_lock
from core.models.language_model import LanguageModel
from core.training.activation_source import TokenBatches
from core.training.autoencoder_config import AutoencoderConfig
from core.training.blocks import BlockBatches
from core.training.conversations import ConversationBatches, encode_conversations
from core.training.corpus import Document, TextSource, encode_documents, is_held_out, read_documents
from core.training.deduplication import Deduplicator
from core.training.encoded_texts import CONTENT, MARKER, EncodedTexts
from core.training.hub_text import is_hub_source, read_hub_documents
from core.training.sae_evaluation import HeldOutText
from core.training.shared_activations import KeptChunks


def documents_of(source: TextSource, text_folder: Path) -> Iterator[Document]:
    """All documents of a source, which is a file or a Hugging Face dataset."""
    if is_hub_source(source.path):
        return islice(read_hub_documents(source.path), source.limit)
    return islice(read_documents(_file(source, text_folder)), source.limit)


def _file(source: TextSource, text_folder: Path) -> Path:
    """The source's path: below the text folder, or below the working folder if it starts with './'."""
    return Path(source.path) if source.path.startswith("./") else text_folder / source.path


def new_deduplicator(config: AutoencoderConfig) -> Deduplicator | None:
    """What deduplicates the conversations of a config; None if they are not."""
    if config.method == "btp" or not config.n_gram:
        return None
    return Deduplicator(config.n_gram, max_bytes=config.deduplication_mb * 2**20)


def chosen_documents(
    config: AutoencoderConfig, text_folder: Path, *, held_out: bool, deduplicator: Deduplicator | None = None
) -> Iterator[Document]:
    """The training or the held-out documents of all sources, a random `share` of each.

    Held-out documents are few, so their shares are scaled up until the largest is 1: more text, the same mixture.
    Conversations are deduplicated before the split, so no n-gram is on both sides.

    Args:
        deduplicator: a new one, which counts what it drops; None: the config's own, if it has one.
    """
    largest = max(source.share for source in config.sources)
    deduplicator = deduplicator or new_deduplicator(config)
    for number, source in enumerate(config.sources):
        rng = np.random.default_rng(number)
        for document in documents_of(source, text_folder):
            draw = rng.random() * largest
            if draw >= source.share:
                continue
            if deduplicator and document.messages and not deduplicator.is_new(document.messages):
                continue
            on_this_side = (source.whole or is_held_out(document)) == held_out
            if on_this_side and (held_out or draw < source.share * largest):
                yield document


def _plain_texts(documents: Iterator[Document], tokenizer: Any, end: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Token ids and kinds of plain documents, each followed by the token `end`, which separates documents."""
    for ids in encode_documents((d.text for d in documents), tokenizer.backend_tokenizer, end):
        kinds = np.full(len(ids), CONTENT, dtype=np.uint8)
        kinds[-1] = MARKER
        yield ids, kinds


def run_alone(
    documents: Iterator[Document], model: LanguageModel, refused: list[str] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Token ids and kinds of texts that run alone: chats in their template, plain documents after the first token."""
    for is_chat, group in groupby(documents, key=lambda document: bool(document.messages)):
        if is_chat:
            yield from encode_conversations(group, model, refused)
        else:
            for ids, kinds in _plain_texts(group, model.tokenizer, model.first_token_id):
                yield np.roll(ids, 1), np.roll(kinds, 1)


def _as_message(document: Document) -> Document:
    return replace(document, messages=({"role": "user", "content": document.text},))


def encoded_texts(
    config: AutoencoderConfig, model: LanguageModel, text_folder: Path, cache_folder: Path, *, held_out: bool
) -> EncodedTexts:
    """The texts of a config as the model's tokens, from the cache if they are there.

    Raises:
        MissingFileError, PromptFileError, EmptyDatasetError, ConversationError, HubError: the sources cannot be used.
        CheckpointError: the disk is full.
    """
    folder = cache_folder / _cache_name(config, model, text_folder, held_out)
    if not folder.exists():
        try:
            cache_folder.mkdir(parents=True, exist_ok=True)
            # parallel jobs of a grid need the same texts: one encodes them, the others wait
            with exclusive_lock(folder.with_suffix(".lock"), busy="", timeout_s=math.inf):
                if not folder.exists():
                    _encode(config, model, text_folder, held_out=held_out).save(folder)
        except OSError as exc:
            raise CheckpointError(folder, None, exc) from exc
    return EncodedTexts.load(folder)


def _encode(config: AutoencoderConfig, model: LanguageModel, text_folder: Path, *, held_out: bool) -> EncodedTexts:
    deduplicator = new_deduplicator(config)
    documents = chosen_documents(config, text_folder, held_out=held_out, deduplicator=deduplicator)
    refused: list[str] = []
    match config.method:
        case "fast":
            texts = run_alone(documents, model, refused)
        case "btf":
            texts = encode_conversations(documents, model, refused)
        case "btp":
            texts = _plain_texts(documents, model.tokenizer, model.first_token_id)
            if config.in_template:
                texts = encode_conversations(map(_as_message, documents), model, refused)
    names = ", ".join(source.path for source in config.sources)
    joined = EncodedTexts.join(texts, f"no {'held-out' if held_out else 'training'} text in {names}", refused)
    counts = (deduplicator.dropped, deduplicator.read) if deduplicator else (0, 0)
    return replace(joined, duplicates=counts)


def _cache_name(config: AutoencoderConfig, model: LanguageModel, text_folder: Path, held_out: bool) -> str:
    """A name that changes with everything that the encoded texts depend on."""
    files = [_file(source, text_folder) for source in config.sources]
    chat = config.method != "btp" or config.in_template
    parts = {
        "sources": [asdict(replace(source, licence="")) for source in config.sources],
        "sizes": [file.stat().st_size if file.exists() else 0 for file in files],
        "template": model.tokenizer.chat_template if chat else None,
        "n_gram": config.n_gram if chat else None,
        "held_out": held_out,
        "method": config.method,
        "first_token": model.first_token_id,
        "kinds": "content, template, role, marker",
    }
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8)
    digest.update(model.tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()


def token_batches(
    config: AutoencoderConfig, model: LanguageModel, text_folder: Path, cache_folder: Path, *, held_out: bool = False
) -> TokenBatches:
    """The batches of the config's method; the order of held-out batches does not depend on the config's seed.

    Raises:
        TrainingConfigError: blocks are longer than the model's context.
        MissingFileError, PromptFileError, EmptyDatasetError, ConversationError, HubError: the sources cannot be used.
    """
    texts = encoded_texts(config, model, text_folder, cache_folder, held_out=held_out)
    seed = 0 if held_out else config.seed_of_order
    if config.method == "fast":
        return ConversationBatches(
            texts,
            max_tokens=min(config.max_conversation_tokens, model.n_context),
            tokens_per_batch=config.forward_tokens,
            seed=seed,
        )
    if config.context_size > model.n_context:
        raise TrainingConfigError(
            f"context_size may be at most what {model.name} reads, {model.n_context}; it is {config.context_size}"
        )
    per_batch = max(1, config.forward_tokens // config.context_size)
    return BlockBatches(texts, context_size=config.context_size, blocks_per_batch=per_batch, seed=seed)


def evaluation_config(config: AutoencoderConfig) -> AutoencoderConfig:
    """The config by which held-out texts are formed.

    Where `evaluation_sources` are named, conversations run alone and special tokens count; otherwise as in training.
    """
    skip_first = config.skip_first if config.evaluation_skip_first is None else config.evaluation_skip_first
    config = replace(config, skip_first=skip_first)
    if not config.evaluation_sources:
        return config
    return replace(
        config, sources=config.evaluation_sources, method="fast", keep_special=True, in_template=False, variant=None
    )


def held_out_text(
    config: AutoencoderConfig, model: LanguageModel, text_folder: Path, cache_folder: Path, kept: KeptChunks | None
) -> HeldOutText:
    """What the SAE of a config is evaluated on; `kept` holds activations shared with other SAEs.

    Raises:
        TrainingConfigError, MissingFileError, PromptFileError, EmptyDatasetError, ConversationError, HubError: see
            `token_batches`.
    """
    judged_on = evaluation_config(config)
    return HeldOutText(
        batches=token_batches(judged_on, model, text_folder, cache_folder, held_out=True),
        max_tokens=config.evaluation_tokens,
        keep_special=judged_on.keep_special,
        skip_first=judged_on.skip_first,
        cross_entropy_tokens=config.cross_entropy_tokens,
        kept=kept,
    )

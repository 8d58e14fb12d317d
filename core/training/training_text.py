"""From the sources of a config to batches of tokens, by the config's method; encoded texts are kept for later jobs."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.language_model import LanguageModel
from core.training.activation_source import TokenBatches
from core.training.autoencoder_config import AutoencoderConfig
from core.training.blocks import BlockBatches
from core.training.corpus import Document, TextSource, encode_documents, is_held_out, read_documents
from core.training.encoded_texts import CONTENT, TEMPLATE, EncodedTexts


def chosen_documents(sources: tuple[TextSource, ...], text_folder: Path, *, held_out: bool) -> Iterator[Document]:
    """The documents of all sources on one side of the split, a random `share` of each source.

    Held-out documents are few, so that the largest share counts as 1; the mixture stays the same.
    """
    largest = max(source.share for source in sources)
    for number, source in enumerate(sources):
        share = source.share / largest if held_out else source.share
        rng = np.random.default_rng(number)
        for document in read_documents(text_folder / source.path):
            if rng.random() < share and is_held_out(document) == held_out:
                yield document


def _plain_texts(documents: Iterator[Document], tokenizer: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and kinds of documents, each ended by the end-of-text token."""
    for ids in encode_documents((d.text for d in documents), tokenizer.backend_tokenizer, tokenizer.eos_token_id):
        kinds = np.full(len(ids), CONTENT, dtype=np.uint8)
        kinds[-1] = TEMPLATE
        yield ids, kinds


def encoded_texts(
    config: AutoencoderConfig, model: LanguageModel, text_folder: Path, cache_folder: Path, *, held_out: bool
) -> EncodedTexts:
    """The texts of a config in the model's tokens, from the cache where they are there.

    Raises:
        MissingFileError, PromptFileError, EmptyDatasetError: the sources.
    """
    folder = cache_folder / _cache_name(config, model.tokenizer, text_folder, held_out)
    if not folder.exists():
        documents = chosen_documents(config.sources, text_folder, held_out=held_out)
        what = f"the {'held-out' if held_out else 'training'} side of {', '.join(s.path for s in config.sources)}"
        EncodedTexts.join(_plain_texts(documents, model.tokenizer), what).save(folder)
    return EncodedTexts.load(folder)


def _cache_name(config: AutoencoderConfig, tokenizer: Any, text_folder: Path, held_out: bool) -> str:
    """Changes with whatever the encoded texts depend on."""
    files = [(text_folder / source.path) for source in config.sources]
    parts = {
        "sources": [asdict(replace(source, licence="")) for source in config.sources],
        "sizes": [file.stat().st_size if file.exists() else 0 for file in files],
        "chat": config.method != "btp",
        "template": tokenizer.chat_template,
        "held_out": held_out,
    }
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8)
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()


def token_batches(
    config: AutoencoderConfig, model: LanguageModel, text_folder: Path, cache_folder: Path, *, held_out: bool = False
) -> TokenBatches:
    """The batches of the config's method; held-out ones for evaluation come in an order of their own.

    Raises:
        MissingFileError, PromptFileError, EmptyDatasetError: the sources.
    """
    texts = encoded_texts(config, model, text_folder, cache_folder, held_out=held_out)
    return BlockBatches(
        texts,
        context_size=config.context_size,
        blocks_per_batch=max(1, config.forward_tokens // config.context_size),
        seed=0 if held_out else config.seed,
    )

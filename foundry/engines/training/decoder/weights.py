"""Hugging Face checkpoints in and out of the decoder."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from foundry.engines.model_files import (
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION_CONFIG,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    WEIGHTS_INDEX,
)
from foundry.engines.training.decoder.model import Decoder, DecoderConfig
from foundry.engines.training.files import write_json, write_tensors
from foundry.errors import InvalidArtifact

_CARRIED = (TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, CHAT_TEMPLATE, GENERATION_CONFIG)


def load_model(
    model_dir: Path,
    *,
    dtype: torch.dtype = torch.float32,
    compute_dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Decoder:
    """Build the decoder and fill it; no tensor exists twice.

    Args:
        dtype: of the stored weights.
        compute_dtype: of the activations.

    Raises:
        InvalidArtifact: files are missing, broken, or do not fit config.json.
        UnsupportedFeature: not a Llama.
    """
    config = DecoderConfig.load(model_dir)
    with torch.device("meta"):
        model = Decoder(config, compute_dtype)
    missing = {name for name, _ in model.named_parameters()}
    for name, tensor in _tensors(model_dir):
        if name not in missing:
            continue  # a tied lm_head may be stored as well
        _assign(model, name, tensor.to(device=device, dtype=dtype))
        missing.discard(name)
    if missing:
        raise InvalidArtifact(f"weights lack {min(missing)} ({len(missing)} tensors in all)")
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def _tensors(model_dir: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        for shard in _shards(model_dir):
            with safe_open(shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - the handle is no mapping
                    yield name, file.get_tensor(name)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InvalidArtifact(f"the weights of {model_dir.name} cannot be read: {error}") from error


def _shards(model_dir: Path) -> list[Path]:
    index = model_dir / WEIGHTS_INDEX
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
        return [model_dir / Path(name).name for name in sorted(names)]
    return [model_dir / WEIGHTS]


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    expected = owner.get_parameter(leaf).shape
    if value.shape != expected:
        raise InvalidArtifact(
            f"{name} has shape {tuple(value.shape)}, config.json says {tuple(expected)}"
        )
    # A copy: the tensor may be a view of a mapped file, which fine-tuning must not write to.
    setattr(owner, leaf, nn.Parameter(value.clone()))


def export_model(model: Decoder, source_dir: Path, out_dir: Path, dtype: torch.dtype) -> None:
    """Write a complete Hugging Face directory; all but the weights comes from `source_dir`."""
    tensors = {name: value.to(dtype) for name, value in model.named_parameters()}
    write_tensors(out_dir / WEIGHTS, tensors)
    config = json.loads((source_dir / CONFIG).read_text())
    name = str(dtype).removeprefix("torch.")
    config.update({key: name for key in ("dtype", "torch_dtype") if key in config})
    write_json(out_dir / CONFIG, config)
    for carried in _CARRIED:
        if (source_dir / carried).is_file():
            shutil.copyfile(source_dir / carried, out_dir / carried)

"""Hugging Face checkpoints in and out of the decoder."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from foundry.engines.model_files import (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER_FILES,
    WEIGHTS,
    WEIGHTS_INDEX,
)
from foundry.engines.training.decoder.casting import dither
from foundry.engines.training.decoder.layout import (
    HEAD,
    Slot,
    is_leftover,
    list_slots,
    missing_tensors,
    unexpected_tensor,
)
from foundry.engines.training.decoder.model import Decoder, DecoderConfig
from foundry.engines.training.files import write_json, write_tensors
from foundry.errors import InvalidArtifact

_CARRIED = (*TOKENIZER_FILES, GENERATION_CONFIG)


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
        UnsupportedFeature: an architecture, or a variant of one, that the decoder lacks.
    """
    config = DecoderConfig.load(model_dir)
    with torch.device("meta"):
        model = Decoder(config, compute_dtype)
    slots = list_slots(config)
    missing = set(slots)
    stored_head = None
    for name, tensor in _tensors(model_dir):
        if name in slots:
            _fill(model, name, slots[name], tensor.to(device=device, dtype=dtype))
            missing.discard(name)
        elif not is_leftover(config, name):
            raise unexpected_tensor(config, name)
        elif name == HEAD:
            stored_head = tensor
    if missing:
        raise missing_tensors(missing)
    if config.tie_word_embeddings:
        _tie(model, stored_head)
    return model


def _tie(model: Decoder, stored_head: Tensor | None) -> None:
    embedding = model.model.embed_tokens.weight
    if stored_head is not None and not torch.equal(
        stored_head.to(device=embedding.device, dtype=embedding.dtype), embedding
    ):
        raise InvalidArtifact(
            f"config.json says that {HEAD} is the embedding, but the weights hold another one: "
            "set tie_word_embeddings to false"
        )
    model.lm_head.weight = embedding


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


def _fill(model: nn.Module, name: str, slot: Slot, value: Tensor) -> None:
    path, _, leaf = slot.parameter.rpartition(".")
    owner = model.get_submodule(path)
    parameter = owner.get_parameter(leaf)
    expected = parameter.shape if slot.expert is None else parameter.shape[1:]
    if value.shape != expected:
        raise InvalidArtifact(
            f"{name} has shape {tuple(value.shape)}, config.json says {tuple(expected)}"
        )
    if slot.expert is None:
        # A copy: the tensor may be a view of a mapped file, which fine-tuning must not write to.
        setattr(owner, leaf, nn.Parameter(value.clone()))
        return
    if parameter.is_meta:
        parameter = nn.Parameter(value.new_empty(parameter.shape))
        setattr(owner, leaf, parameter)
    parameter.data[slot.expert] = value


def export_model(model: Decoder, source_dir: Path, out_dir: Path, dtype: torch.dtype) -> None:
    """Write a complete Hugging Face directory; all but the weights comes from `source_dir`.

    The weights lie in the family's own layout, cast as they were for training.
    """
    values = {name: dither(p.detach(), dtype) for name, p in model.named_parameters()}
    tensors = {}
    for name, slot in list_slots(model.config).items():
        value = values[slot.parameter]
        tensors[name] = value if slot.expert is None else value[slot.expert]
    write_tensors(out_dir / WEIGHTS, tensors)
    config = json.loads((source_dir / CONFIG).read_text())
    name = str(dtype).removeprefix("torch.")
    config.update({key: name for key in ("dtype", "torch_dtype") if key in config})
    write_json(out_dir / CONFIG, config)
    for pattern in _CARRIED:
        for source in source_dir.glob(pattern):
            target = out_dir / source.relative_to(source_dir)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)

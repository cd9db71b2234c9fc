"""Low-rank adapters: which parameters are trained, and PEFT's file format."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from foundry.engines.adapter_config import find_unserved_options
from foundry.engines.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from foundry.engines.training.config import TARGET_MODULES, Lora
from foundry.engines.training.decoder.dropout import Draws
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.projection import Projection
from foundry.engines.training.files import write_json, write_tensors
from foundry.errors import FoundryError, InvalidArtifact, UnsupportedFeature

_PREFIX = "base_model.model."


def attach(model: Decoder, config: Lora, seed: int) -> Draws:
    """Freeze the base and put an adapter beside every declared projection.

    Returns what decides the dropout masks, for the learner.

    Raises:
        UnsupportedFeature: this architecture cannot have these adapters.
    """
    model.config.check_adapter_targets(config.targets)
    model.requires_grad_(False)
    generator, draws = torch.Generator().manual_seed(seed), Draws(seed)
    for place, (_, projection) in enumerate(_targets(model, config.modules)):
        projection.attach(config.rank, config.alpha, config.dropout, generator, draws, place)
    return draws


def declared_names(model: Decoder, config: Lora) -> set[str]:
    """The parameters that a run with this method trains, and no others."""
    return {
        f"{name}.{matrix}"
        for name, _ in _targets(model, config.modules)
        for matrix in ("lora_A", "lora_B")
    }


def trainable(model: nn.Module, declared: Iterable[str]) -> dict[str, nn.Parameter]:
    """The trained parameters by name.

    Raises:
        FoundryError: they are not the declared ones. A silent full fine-tune, or an adapter that
            never learns, is worse than a stop.
    """
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if difference := set(declared) ^ set(found):
        raise FoundryError(f"trained parameters differ from the declared set: {min(difference)}")
    return found


def _targets(model: Decoder, modules: Iterable[str]) -> list[tuple[str, Projection]]:
    wanted = set(modules)
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, Projection) and name.rpartition(".")[2] in wanted
    ]


def export_adapter(model: Decoder, config: Lora, out_dir: Path) -> None:
    """Write float32 weights and the config that peft and vLLM read."""
    tensors = {}
    modules = set()
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        if leaf in ("lora_A", "lora_B"):
            tensors[f"{_PREFIX}{path}.{leaf}.weight"] = parameter.detach().float()
            modules.add(path.rpartition(".")[2])
    write_tensors(out_dir / ADAPTER_WEIGHTS, tensors)
    write_json(out_dir / ADAPTER_CONFIG, peft_config(config, modules))


def peft_config(config: Lora, modules: Iterable[str]) -> dict[str, object]:
    """PEFT's description of an adapter on these projections."""
    return {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def import_adapter(model: Decoder, adapter_dir: Path) -> Lora:
    """Attach an adapter in PEFT's format, trainable.

    Raises:
        InvalidArtifact: broken files, or weights that do not fit the model.
        UnsupportedFeature: a variant of LoRA that this decoder lacks.
    """
    try:
        document = json.loads((adapter_dir / ADAPTER_CONFIG).read_text())
        tensors = load_file(adapter_dir / ADAPTER_WEIGHTS)
        config = _read_config(document)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InvalidArtifact(f"the adapter {adapter_dir.name} cannot be read: {error}") from error
    attach(model, config, seed=0)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in sorted(declared_names(model, config)):
            _copy(parameters[name], tensors.pop(f"{_PREFIX}{name}.weight", None), name)
    if tensors:
        raise InvalidArtifact(f"the adapter has weights that the model lacks: {min(tensors)}")
    return config


def _copy(parameter: Tensor, value: Tensor | None, name: str) -> None:
    if value is None or value.shape != parameter.shape:
        found = "missing" if value is None else f"of shape {tuple(value.shape)}"
        raise InvalidArtifact(f"adapter weight {name} is {found}, not {tuple(parameter.shape)}")
    parameter.copy_(value)


def _read_config(document: dict[str, object]) -> Lora:
    if document.get("peft_type") != "LORA":
        raise UnsupportedFeature("only plain LoRA adapters are supported")
    options = find_unserved_options(document)
    if document.get("use_rslora"):
        # Engines scale by the root of the rank; the decoder does not.
        options.append("use_rslora")
    if options:
        raise UnsupportedFeature(f"LoRA with {', '.join(options)} is not supported")
    modules = document["target_modules"]
    present = set(modules) if isinstance(modules, list) else set()
    groups = tuple(group for group, names in TARGET_MODULES.items() if present & set(names))
    return Lora.model_validate(
        {
            "rank": document["r"],
            "alpha": document["lora_alpha"],
            "dropout": document.get("lora_dropout", 0.0),
            "targets": groups,
        }
    )

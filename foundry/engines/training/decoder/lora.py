"""Low-rank adapters: which parameters are trained, and PEFT's file format."""

import json
from collections.abc import Iterable, Mapping
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
    for place, (_, projection) in enumerate(find_targets(model, config.modules)):
        projection.attach(config.rank, config.alpha, config.dropout, generator, draws, place)
    return draws


def declared_names(model: Decoder, config: Lora) -> set[str]:
    """The parameters that a run with this method trains, and no others."""
    return {
        f"{name}.{matrix}"
        for name, _ in find_targets(model, config.modules)
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


def find_targets(model: Decoder, modules: Iterable[str]) -> list[tuple[str, Projection]]:
    """The projections of these names, in the order of the model."""
    wanted = set(modules)
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, Projection) and name.rpartition(".")[2] in wanted
    ]


def export_adapter(model: Decoder, config: Lora, out_dir: Path) -> None:
    """Write the attached adapter as `export_parameters` does."""
    named = dict(model.named_parameters())
    adapter = {name: p for name, p in named.items() if name.endswith((".lora_A", ".lora_B"))}
    export_parameters(adapter, config, out_dir)


def export_parameters(parameters: Mapping[str, Tensor], config: Lora, out_dir: Path) -> None:
    """Write float32 weights and the config that peft and vLLM read.

    Args:
        parameters: as `<projection>.lora_A` and `<projection>.lora_B`.
    """
    tensors = {
        f"{_PREFIX}{name}.weight": value.detach().float() for name, value in parameters.items()
    }
    modules = {name.split(".")[-2] for name in parameters}
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
    config, tensors = read_adapter(adapter_dir)
    attach(model, config, seed=0)
    named = dict(model.named_parameters())
    fill_parameters({name: named[name] for name in declared_names(model, config)}, tensors)
    return config


def read_adapter(adapter_dir: Path) -> tuple[Lora, dict[str, Tensor]]:
    """Configuration and tensors of an adapter in PEFT's format; raises as `import_adapter`."""
    try:
        document = json.loads((adapter_dir / ADAPTER_CONFIG).read_text())
        tensors = load_file(adapter_dir / ADAPTER_WEIGHTS)
        return _read_config(document), tensors
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InvalidArtifact(f"the adapter {adapter_dir.name} cannot be read: {error}") from error


@torch.no_grad()
def fill_parameters(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy an adapter's tensors into its parameters, all into all.

    Raises:
        InvalidArtifact: they do not fit.
    """
    left = dict(tensors)
    for name in sorted(parameters):
        _copy(parameters[name], left.pop(f"{_PREFIX}{name}.weight", None), name)
    if left:
        raise InvalidArtifact(f"the adapter has weights that the model lacks: {min(left)}")


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

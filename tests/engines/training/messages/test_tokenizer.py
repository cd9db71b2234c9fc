"""Files of a model, laid out in every way that transformers reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from foundry.engines.training.messages.rows import prepare_chat, prepare_completion
from foundry.engines.training.messages.template import Context
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.errors import InvalidArtifact, UnsupportedFeature
from tests.engines.training.conftest import write_tokenizer

USER = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
NAMED = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]


def _write(folder: Path, files: dict[str, Any], **config: Any) -> Path:
    """A tokenizer's directory; None removes a field of its configuration."""
    write_tokenizer(folder, "plain")
    path = folder / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | config
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


LAYOUTS: dict[str, tuple[dict[str, Any], Any, str, str]] = {
    "in the configuration": ({}, "plain", "plain", "plain"),
    "named": ({}, NAMED, "plain", "tools"),
    "a file": ({"chat_template.jinja": "file"}, "plain", "file", "file"),
    "a file and a folder": (
        {"chat_template.jinja": "file", "additional_chat_templates/tool_use.jinja": "folder"},
        NAMED, "file", "folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_templates_are_found_where_transformers_finds_them(tmp_path: Path, layout: str) -> None:
    from transformers import AutoTokenizer

    files, template, plain, with_tools = LAYOUTS[layout]
    folder = _write(tmp_path, files, chat_template=template)
    ours, theirs = ChatTokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.render(USER) == plain == theirs.apply_chat_template(USER, tokenize=False)
    expected = theirs.apply_chat_template(USER, tools=TOOLS, tokenize=False)
    assert ours.render(USER, Context(TOOLS)) == with_tools == expected


def test_a_folder_without_default_is_no_template(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"additional_chat_templates/rag.jinja": "r"})
    with pytest.raises(UnsupportedFeature, match=r"templates rag, and none of them is the default"):
        ChatTokenizer.load(folder).render(USER)


def test_a_processors_template_counts_where_there_is_a_processor(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"chat_template.json": {"chat_template": "p"}}, chat_template=None)
    with pytest.raises(UnsupportedFeature, match="has no chat template"):
        ChatTokenizer.load(folder).render(USER)
    (folder / "preprocessor_config.json").write_text("{}")
    assert ChatTokenizer.load(folder).render(USER) == "p"


SPECIAL = "{{ bos_token }}|{{ eos_token }}|{{ image_token }}|{{ add_bos_token }}"
TOKEN = {"content": "<|im_end|>", "special": True}


@pytest.mark.parametrize(
    ("files", "config"),
    [
        ({}, {}),
        ({}, {"eos_token": {"__type": "AddedToken", **TOKEN}}),
        ({}, {"bos_token": None}),
        ({"special_tokens_map.json": {"bos_token": TOKEN}}, {}),
        ({"special_tokens_map.json": {"bos_token": TOKEN}}, {"added_tokens_decoder": {"2": TOKEN}}),
        ({}, {"image_token": "<|endoftext|>"}),
        ({}, {"extra_special_tokens": {"image_token": "<|endoftext|>"}}),
        ({}, {"add_bos_token": True}),
    ],
)
def test_special_tokens_are_those_of_transformers(
    tmp_path: Path, files: dict[str, Any], config: dict[str, Any]
) -> None:
    from transformers import AutoTokenizer

    folder = _write(tmp_path, files, chat_template=SPECIAL, **config)
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(USER, tokenize=False)
    assert ChatTokenizer.load(folder).render(USER) == expected


def test_the_engines_stop_tokens_end_a_turn(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.role + ':' + m.content + '<|endoftext|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    talk = [*USER, {"role": "assistant", "content": "yo"}]
    ends = []
    for stops in ({}, {"generation_config.json": {"eos_token_id": [0, 2]}}):
        (tmp_path / str(len(stops))).mkdir()
        folder = _write(tmp_path / str(len(stops)), stops, chat_template=template)
        (example,) = prepare_chat(ChatTokenizer.load(folder), talk)
        ends.append(example.trained[-2:])
    # Without it the line break after the turn would be learned as well.
    assert ends == [(True, True), (True, False)]


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    folder = _write(tmp_path, {})
    (folder / "generation_config.json").write_text("[")
    with pytest.raises(InvalidArtifact, match=r"cannot be read: see generation_config\.json"):
        ChatTokenizer.load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidArtifact, match=r"tokenizer\.json of .* is no tokenizer"):
        ChatTokenizer.load(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidArtifact, match=r"cannot be read: see tokenizer\.json"):
        ChatTokenizer.load(folder)


def test_a_tokenizer_that_serving_reads_otherwise_is_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"tokenizer.model": "x"})
    ChatTokenizer.load(folder)
    (folder / "tekken.json").write_text("{}")
    (folder / "consolidated.safetensors").write_text("")
    with pytest.raises(UnsupportedFeature, match="Mistral's own files"):
        ChatTokenizer.load(folder)
    (folder / "consolidated.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedFeature, match=r"has its tokenizer in tokenizer\.model only"):
        ChatTokenizer.load(folder)


def test_a_completion_begins_with_no_space_of_its_own(tmp_path: Path) -> None:
    """Tokenizers of sentencepiece begin every text with a space, which is not between the two."""
    folder = _write(tmp_path, {})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Prepend("_")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    example = prepare_completion(ChatTokenizer.load(folder), "2+2=", "4")
    expected = ["<|im_start|>", *"_2+2=4", "<|im_end|>"]
    assert [tokenizer.id_to_token(token) for token in example.tokens] == expected
    assert example.weights == (0.0,) * 6 + (1.0, 1.0)


def test_a_token_over_the_border_is_not_made(tmp_path: Path) -> None:
    folder = _write(tmp_path, {})
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"]["ab"] = len(document["model"]["vocab"])
    document["model"]["merges"] = [["a", "b"]]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = ChatTokenizer.load(folder)
    assert len(tokenizer.encode("ab")) == 1
    example = prepare_completion(tokenizer, "xa", "b")
    assert example.tokens == (*tokenizer.encode("xa"), *tokenizer.encode("b"), 2)


TEXTS = ("hi", "  hi  ", "e\u0301 vs \u00e9", "a\n\n b\tc", "<|im_end|> x", "12345 don't", "")


def _write_sentencepiece(folder: Path, tokenizer_class: str, *, prepend: bool) -> None:
    """The layout of Llama 2 and Gemma: byte fallback, a mark for spaces."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{b:02X}>": b + 3 for b in range(256)}}
    for mark in "▁abcdefghijklmnopqrstuvwxyz0123456789'<>|_":
        vocab.setdefault(mark, len(vocab))
    vocab["▁h"] = len(vocab)
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=[("▁", "h")], unk_token="<unk>", byte_fallback=True)
    )
    space = normalizers.Replace(" ", "▁")
    steps = [normalizers.Prepend("▁"), space] if prepend else [space]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": tokenizer_class, "add_bos_token": True, "chat_template": "x"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("tokenizer_class", "model_type", "layout"),
    [
        ("PreTrainedTokenizerFast", "llama", "bytes"),
        ("PreTrainedTokenizerFast", "qwen2", "bytes"),
        ("Qwen2Tokenizer", "qwen3", "bytes"),
        ("GPT2TokenizerFast", "granite", "bytes"),
        ("LlamaTokenizerFast", "llama", "bytes"),
        (None, "qwen2", "bytes"),
        ("LlamaTokenizer", "llama", "prepend"),
        ("LlamaTokenizer", "mistral", "prepend"),
        ("LlamaTokenizerFast", "phi3", "prepend"),
        ("GemmaTokenizerFast", "gemma2", "mark"),
    ],
)
def test_tokens_are_those_that_transformers_makes(
    tmp_path: Path, tokenizer_class: str | None, model_type: str, layout: str
) -> None:
    from transformers import AutoTokenizer

    if layout == "bytes":
        _write(tmp_path, {}, tokenizer_class=tokenizer_class)
    else:
        assert tokenizer_class is not None
        _write_sentencepiece(tmp_path, tokenizer_class, prepend=layout == "prepend")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    ours, theirs = ChatTokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.encode_completion(text, "")[0] == theirs.encode(text)


def test_a_tokenizer_that_transformers_cannot_load_is_named(tmp_path: Path) -> None:
    folder = _write(tmp_path, {}, tokenizer_class="GemmaTokenizer", extra_special_tokens=3)
    with pytest.raises(UnsupportedFeature, match="cannot be loaded as serving would load it"):
        ChatTokenizer.load(folder)

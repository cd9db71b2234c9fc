"""Directories as downloads leave them: what is taken, what is left out, what is told at once."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foundry.catalog.registry.artifacts import Survey, detect_kind, inspect_files, survey_files
from foundry.catalog.registry.domain import Kind
from foundry.catalog.registry.files import media_type_of, select_files
from foundry.errors import InvalidArtifact
from tests.catalog.registry.files import adapter_dir, base_dir, write_safetensors

STRAY = (
    ".gitattributes",
    "LICENSE",
    "LICENSE.txt",
    "README.md",
    "USE_POLICY.md",
    "Notice",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.gguf",
    "tf_model.h5",
    "flax_model.msgpack",
    "rust_model.ot",
    "training_args.bin",
    "optimizer.pt",
    "trainer_state.json",
    "modeling_llama.py",
    "params.json",
    "consolidated.safetensors",
    "model.fp16.safetensors",
    "a\x07.txt",
)
FOLDERS = (".cache/huggingface/download", ".git/objects", "original", "onnx", "runs", "figures")
NEEDED = ["config.json", "model.safetensors", "tokenizer.json"]


def looked_at(folder: Path, kind: Kind = "base") -> Survey:
    return survey_files(select_files(folder), kind)


def litter(folder: Path) -> None:
    for name in STRAY:
        (folder / name).write_bytes(b"\x80\x02 not to be read")
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
        (folder / name / "consolidated.00.pth").write_bytes(b"x")
        (folder / name / "config.json").write_text("{")


def hub_cache(
    folder: Path, revisions: tuple[str, ...] = ("abc",), main: str | None = "abc"
) -> Path:
    """As the hub's client leaves it: files are links into `blobs`."""
    model = folder / "hub" / "models--ORG--Tiny-1B"
    blobs = model / "blobs"
    blobs.mkdir(parents=True)
    for number, revision in enumerate(revisions):
        snapshot = model / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for file in base_dir(folder / f"plain{number}", seed=number).iterdir():
            blob = f"{number}{file.name.encode().hex()}"
            file.rename(blobs / blob)
            (snapshot / file.name).symlink_to(Path("../../blobs") / blob)
    (model / "refs").mkdir()
    if main is not None:
        (model / "refs" / "main").write_text(main)
    return model


def test_what_no_engine_reads_is_left_out_and_named(tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "model")
    litter(folder)
    found = looked_at(folder)
    assert (sorted(found.files), found.problems) == (NEEDED, ())
    tops = {f"{name.partition('/')[0]}/" for name in FOLDERS}
    assert set(found.left_out) == {*STRAY, *tops} - {"a\x07.txt"} | {"'a\\x07.txt'"}
    inspected = inspect_files(select_files(folder), "base")
    assert [file.path for file in inspected.files] == NEEDED
    assert inspected.parameter_count == 16


def test_an_adapter_is_two_files(tmp_path: Path) -> None:
    folder = adapter_dir(tmp_path / "adapter")
    litter(folder)
    (folder / "tokenizer_config.json").write_text("{ broken")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))
    (folder / "checkpoint-500").mkdir()
    found = looked_at(folder, "adapter")
    assert sorted(found.files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert found.problems == ()
    assert {"checkpoint-500/", "adapter_model.bin", "tokenizer_config.json"} <= set(found.left_out)


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_what_a_fleet_tells_of_its_training_is_part_of_its_result(
    tmp_path: Path, kind: Kind
) -> None:
    folder = (adapter_dir if kind == "adapter" else base_dir)(tmp_path / "result")
    (folder / "diloco.json").write_text('{"rounds": []}')
    assert "diloco.json" in {file.path for file in inspect_files(folder, kind).files}


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tool.jinja"])
def test_templates_are_taken(tmp_path: Path, name: str) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{{ messages }}")
    assert sorted(looked_at(folder).files) == sorted([*NEEDED, name])


def test_the_folder_of_a_hub_cache_is_imported_through_its_links(tmp_path: Path) -> None:
    model = hub_cache(tmp_path, ("abc", "def"))
    for source in (model, model / "snapshots" / "abc"):
        found = inspect_files(select_files(source), "base")
        assert [file.path for file in found.files] == NEEDED
        assert all("blobs" in file.local.parts for file in found.files)
    link = tmp_path / "current"
    link.symlink_to(model / "snapshots" / "def")
    assert looked_at(link).problems == ()


def test_the_only_snapshot_is_the_one(tmp_path: Path) -> None:
    assert sorted(looked_at(hub_cache(tmp_path, main=None)).files) == NEEDED


@pytest.mark.parametrize("main", [None, "gone", "../blobs", ".."])
def test_one_of_several_snapshots_has_to_be_named(tmp_path: Path, main: str | None) -> None:
    with pytest.raises(InvalidArtifact, match="holds 2 snapshots and no current one: name the one"):
        select_files(hub_cache(tmp_path, ("abc", "def"), main))


def test_a_broken_link_is_a_download_that_did_not_end(tmp_path: Path) -> None:
    model = hub_cache(tmp_path)
    for blob in (model / "blobs").iterdir():
        blob.unlink()
    assert set(looked_at(model).problems) == {
        f"{name} is missing, or a link to what is missing: download it again" for name in NEEDED
    }


def test_a_link_that_leads_to_itself_is_told(tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / "generation_config.json").symlink_to("generation_config.json")
    assert looked_at(folder).problems == (
        "generation_config.json is a link that leads to itself: copy the file itself",
    )


def test_the_systems_reason_is_told_of_a_file_that_it_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = base_dir(tmp_path / "model")

    def fail(path: Path, *args: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "open", fail)
    assert set(looked_at(folder).problems) == {
        f"{name} cannot be read: Input/output error" for name in NEEDED
    }


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret.json", "../../../../etc/passwd"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret.json").write_text("{}")
    folder = base_dir(tmp_path / "model")
    (folder / "generation_config.json").symlink_to(target)
    (problem,) = looked_at(folder).problems
    assert problem.startswith("generation_config.json is")
    assert "leads out of the directory" in problem or "missing" in problem


def test_a_link_out_of_a_snapshot_ends_at_the_models_folder(tmp_path: Path) -> None:
    model = hub_cache(tmp_path)
    other = tmp_path / "hub" / "models--ORG--Secret"
    other.mkdir()
    (other / "x").write_text("{}")
    (model / "snapshots/abc/generation_config.json").symlink_to("../../../models--ORG--Secret/x")
    assert looked_at(model).problems == (
        "generation_config.json is a link that leads out of the directory: copy the file itself",
    )


def test_links_inside_and_hard_links_are_followed(tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "w")
    (folder / "model.safetensors").symlink_to("weights/w")
    os.link(folder / "tokenizer.json", tmp_path / "hard")
    assert looked_at(folder).problems == ()


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "merges.txt")


def _loop(folder: Path) -> None:
    (folder / "merges.txt").symlink_to("merges.txt")


def _deny(folder: Path) -> None:
    (folder / "merges.txt").mkdir()


CONTENT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (lambda f: (f / "merges.txt").write_bytes(pickle.dumps({"a": 1})), "a pickle"),
    "an archive": (lambda f: (f / "merges.txt").write_bytes(b"PK\x03\x04..."), "an archive"),
    "a pipe": (_fifo, "no regular file"),
    "a link to itself": (_loop, "merges.txt"),
    "a folder": (_deny, "no regular file"),
    "a hostile name": (lambda f: (f / "a\x07.jinja").write_text(""), "acceptable file name"),
    "broken json": (lambda f: (f / "generation_config.json").write_text("{"), "not valid JSON"),
    "code": (
        lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {"x": "y.Z"}}'),
        "auto_map",
    ),
    "an unknown architecture": (
        lambda f: (f / "config.json").write_text('{"architectures": ["T5Model"]}'),
        "no engine serves the architecture T5Model",
    ),
    "no architecture": (lambda f: (f / "config.json").write_text("{}"), "names no architecture"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    "truncated weights": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-1]
        ),
        "model.safetensors is damaged: its header describes",
    ),
    "a pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec"),
        "a pointer of Git LFS",
    ),
    "an index without shards": (
        lambda f: _index(f, {f"w{i}": f"model-{i}.safetensors" for i in range(5)}),
        r"names model-0.safetensors, model-1.safetensors, model-2.safetensors and 2 more, which",
    ),
    "an index that lies": (
        lambda f: _index(f, {"lm_head": "model.safetensors"}),
        "places lm_head in model.safetensors, which lacks it",
    ),
    "an index of nothing": (lambda f: _index(f, None), "has no weight_map"),
}


def _index(folder: Path, weight_map: object) -> None:
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize("name", CONTENT)
def test_what_is_wrong_with_a_needed_file_is_told(tmp_path: Path, name: str) -> None:
    spoil, says = CONTENT[name]
    folder = base_dir(tmp_path / "model")
    spoil(folder)
    with pytest.raises(InvalidArtifact, match=says):
        inspect_files(select_files(folder), "base")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(InvalidArtifact) as caught:
        looked_at(folder).check("the directory /m cannot be imported")
    told = caught.value.message
    assert told.startswith("the directory /m cannot be imported: ")
    for part in (
        "generation_config.json",
        "config.json is missing",
        "no .safetensors",
        "tokenizer",
    ):
        assert part in told
    assert "(.bin, .pt) are never read" in told and len(looked_at(folder).problems) == 4


def test_shards_without_an_index_are_counted(tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-00002-of-00003.safetensors")
    assert looked_at(folder).problems == (
        "of 3 shards model-00001-of-00003.safetensors, model-00003-of-00003.safetensors are "
        "absent: download them",
    )


def test_the_index_decides_which_weights_are_taken(tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    _index(folder, {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"})
    (folder / "consolidated.safetensors").write_bytes(b"x")
    found = looked_at(folder)
    assert (found.problems, found.left_out) == ((), ("consolidated.safetensors",))


def test_weights_that_hold_the_same_tensor_are_refused(tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    write_safetensors(
        folder / "b.safetensors", {"model.embed_tokens.weight": np.zeros((4, 4), np.float32)}
    )
    assert looked_at(folder).problems == (
        "a.safetensors and b.safetensors both hold model.embed_tokens.weight: keep one of them",
    )


@pytest.mark.parametrize("tokenizer", [("tokenizer.model",), ("vocab.json", "merges.txt")])
def test_older_tokenizers_are_enough(tmp_path: Path, tokenizer: tuple[str, ...]) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    for name in tokenizer:
        (folder / name).write_text("{}")
    assert looked_at(folder).problems == ()


def test_what_is_no_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, says in (("none", "is missing"), ("file", "not a directory"), ("empty", "no files")):
        with pytest.raises(InvalidArtifact, match=says):
            select_files(tmp_path / name)


def test_kinds_are_told_apart_by_names(tmp_path: Path) -> None:
    assert detect_kind(os.listdir(adapter_dir(tmp_path / "a"))) == "adapter"
    assert detect_kind(os.listdir(base_dir(tmp_path / "b"))) == "base"
    adapter_dir(tmp_path / "b")
    assert detect_kind(os.listdir(tmp_path / "b")) == "base", "an adapter beside a merged model"


def test_names_are_matched_whole() -> None:
    assert media_type_of("config.json") == "application/json"
    for name in ("x/config.json", "myconfig.json", "CONFIG.JSON", "config.json.bak", "x/y.jinja"):
        assert media_type_of(name) is None

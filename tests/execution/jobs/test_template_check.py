"""What a submission can know of a base's chat templates without rendering them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from foundry.catalog.datasets.service import DatasetVersion
from foundry.catalog.registry.domain import Manifest
from foundry.catalog.registry.service import ModelVersion
from foundry.errors import InvalidRequest, Unavailable
from foundry.execution.jobs.template_check import check_templates
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.objects import FileRef
from tests.engines.training.conftest import CHATML
from tests.engines.training.messages.templates import OWN_TEMPLATES

HERMES, PARTS = OWN_TEMPLATES["hermes"], OWN_TEMPLATES["parts"]
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FOLDER = "additional_chat_templates/tool_use.jinja"


async def _check(
    root: Path, files: dict[str, Any], uses: object, kind: str = "chat", size: int = 9
) -> None:
    objects = DirectoryStore(root)
    for path, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        await objects.put_bytes(f"k/{path}", text.encode())
    refs = tuple(FileRef(path, "0" * 64, size, f"k/{path}") for path in files)
    data = SimpleNamespace(kind=kind, reference="support@1", options={"uses": uses})
    await check_templates(
        objects,
        cast(ModelVersion, SimpleNamespace(reference="smol@0.1.0")),
        Manifest(UUID(int=1), "d" * 64, refs),
        cast(DatasetVersion, data),
    )


def _config(template: object) -> dict[str, Any]:
    return {"tokenizer_config.json": {"chat_template": template}}


@pytest.mark.parametrize(
    ("files", "uses"),
    [
        (_config(CHATML), None),
        (_config(CHATML), []),
        (_config(HERMES), ["tool_calls", "tools"]),
        (_config("{{ messages }}"), ["tools"]),
        (_config("{{ messages[0] | tojson }}"), ["tool_calls"]),
        (_config("{% for k in m %}{{ m[k] }}{% endfor %}"), ["tool_calls"]),
        (_config([{"name": "default", "template": CHATML}, {"name": "t", "template": HERMES}]),
         ["tools"]),
        ({"chat_template.jinja": CHATML, FOLDER: HERMES, **_config(CHATML)}, ["tools"]),
        ({"chat_template.json": {"chat_template": CHATML}, **_config(None)}, ["tools"]),
        ({}, ["tools"]),
    ],
)  # fmt: skip
async def test_what_may_be_rendered_passes(
    tmp_path: Path, files: dict[str, Any], uses: object
) -> None:
    await _check(tmp_path, files, uses)


@pytest.mark.parametrize(
    ("files", "uses", "says"),
    [
        (_config(CHATML), ["tools"], "have tools, and the chat template of smol@0.1.0 reads none"),
        (_config(CHATML), ["tool_calls"], "rows of support@1 have tool_calls"),
        (_config(PARTS), ["reasoning"], "have reasoning"),
        ({"chat_template.jinja": CHATML, **_config(HERMES)}, ["tools"], "have tools"),
        (_config(None), [], "smol@0.1.0 has no chat template"),
        (_config(""), [], "has no chat template"),
    ],
)
async def test_what_no_template_reads_is_refused(
    tmp_path: Path, files: dict[str, Any], uses: object, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says):
        await _check(tmp_path, files, uses)


async def test_the_model_of_the_demo_learns_no_tools(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="have tool_calls"):
        await _check(tmp_path, _config(SMOLLM2), ["tool_calls", "tools"])


async def test_pairs_need_no_template_and_large_files_are_left_to_the_worker(
    tmp_path: Path,
) -> None:
    await _check(tmp_path / "a", _config(None), ["tools"], kind="prompt_completion")
    await _check(tmp_path / "b", _config(CHATML), ["tools"], size=2**30)


async def test_a_store_that_does_not_answer_is_named(tmp_path: Path) -> None:
    objects = DirectoryStore(tmp_path)
    refs = (FileRef("chat_template.jinja", "0" * 64, 9, "missing"),)
    data = SimpleNamespace(kind="chat", reference="support@1", options={})
    with pytest.raises(Unavailable):
        await check_templates(
            objects,
            cast(ModelVersion, SimpleNamespace(reference="smol@0.1.0")),
            Manifest(UUID(int=1), "d" * 64, refs),
            cast(DatasetVersion, data),
        )

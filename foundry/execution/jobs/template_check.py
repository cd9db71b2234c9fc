"""Whether a base's chat templates can render what a dataset's rows hold.

Templates are read, not rendered: they are programs of somebody else, and this process serves
everybody. What only rendering tells is left to the worker, which refuses a row by its number.
"""

import re

from foundry.catalog.datasets.service import DatasetVersion
from foundry.catalog.registry.documents import read_document, read_text
from foundry.catalog.registry.domain import Manifest
from foundry.catalog.registry.service import ModelVersion
from foundry.engines.model_files import (
    CHAT_TEMPLATE,
    MORE_TEMPLATES,
    PROCESSOR_TEMPLATE,
    TOKENIZER_CONFIG,
)
from foundry.engines.training.messages.shape import USES
from foundry.errors import InvalidRequest
from foundry.infra.objects import ObjectStore

# Tokenizers list thousands of added tokens beside their template; larger files are left to workers.
_MOST_BYTES = 8 * 2**20
# With one of these a template can print what it does not name: a whole message, whatever is in it.
_WHOLESALE = re.compile(
    r"tojson|\|\s*(string|pprint|join|list|urlencode|items|dictsort|format)|\.(items|values)|~|\[\s*[a-z_]\w*\s*\]"
    r"|\{\{-?\s*m\w*\s*-?\}\}",
    re.IGNORECASE,
)


async def check_templates(
    objects: ObjectStore, base: ModelVersion, files: Manifest, data: DatasetVersion
) -> None:
    """Refuse rows that no template of the base can render.

    Raises:
        InvalidRequest: the base has no chat template, or none reads what the rows hold.
        Unavailable: the object store does not answer.
    """
    if data.kind != "chat":
        return
    sources = await _read_sources(objects, files)
    if sources is None:
        return
    if not sources:
        raise InvalidRequest(
            f"{data.reference} holds conversations, and {base.reference} has no chat "
            "template: train on a dataset of prompts and completions, or from a base "
            "with one",
            param="dataset",
        )
    text = "\n".join(sources)
    if _WHOLESALE.search(text):
        return
    uses = data.options.get("uses")
    for use in uses if isinstance(uses, list) else []:
        if not any(word in text for word in USES.get(use, (use,))):
            raise InvalidRequest(
                f"rows of {data.reference} have {use}, and the chat template of {base.reference} "
                f"reads none, so they would not be learned: train from a base whose template "
                f"renders {use}, or add the dataset without them",
                param="dataset",
            )


async def _read_sources(objects: ObjectStore, files: Manifest) -> list[str] | None:
    """The templates' texts; None: one of them could not be read, so nothing is known."""
    paths = {file.path for file in files.files}
    separate = [
        path for path in paths if path == CHAT_TEMPLATE or path.startswith(f"{MORE_TEMPLATES}/")
    ]
    if separate:
        texts = [await read_text(objects, files, path) for path in sorted(separate)]
        return None if None in texts else [text for text in texts if text is not None]
    config = await read_document(objects, files, TOKENIZER_CONFIG, most_bytes=_MOST_BYTES)
    if config is None or (not config.get("chat_template") and PROCESSOR_TEMPLATE in paths):
        return None
    template = config.get("chat_template")
    if not isinstance(template, list):
        return [template] if isinstance(template, str) and template else []
    return [str(each.get("template")) for each in template if isinstance(each, dict)]

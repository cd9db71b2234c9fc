"""What a directory of model files contains, and whether it may become a version.

names and links ──> JSON documents, headers of weights ──> every number, every digest
└──────────── a survey: quick, all problems ───────────┘   an inspection: reads all bytes
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foundry.catalog.registry.adapters import (
    find_adapter_config_faults,
    find_adapter_weight_faults,
    list_targets,
    read_rank,
)
from foundry.catalog.registry.architectures import is_served
from foundry.catalog.registry.domain import Kind
from foundry.catalog.registry.files import (
    FLEET_HISTORY,
    Selection,
    media_type_of,
    select_files,
)
from foundry.catalog.registry.safetensors import Tensor, first_non_finite, read_header
from foundry.engines.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    WEIGHTS_INDEX,
    WEIGHTS_SUFFIX,
)
from foundry.enumeration import name_first
from foundry.errors import InvalidArtifact

_MAX_JSON_BYTES = 256 * 2**20
_CHUNK = 1 << 20
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
# Any of these sets is a tokenizer.
_TOKENIZERS = (
    {TOKENIZER},
    {"tokenizer.model"},
    {"vocab.json", "merges.txt"},
    {"tekken.json"},
)
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_MOST_PROBLEMS = 20
_MOST_NAMES = 3

Documents = Mapping[str, object]
Headers = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class InspectedFile:
    path: str
    local: Path
    size: int
    sha256: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What names, documents and headers say; no tensor was read.

    Attributes:
        files: path in the version → where its bytes lie.
        left_out: what no engine reads.
        problems: every reason why it cannot become a version.
    """

    kind: Kind
    files: Mapping[str, Path]
    left_out: tuple[str, ...]
    problems: tuple[str, ...]
    documents: Documents
    headers: Headers

    def check(self, subject: str) -> None:
        """Refuse files with which something is wrong.

        Raises InvalidArtifact: names every problem at once.
        """
        if not self.problems:
            return
        problems = name_first(self.problems, _MOST_PROBLEMS, between="; ")
        raise InvalidArtifact(f"{subject}: {problems}", problems=list(self.problems))

    @property
    def config(self) -> Mapping[str, object]:
        """The document that describes it; empty: there is none."""
        document = self.documents.get(ADAPTER_CONFIG if self.kind == "adapter" else CONFIG)
        return document if isinstance(document, dict) else {}


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the files say about themselves; None: they do not say."""

    files: tuple[InspectedFile, ...]
    parameter_count: int
    architecture: str | None = None
    context_length: int | None = None
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] | None = None


def inspect_files(source: Path | Selection, kind: Kind) -> Inspection:
    """Read every file once.

    Args:
        source: a directory that holds nothing but the version, or what was selected of one.

    Raises:
        InvalidArtifact: a file is not allowed, damaged, or contradicts another.
    """
    whole = isinstance(source, Path)
    found = survey_files(select_files(source) if isinstance(source, Path) else source, kind)
    found.check("the files cannot become a version")
    if whole and found.left_out:
        raise InvalidArtifact(
            f"{found.left_out[0]} is not allowed in a version: no engine reads it",
            path=found.left_out[0],
        )
    for path, tensors in found.headers.items():
        _check_finite(path, found.files[path], tensors)
    files = tuple(_hash_file(path, local) for path, local in sorted(found.files.items()))
    count = sum(tensor.elements for each in found.headers.values() for tensor in each.values())
    config = found.config
    if kind == "adapter":
        targets = list_targets(config, found.headers[ADAPTER_WEIGHTS])
        return Inspection(files, count, lora_rank=read_rank(config), lora_targets=targets)
    names = _list_architectures(config)
    return Inspection(
        files=files,
        parameter_count=count,
        architecture=names[0] if names else None,
        context_length=_read_context_length(config),
    )


def _read_context_length(config: Mapping[str, object]) -> int | None:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in _CONTEXT_KEYS:
            if type(length := part.get(key)) is int:
                return length
    return None


def detect_kind(names: Iterable[str]) -> Kind:
    """What the files are by their names: a directory may hold an adapter and a merged model."""
    there = set(names)
    whole = CONFIG in there and any(
        name.endswith(WEIGHTS_SUFFIX) and name != ADAPTER_WEIGHTS for name in there
    )
    return "adapter" if ADAPTER_CONFIG in there and not whole else "base"


def survey_files(selection: Selection, kind: Kind) -> Survey:
    """Look at everything but the tensors, and collect what is wrong."""
    names = selection.files.keys() | selection.problems.keys()
    index = _read_index(selection)
    kept = choose_files(names, index, kind)
    files = {path: local for path, local in selection.files.items() if path in kept}
    problems = [fault for path, fault in selection.problems.items() if path in kept]
    documents, headers = _read_documents(files, problems), _read_headers(files, problems)
    problems += find_missing_files(kept, kind)
    if kind == "adapter":
        problems += _find_adapter_problems(documents, headers)
    else:
        problems += _find_model_problems(documents, headers, kept)
    left_out = sorted({*selection.left_out, *(names - kept)})
    return Survey(kind, files, tuple(left_out), tuple(dict.fromkeys(problems)), documents, headers)


def find_missing_files(names: Iterable[str], kind: Kind) -> list[str]:
    """What a version of this kind needs and is not there, judged by names alone."""
    there = set(names)
    if kind == "adapter":
        return [
            f"{name} is missing" for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if name not in there
        ]
    found = []
    if CONFIG not in there:
        found.append(f"{CONFIG} is missing")
    if not any(name.endswith(WEIGHTS_SUFFIX) for name in there):
        found.append(
            "there is no .safetensors file: pickled weights (.bin, .pt) are never read, so convert "
            "them to safetensors first"
        )
    if not any(needed <= there for needed in _TOKENIZERS):
        found.append("there is no tokenizer (tokenizer.json or tokenizer.model)")
    return found


def _read_index(selection: Selection) -> object:
    local = selection.files.get(WEIGHTS_INDEX)
    if local is None:
        return None
    try:
        return _read_json(WEIGHTS_INDEX, local)
    except InvalidArtifact:
        # Told with the other documents.
        return None


def choose_files(names: Iterable[str], index: object, kind: Kind) -> set[str]:
    """Choose the files of a version among those that engines read.

    Weights that lie there twice are taken once: those of the index, else the one whole file.
    """
    there = set(names)
    if kind == "adapter":
        return there & {ADAPTER_CONFIG, ADAPTER_WEIGHTS, FLEET_HISTORY}
    there -= {ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    weights = {name for name in there if name.endswith(WEIGHTS_SUFFIX)}
    indexes = {name for name in there if name.endswith(f"{WEIGHTS_SUFFIX}.index.json")}
    rest = there - weights - (indexes - {WEIGHTS_INDEX})
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if isinstance(weight_map, dict) and weight_map:
        return rest | (weights & {str(path) for path in weight_map.values()})
    if WEIGHTS in weights:
        return rest | {WEIGHTS}
    ours = {name for name in weights if not name.startswith("consolidated")}
    return rest | (ours or weights)


def _read_documents(files: Mapping[str, Path], problems: list[str]) -> dict[str, object]:
    found = {}
    for path, local in sorted(files.items()):
        if path.endswith(".json"):
            try:
                found[path] = _read_json(path, local)
            except InvalidArtifact as error:
                problems.append(error.message)
    return found


def _read_headers(files: Mapping[str, Path], problems: list[str]) -> dict[str, dict[str, Tensor]]:
    found = {}
    for path, local in sorted(files.items()):
        if path.endswith(WEIGHTS_SUFFIX):
            try:
                found[path] = read_header(local, path)
            except InvalidArtifact as error:
                problems.append(error.message)
    return found


def _read_json(path: str, local: Path) -> object:
    try:
        if local.stat().st_size > _MAX_JSON_BYTES:
            raise InvalidArtifact(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB")
        document: object = json.loads(local.read_bytes())
    except OSError as error:
        raise InvalidArtifact(f"{path} cannot be read") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArtifact(f"{path} is not valid JSON: {str(error)[:200]}") from error
    if isinstance(document, dict) and document.get("auto_map"):
        raise InvalidArtifact(
            f"{path} has auto_map: the model brings its own code, which Foundry never runs"
        )
    return document


def _hash_file(path: str, local: Path) -> InspectedFile:
    digest = hashlib.sha256()
    size = 0
    with local.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    media_type = media_type_of(path)
    assert media_type is not None
    return InspectedFile(path, local, size, digest.hexdigest(), media_type)


def _find_model_problems(documents: Documents, headers: Headers, kept: set[str]) -> Iterator[str]:
    config = documents.get(CONFIG)
    if isinstance(config, dict):
        yield from find_architecture_faults(config)
    elif CONFIG in documents:
        yield f"{CONFIG} is not a JSON object"
    if WEIGHTS_INDEX in documents:
        yield from find_index_faults(documents[WEIGHTS_INDEX], headers, kept)
    else:
        yield from _find_shard_faults(headers, kept)


def find_architecture_faults(config: Mapping[str, object]) -> Iterator[str]:
    names = _list_architectures(config)
    if not names:
        yield f"{CONFIG} names no architecture"
    elif not any(map(is_served, names)):
        yield f"no engine serves the architecture {', '.join(names)[:200]}"


def _list_architectures(config: Mapping[str, object]) -> list[str]:
    names = config.get("architectures")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    return [str(name) for name in names]


def find_index_faults(index: object, headers: Headers, kept: set[str]) -> Iterator[str]:
    """What an index says of shards that is not so; of those without a header, only their names."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        yield f"{WEIGHTS_INDEX} has no weight_map"
        return
    if absent := sorted({str(path) for path in weight_map.values()} - kept):
        yield f"{WEIGHTS_INDEX} names {_describe_names(absent)}, which are absent: download them"
    lost = [
        (str(name), str(path))
        for name, path in weight_map.items()
        if str(path) in headers and name not in headers[str(path)]
    ]
    if lost:
        name, path = lost[0]
        first = f"{WEIGHTS_INDEX} places {name[:200]} in {path[:200]}, which lacks it"
        yield name_first([first], 1, between="; ", total=len(lost))


def _find_shard_faults(headers: Headers, kept: set[str]) -> Iterator[str]:
    shards = [match for match in map(_SHARD.fullmatch, sorted(kept)) if match]
    for count in sorted({int(shard.group(2)) for shard in shards}):
        there = {int(shard.group(1)) for shard in shards if int(shard.group(2)) == count}
        if absent := [number for number in range(1, count + 1) if number not in there]:
            names = [f"model-{number:05}-of-{count:05}{WEIGHTS_SUFFIX}" for number in absent]
            yield f"of {count} shards {_describe_names(names)} are absent: download them"
    seen: dict[str, str] = {}
    for path, tensors in headers.items():
        twice = next((name for name in tensors if name in seen), None)
        if twice is not None:
            yield f"{seen[twice]} and {path} both hold {twice[:200]}: keep one of them"
            return
        seen.update(dict.fromkeys(tensors, path))


def _find_adapter_problems(documents: Documents, headers: Headers) -> Iterator[str]:
    config = documents.get(ADAPTER_CONFIG)
    if isinstance(config, dict):
        yield from find_adapter_config_faults(config)
        if ADAPTER_WEIGHTS in headers:
            yield from find_adapter_weight_faults(config, headers[ADAPTER_WEIGHTS])
    elif ADAPTER_CONFIG in documents:
        yield f"{ADAPTER_CONFIG} is not a JSON object"


def _describe_names(names: Sequence[str]) -> str:
    return name_first((name[:200] for name in names), _MOST_NAMES)


def _check_finite(path: str, local: Path, tensors: Mapping[str, Tensor]) -> None:
    if bad := first_non_finite(local, tensors):
        raise InvalidArtifact(
            f"{path}: {bad[:200]} holds NaN or infinity: the training diverged, or the file is "
            "damaged",
            path=path,
        )

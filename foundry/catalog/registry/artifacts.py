"""What a directory of model files contains, and whether it may become a version.

A list of what is allowed, not of what is dangerous: pickles, archives and code have no place here.
"""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foundry.catalog.registry.domain import Kind
from foundry.catalog.registry.safetensors import Tensor, first_non_finite, read_header
from foundry.errors import InvalidArtifact

_MEDIA_TYPES = {
    ".safetensors": "application/vnd.safetensors",
    ".json": "application/json",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".jinja": "text/plain",
    ".model": "application/octet-stream",
}
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_ARCHIVE_STARTS = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"\xfd7zXZ")
_MAX_JSON_BYTES = 256 * 2**20
_MAX_PATH_BYTES = 512
_MAX_FILES = 4096
_CHUNK = 1 << 20
_LORA_A, _LORA_B = ".lora_A.weight", ".lora_B.weight"
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass(frozen=True, slots=True)
class InspectedFile:
    path: str
    local: Path
    size: int
    sha256: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the files say about themselves; None: they do not say."""

    files: tuple[InspectedFile, ...]
    parameter_count: int
    architecture: str | None = None
    context_length: int | None = None
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] | None = None


def inspect(folder: Path, kind: Kind) -> Inspection:
    """Read every file once.

    Raises:
        InvalidArtifact: a file is not allowed, damaged, or contradicts another.
    """
    paths = dict(_walk(folder))
    documents = {
        path: _json(path, local) for path, local in paths.items() if local.suffix == ".json"
    }
    headers = {
        path: read_header(local) for path, local in paths.items() if local.suffix == ".safetensors"
    }
    files = tuple(_hashed(path, local) for path, local in sorted(paths.items()))
    if kind == "adapter":
        return _adapter(files, paths, documents, headers)
    return _model(files, paths, documents, headers)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    if not folder.is_dir():
        raise InvalidArtifact(f"{folder} is not a directory")
    seen: set[str] = set()
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in sorted(entries, key=lambda found: found.name):
                path = Path(entry.path).relative_to(folder).as_posix()
                _check_path(path)
                if entry.is_symlink():
                    raise InvalidArtifact(f"{path} is a symbolic link: copy the file itself")
                if entry.is_dir():
                    pending.append(Path(entry.path))
                    continue
                if path.casefold() in seen or len(seen) >= _MAX_FILES:
                    raise InvalidArtifact(f"{path}: its name repeats, or there are too many files")
                seen.add(path.casefold())
                _check_content(path, Path(entry.path))
                yield path, Path(entry.path)
    if not seen:
        raise InvalidArtifact(f"{folder} holds no files")


def _check_path(path: str) -> None:
    clean = unicodedata.normalize("NFC", path) == path and "\\" not in path
    if not clean or len(path.encode(errors="replace")) > _MAX_PATH_BYTES or not path.isprintable():
        raise InvalidArtifact(f"{path[:200]!r} is not an acceptable file name")


def _check_content(path: str, local: Path) -> None:
    if local.suffix not in _MEDIA_TYPES or not local.is_file():
        raise InvalidArtifact(
            f"{path} is not allowed in a model: only safetensors, JSON, tokenizer and text files "
            "are; pickled weights (.bin, .pt) and code are refused, convert weights to safetensors",
            path=path,
        )
    if local.suffix != ".safetensors":
        with local.open("rb") as file:
            start = file.read(8)
        if start.startswith((*_PICKLE_STARTS, *_ARCHIVE_STARTS)):
            raise InvalidArtifact(f"{path} holds a pickle or an archive: refused", path=path)


def _json(path: str, local: Path) -> object:
    if local.stat().st_size > _MAX_JSON_BYTES:
        raise InvalidArtifact(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB", path=path)
    try:
        document: object = json.loads(local.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidArtifact(f"{path} is not valid JSON: {error}", path=path) from error
    if isinstance(document, dict) and "auto_map" in document:
        raise InvalidArtifact(
            f"{path} has auto_map: the model brings its own code, which Foundry never runs",
            path=path,
        )
    return document


def _hashed(path: str, local: Path) -> InspectedFile:
    digest = hashlib.sha256()
    size = 0
    with local.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return InspectedFile(path, local, size, digest.hexdigest(), _MEDIA_TYPES[local.suffix])


def _document(documents: dict[str, object], path: str) -> dict[str, object]:
    document = documents.get(path)
    if not isinstance(document, dict):
        raise InvalidArtifact(f"{path} is missing or not a JSON object", path=path)
    return document


def _model(
    files: tuple[InspectedFile, ...],
    paths: dict[str, Path],
    documents: dict[str, object],
    headers: dict[str, dict[str, Tensor]],
) -> Inspection:
    config = _document(documents, "config.json")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not all(isinstance(a, str) for a in architectures):
        raise InvalidArtifact("config.json names no architecture", path="config.json")
    if not headers:
        raise InvalidArtifact("there is no .safetensors file: a base model needs its weights")
    if not {"tokenizer.json", "tokenizer.model"} & {file.path for file in files}:
        raise InvalidArtifact("there is neither tokenizer.json nor tokenizer.model")
    _check_index(documents, headers)
    for path, tensors in headers.items():
        _check_finite(path, paths[path], tensors)
    lengths = [config[key] for key in _CONTEXT_KEYS if isinstance(config.get(key), int)]
    return Inspection(
        files=files,
        parameter_count=_count(headers),
        architecture=architectures[0] if architectures else None,
        context_length=int(str(lengths[0])) if lengths else None,
    )


def _check_index(documents: dict[str, object], headers: dict[str, dict[str, Tensor]]) -> None:
    index = documents.get("model.safetensors.index.json")
    if index is None:
        return
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise InvalidArtifact("model.safetensors.index.json has no weight_map")
    for name, path in weight_map.items():
        if name not in headers.get(str(path), {}):
            raise InvalidArtifact(f"the index places {name[:200]} in {path}, which lacks it")


def _count(headers: dict[str, dict[str, Tensor]]) -> int:
    return sum(tensor.elements for tensors in headers.values() for tensor in tensors.values())


def _adapter(
    files: tuple[InspectedFile, ...],
    paths: dict[str, Path],
    documents: dict[str, object],
    headers: dict[str, dict[str, Tensor]],
) -> Inspection:
    config = _document(documents, "adapter_config.json")
    rank, targets = config.get("r"), config.get("target_modules")
    if config.get("peft_type") != "LORA" or type(rank) is not int or rank < 1:
        raise InvalidArtifact(
            "adapter_config.json must have peft_type LORA and a rank r", path="adapter_config.json"
        )
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise InvalidArtifact("adapter_config.json must list its target_modules")
    if config.get("rank_pattern") or config.get("use_dora") or config.get("modules_to_save"):
        raise InvalidArtifact(
            "adapters with rank_pattern, DoRA or modules_to_save cannot be served: "
            "export a plain LoRA"
        )
    weights = "adapter_model.safetensors"
    if list(headers) != [weights]:
        raise InvalidArtifact(f"an adapter has exactly one weights file, {weights}")
    _check_lora(headers[weights], rank, targets)
    _check_finite(weights, paths[weights], headers[weights])
    return Inspection(
        files=files,
        parameter_count=_count(headers),
        lora_rank=rank,
        lora_targets=tuple(sorted(targets)),
    )


def _check_finite(path: str, local: Path, tensors: dict[str, Tensor]) -> None:
    if bad := first_non_finite(local, tensors):
        raise InvalidArtifact(
            f"{path}: {bad[:200]} holds NaN or infinity: the training diverged, or the file is "
            "damaged",
            path=path,
        )


def _check_lora(tensors: dict[str, Tensor], rank: int, targets: list[str]) -> None:
    if not tensors:
        raise InvalidArtifact("the adapter has no tensors")
    for name, tensor in tensors.items():
        module, kind = next(
            ((name.removesuffix(end), end) for end in (_LORA_A, _LORA_B) if name.endswith(end)),
            (name, ""),
        )
        if not kind:
            raise InvalidArtifact(f"{name[:200]} is not part of a LoRA adapter")
        if not any(module == target or module.endswith(f".{target}") for target in targets):
            raise InvalidArtifact(f"{name[:200]} belongs to none of the target_modules")
        if len(tensor.shape) != 2 or tensor.shape[0 if kind == _LORA_A else 1] != rank:
            raise InvalidArtifact(
                f"{name[:200]} has shape {list(tensor.shape)}, which does not fit rank {rank}"
            )
        if module + (_LORA_B if kind == _LORA_A else _LORA_A) not in tensors:
            raise InvalidArtifact(f"{name[:200]} lacks its counterpart")

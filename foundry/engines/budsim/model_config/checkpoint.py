"""A `ModelSpec` from a directory as `huggingface_hub` downloads it."""

import json
import struct
from pathlib import Path

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.model_config.spec import model_spec
from foundry.engines.model_files import CONFIG, WEIGHTS_INDEX, WEIGHTS_SUFFIX
from foundry.errors import InvalidArtifact, InvalidRequest

_HEADER_LENGTH = struct.Struct("<Q")


def model_spec_of(directory: Path) -> ModelSpec:
    """Reads `config.json` and the size of the weights: from the safetensors index, else from the
    safetensors files; without either the size stays unknown.

    Raises:
        InvalidRequest: the directory has no readable `config.json`.
        InvalidArtifact: an index or a weights file is damaged.
    """
    path = directory / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read; is this a model directory?") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not valid JSON; download it again") from error
    if not isinstance(config, dict):
        raise InvalidRequest(f"{path} is not a JSON object; download it again")
    return model_spec(config, checkpoint_bytes=_checkpoint_bytes(directory))


def _checkpoint_bytes(directory: Path) -> int | None:
    index = directory / WEIGHTS_INDEX
    if index.is_file():
        try:
            size = json.loads(index.read_bytes())["metadata"]["total_size"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise InvalidArtifact(f"{index.name} has no metadata.total_size") from error
        # Some converters write the size as a float.
        if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 2**60:
            raise InvalidArtifact(f"{index.name}: metadata.total_size is {str(size)[:80]!r}")
        return int(size)
    files = sorted(directory.glob(f"model*{WEIGHTS_SUFFIX}"))
    return sum(map(_data_bytes, files)) if files else None


def _data_bytes(path: Path) -> int:
    """Of the tensors: the file less its header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_HEADER_LENGTH.size)
    if len(prefix) < _HEADER_LENGTH.size:
        raise InvalidArtifact(f"{path.name} has only {size} bytes: it is not a safetensors file")
    data = size - _HEADER_LENGTH.size - int(_HEADER_LENGTH.unpack(prefix)[0])
    if data < 0:
        raise InvalidArtifact(f"{path.name} is shorter than its header says; download it again")
    return data

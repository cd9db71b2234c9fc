"""A trained predictor as one object: what travels to the object store and back.

A ZIP archive without compression and without times, so that the same folder gives the same bytes.
"""

import hashlib
import io
import re
import tempfile
import zipfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from foundry.engines.budsim.artifact import SHIPPED, Artifact, load
from foundry.engines.budsim.promotion import Scores, splits
from foundry.errors import InvalidArtifact, InvalidRequest

MAX_BYTES = 7 * 2**20
_MAX_FILES = 100
_META = "meta.json"
_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+){0,5}\.ubj|meta\.json")


def pack(directory: Path) -> bytes:
    """A fitted predictor as one archive.

    Raises InvalidRequest: the folder holds no predictor, or one that is too large.
    """
    names = sorted(path.name for path in directory.glob("*") if _NAME.fullmatch(path.name))
    if _META not in names:
        raise InvalidRequest(f"{directory} holds no predictor: run `foundry budsim fit`")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), (directory / name).read_bytes())
    data = content.getvalue()
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"{directory} is larger than {MAX_BYTES >> 20} MiB")
    return data


def digest(packed: bytes) -> str:
    """sha256, lower-case hex."""
    return hashlib.sha256(packed).hexdigest()


def unpack(packed: bytes) -> Artifact:
    """The predictor in an archive.

    Raises InvalidArtifact: the bytes are no predictor that this Foundry reads.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="budsim-") as folder:
            _extract(packed, Path(folder))
            return load(Path(folder))
    except InvalidRequest as error:
        raise InvalidArtifact(f"this is no trained predictor: {error.message}") from error
    except zipfile.BadZipFile as error:
        raise InvalidArtifact(
            "this is no trained predictor: it is no zip archive, as `foundry budsim fit` writes one"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArtifact(
            "this is no trained predictor: send what `foundry budsim fit` has written"
        ) from error


def _extract(packed: bytes, folder: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        entries = archive.infolist()
        if len(entries) > _MAX_FILES or sum(one.file_size for one in entries) > MAX_BYTES:
            raise InvalidRequest("it is too large")
        for entry in entries:
            if not _NAME.fullmatch(entry.filename):
                raise InvalidRequest(f"it holds a file {entry.filename[:80]!r}")
            (folder / entry.filename).write_bytes(archive.read(entry))


@cache
def shipped_scores() -> Scores:
    """Cross-validation of the model that Foundry ships, by split."""
    import json

    meta = files("foundry.engines.budsim").joinpath("models", SHIPPED, _META).read_text()
    return splits(json.loads(meta)["cv"])

"""A predictor as one object, and back."""

import io
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from foundry.engines.budsim import packing
from foundry.engines.budsim.artifact import load
from foundry.errors import InvalidArtifact, InvalidRequest

FOLDER = Path(str(files("foundry.engines.budsim"))) / "models" / "1"


def test_the_same_folder_gives_the_same_bytes_and_the_same_model() -> None:
    data = packing.pack(FOLDER)
    assert packing.pack(FOLDER) == data
    assert packing.unpack(data).digest == load().digest
    assert len(data) < packing.MAX_BYTES


def test_the_shipped_scores_are_those_of_its_card() -> None:
    scores, cv = packing.shipped_scores(), load().cv
    assert scores["tpot/model"] == cv["tpot"]["model"]
    assert len(scores) == sum(map(len, cv.values()))


def _archive(**files_: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files_.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "zip"),
        (b"PK\x03\x04", "zip"),
        (_archive(**{"../meta.json": b"{}"}), "holds a file"),
        (_archive(**{"run.py": b""}), "holds a file"),
        (_archive(**{"meta.json": b" " * (packing.MAX_BYTES + 1)}), "too large"),
        (_archive(**{"meta.json": b"{}"}), "format"),
        (_archive(**{"meta.json": b"[]"}), "no trained predictor"),
    ],
)
def test_what_is_no_predictor_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidArtifact, match=f"(?i){words}"):
        packing.unpack(data)


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="foundry budsim fit"):
        packing.pack(tmp_path)

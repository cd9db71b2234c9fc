"""A predictor on disk."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foundry.engines.budsim import artifact
from foundry.engines.budsim.artifact import LEVELS, TAILS, half_width, load
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.features import full, lean
from foundry.engines.budsim.fitting.rows import _shapes
from foundry.engines.budsim.physics import prior
from foundry.engines.budsim.prediction import NOVELTIES
from foundry.errors import InvalidRequest
from tests.engines.budsim.serving_cases import random_points

SHIPPED = Path(artifact.__file__).parent / "models" / artifact.SHIPPED
META = json.loads((SHIPPED / "meta.json").read_text())


def test_a_round_trip_keeps_every_byte(tmp_path: Path) -> None:
    shipped = load()
    shipped.save(tmp_path)
    assert load(tmp_path).digest == shipped.digest
    names = sorted(path.name for path in SHIPPED.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes(), name


def test_a_round_trip_keeps_predictions(tmp_path: Path) -> None:
    load().save(tmp_path)
    some = random_points(64)
    terms = prior(some)
    for name, before in load().targets.items():
        after = load(tmp_path).targets[name]
        for blend in before.blends.values():
            one = before.ensemble.predict(some, terms, blend)
            assert one.tolist() == after.ensemble.predict(some, terms, blend).tolist()


def test_a_digest_tells_versions_apart() -> None:
    shipped = load()
    assert len(shipped.digest) == 64
    assert shipped.renamed("2").digest != shipped.digest
    assert shipped.renamed("2").renamed(shipped.version).digest == shipped.digest


def test_the_shipped_artifact_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 5_000_000


def test_the_card_says_where_the_data_are_from() -> None:
    card = META["card"]
    assert [line.split(" ")[0] for line in card["attributions"]] == ["InferenceX", "LLM-Pilot"]
    assert "Apache-2.0" in card["attributions"][0]
    assert "CDLA-Permissive-2.0" in card["attributions"][1]
    assert all(len(digest) == 64 for digest in card["data"].values())
    assert len(card["data"]) == 4


def test_the_shipped_folder_names_no_model_and_no_gpu() -> None:
    names = set(Catalogue.shipped().ids) | {gpu.name for gpu in Catalogue.shipped()} - {"CPU"}
    names |= {part for name in _shapes()[0] for part in name.split("/") if len(part) > 3}
    names -= {"cpu", "openai", "google", "facebook", "nvidia"}
    for path in SHIPPED.iterdir():
        content = path.read_bytes().lower()
        found = {name for name in names if name.lower().encode() in content}
        assert not found, path.name


def test_regressors_see_as_many_columns_as_there_are_features() -> None:
    some = random_points(2)
    widths = {
        "full": len(full(some, prior(some), np.zeros(2))),
        "lean": len(lean(some, prior(some), np.zeros(2))),
    }
    for target in load().targets.values():
        for name, booster in target.ensemble.boosters.items():
            kind = target.ensemble.members[name].features
            assert kind is not None
            assert booster.num_features() == widths[kind]
            assert booster.feature_names is None


def test_blends_are_means_of_members_that_are_there() -> None:
    for target in load().targets.values():
        assert set(target.blends) == set(NOVELTIES)
        for blend in target.blends.values():
            assert sum(blend.values()) == pytest.approx(1.0)
            assert set(blend) <= set(target.ensemble.members)
        (name,) = target.prior_blend
        assert target.ensemble.members[name].features is None


def test_quantiles_grow_with_the_level() -> None:
    for target in load().targets.values():
        for table in (target.quantiles, target.prior_quantiles):
            assert set(table) == set(NOVELTIES)
            for values in table.values():
                assert len(values) == len(LEVELS)
                assert values == sorted(values)
                assert values[0] > 0


def test_half_widths_are_interpolated() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert half_width(values, 0.9) == 0.6
    assert half_width(values, 0.65) == pytest.approx(0.25)
    assert half_width(values, 0.2) == 0.1
    assert half_width(values, 1.0) == 0.8


@pytest.mark.parametrize(
    ("target", "split", "gate"),
    [
        ("tpot", "random", 6),
        ("tpot", "family and tp", 10),
        ("tpot", "family", 12),
        ("tpot", "GPU and engine pair", 14),
        ("tpot", "engine", 18),
        # Below the page's 15 and 21: the issue asks for more.
        ("tpot", "GPU", 14),
        ("tpot", "model", 19),
        ("ttft", "random", 12),
        ("ttft", "family and tp", 20),
        ("ttft", "family", 25),
        ("ttft", "GPU and engine pair", 31),
        ("ttft", "engine", 75),
        ("ttft", "GPU", 33),
        ("ttft", "model", 36),
    ],
)
def test_the_shipped_scores_pass_their_gates(target: str, split: str, gate: float) -> None:
    """MdAPE, %, rows left out by group."""
    assert 0 < META["cv"][target][split] <= gate


@pytest.mark.parametrize("target", ["tpot", "ttft"])
def test_intervals_held_for_groups_left_out(target: str) -> None:
    found = META["card"]["coverage_90"][target]
    for split in ("family", "GPU and engine pair", "model", "GPU", "engine"):
        assert 0.85 <= found[split]["mean"] <= 0.95, split


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _written(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def _truncated(folder: Path) -> None:
    path = folder / f"tail.{TAILS[0]}.ubj"
    path.write_bytes(path.read_bytes()[:1000])


def _lacking(folder: Path) -> None:
    (folder / "meta.json").write_text(json.dumps({**META, "seen": {}}))


def _unknown_member(folder: Path) -> None:
    meta = json.loads(json.dumps(META))
    member = next(iter(meta["targets"]["tpot"]["members"].values()))
    member["colour"] = "red"
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("meta.json"), "holds no predictor"),
        (_written("meta.json", b"{"), "holds no predictor"),
        (_written("meta.json", b"[]"), "holds no predictor"),
        (_written("meta.json", b"\xff\xfe"), "holds no predictor"),
        (_written("meta.json", b'{"format": 1}'), "meta.json is damaged"),
        (_lacking, "meta.json is damaged"),
        (_unknown_member, "meta.json is damaged"),
        (_without("tpot.step.raw.full.ubj"), "is missing: fit the predictor again"),
        (_written("tail.p95_over_p50.ubj", b""), "is damaged"),
        (_written("tail.p95_over_p50.ubj", b"not a booster"), "is damaged"),
        (_truncated, "is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED, folder)
    damage(folder)
    with pytest.raises(InvalidRequest, match=message):
        load(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="run `foundry budsim fit`"):
        load(tmp_path / "none")


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({**META, "format": 2}))
    with pytest.raises(InvalidRequest, match="has format 2, this Foundry reads 1"):
        load(tmp_path)

"""A trained predictor on disk: boosters, constants, and what is known of its errors.

`meta.json` holds everything but the trees; `<target>.<member>.ubj` are XGBoost's own format.
Nothing in the folder runs code when it is loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundry.engines.budsim.calibration import Calibration
from foundry.engines.budsim.ensemble import Ensemble, Member
from foundry.engines.budsim.novelty import Seen
from foundry.engines.budsim.prediction import Novelty
from foundry.errors import InvalidRequest

if TYPE_CHECKING:
    from xgboost import Booster

SHIPPED = "1"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Target:
    """One predicted quantity.

    Attributes:
        blends: weights of members by novelty.
        quantiles: |log error| of rows left out, by novelty, at LEVELS.
        prior_quantiles: of the calibrated prior alone.
    """

    ensemble: Ensemble
    blends: Mapping[Novelty, Mapping[str, float]]
    quantiles: Mapping[Novelty, list[float]]
    prior_quantiles: Mapping[Novelty, list[float]]

    @property
    def prior_blend(self) -> Mapping[str, float]:
        """The calibrated prior and nothing else."""
        members = self.ensemble.members.values()
        return {next(one.name for one in members if one.features is None): 1.0}


# Confidence levels at which quantiles are kept; in between they are interpolated.
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
TAILS = ("mean_over_p50", "p95_over_p50")


@dataclass(frozen=True)
class Artifact:
    """A version of the predictor.

    Attributes:
        targets: `tpot` and `ttft`, means.
        tails: boosters of the logs of TAILS.
        cv: MdAPE by target and split, %; what `foundry budsim compare` compares.
        card: blends, data, attributions.
    """

    version: str
    targets: Mapping[str, Target]
    tails: Mapping[str, "Booster"]
    seen: Seen
    cv: Mapping[str, Mapping[str, float]]
    card: Mapping[str, object]

    def save(self, directory: Path) -> None:
        """Write the folder, in place of what it held; the same artifact gives the same bytes."""
        directory.mkdir(parents=True, exist_ok=True)
        for old in directory.glob("*.ubj"):
            old.unlink()
        for name, content in self._files().items():
            (directory / name).write_bytes(content)
        text = json.dumps(self._meta(), indent=1, sort_keys=True, ensure_ascii=False)
        (directory / "meta.json").write_text(text + "\n")

    @property
    def digest(self) -> str:
        """sha256 over what `save` writes."""
        return _sha256(json.dumps(self._meta(), sort_keys=True).encode())

    def renamed(self, version: str) -> "Artifact":
        return replace(self, version=version)

    def _files(self) -> dict[str, bytes]:
        """Trees by the name of their file."""
        found = {
            f"{target}.{member}.ubj": booster
            for target, entry in self.targets.items()
            for member, booster in entry.ensemble.boosters.items()
        }
        found |= {f"tail.{name}.ubj": booster for name, booster in self.tails.items()}
        return {name: bytes(booster.save_raw("ubj")) for name, booster in found.items()}

    def _meta(self) -> dict[str, object]:
        return {
            "format": _FORMAT,
            "version": self.version,
            "files": {name: _sha256(content) for name, content in self._files().items()},
            "targets": {name: _described(target) for name, target in self.targets.items()},
            "tails": list(self.tails),
            "seen": self.seen.to_dict(),
            "cv": self.cv,
            "card": self.card,
        }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _described(target: Target) -> dict[str, object]:
    return {
        "members": {name: asdict(one) for name, one in target.ensemble.members.items()},
        "calibrations": {
            kind: dict(found.constants) for kind, found in target.ensemble.calibrations.items()
        },
        "blends": target.blends,
        "quantiles": target.quantiles,
        "prior_quantiles": target.prior_quantiles,
    }


def load(directory: Path | None = None) -> Artifact:
    """Read a version; None: the one that ships with Foundry.

    Raises:
        InvalidRequest: the folder holds no predictor of this format.
    """
    where = directory or Path(str(files("foundry.engines.budsim"))) / "models" / SHIPPED
    try:
        meta = json.loads((where / "meta.json").read_text())
        found = meta.get("format")
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidRequest(f"{where} holds no predictor: run `foundry budsim fit`") from error
    if found != _FORMAT:
        raise InvalidRequest(
            f"{where} has format {found}, this Foundry reads {_FORMAT}: fit it again"
        )
    try:
        return _artifact(where, meta)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest(f"{where}/meta.json is damaged: fit the predictor again") from error


def _artifact(where: Path, meta: Mapping[str, Any]) -> Artifact:
    trees = {name: _booster(where / name, digest) for name, digest in meta["files"].items()}
    return Artifact(
        version=meta["version"],
        targets={name: _target(trees, name, entry) for name, entry in meta["targets"].items()},
        tails={name: trees[f"tail.{name}.ubj"] for name in meta["tails"]},
        seen=Seen.from_dict(meta["seen"]),
        cv=meta["cv"],
        card=meta["card"],
    )


def _target(
    trees: Mapping[str, "Booster"], name: str, entry: Mapping[str, dict[str, dict[str, object]]]
) -> Target:
    members = {key: Member(**value) for key, value in entry["members"].items()}  # type: ignore[arg-type]
    return Target(
        Ensemble(
            {kind: Calibration(kind, found) for kind, found in entry["calibrations"].items()},  # type: ignore[misc,arg-type]
            members,
            {
                key: trees[f"{name}.{key}.ubj"]
                for key, member in members.items()
                if member.features is not None
            },
        ),
        entry["blends"],  # type: ignore[arg-type]
        entry["quantiles"],  # type: ignore[arg-type]
        entry["prior_quantiles"],  # type: ignore[arg-type]
    )


def _booster(path: Path, digest: str) -> "Booster":
    import xgboost

    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} is missing: fit the predictor again") from error
    # XGBoost ends the process where a file is damaged.
    if _sha256(content) != digest:
        raise InvalidRequest(f"{path} is damaged: fit the predictor again")
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(content))
    return booster


def half_width(quantiles: list[float], confidence: float) -> float:
    """Half the interval's width in logs at a confidence of 0.5 to 0.99."""
    return float(np.interp(confidence, LEVELS, quantiles))

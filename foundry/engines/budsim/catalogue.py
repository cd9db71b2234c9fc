"""Accelerators as data: what a datasheet promises and what an hour costs."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Self

import yaml

from foundry.errors import InvalidRequest
from foundry.validation import tell_place

LINKS = ("nvlink", "pcie", "fabric", "none")
COMPUTE_FORMATS = ("bf16", "fp16", "fp8", "int8", "fp4")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator of the catalogue. Peaks are dense; 0 where the hardware has no such unit.

    Attributes:
        memory_gb: 10⁹ bytes.
        bandwidth_gbps: of its memory, 10⁹ bytes/s.
        bf16_tflops, fp16_tflops, fp8_tflops, int8_tops, fp4_tflops: 10¹² operations/s.
        link_gbps: to its neighbours in the node, 10⁹ bytes/s in one direction.
        link: `nvlink`, `pcie`, `fabric` or `none`.
        price_per_hour: $; None: unknown, to be configured.
        price_source: where the price is from.
        verified: every number has a source; False: at least one is unverified.
        attained_bandwidth, attained_flops: measured share of the peaks, in (0, 1]; 1 unmeasured.
        source: where the peaks are from.
        aliases: other names, as drivers, Ray and data sets use them.
    """

    id: str
    name: str
    vendor: str
    memory_gb: float
    bandwidth_gbps: float
    bf16_tflops: float
    fp16_tflops: float
    fp8_tflops: float
    int8_tops: float
    fp4_tflops: float
    link_gbps: float
    link: str
    price_per_hour: float | None
    price_source: str
    verified: bool
    attained_bandwidth: float = 1.0
    attained_flops: float = 1.0
    source: str = ""
    aliases: tuple[str, ...] = ()

    def flops(self, compute: str) -> float:
        """Peak operations/s of a compute format: bf16, fp16, fp8, int8 or fp4; 0: unsupported."""
        peaks = {
            "bf16": self.bf16_tflops,
            "fp16": self.fp16_tflops,
            "fp8": self.fp8_tflops,
            "int8": self.int8_tops,
            "fp4": self.fp4_tflops,
        }
        return peaks[compute] * 1e12

    def arithmetic(self, weights: str) -> tuple[float, float]:
        """Peak operations/s with weights of a format, and 1 where it runs in that format, else 0.

        Weights without a unit of their own are widened to 16 bits first, as int4 always is.
        """
        wide = self.flops("bf16") or self.flops("fp16")
        if weights in ("fp8", "int8", "fp4"):
            peak = self.flops(weights)
            return (peak, 1.0) if peak > 0 else (wide, 0.0)
        return wide, float(weights != "int4")


class Catalogue:
    """Accelerators by id. Immutable: changes give a new catalogue.

    Raises:
        InvalidRequest: two accelerators share a name.
    """

    def __init__(self, gpus: Iterable[Gpu]) -> None:
        self._gpus = {gpu.id: gpu for gpu in gpus}
        self._names: dict[str, str] = {}
        for gpu in self._gpus.values():
            for name in (gpu.id, *gpu.aliases):
                owner = self._names.setdefault(_normal(name), gpu.id)
                if owner != gpu.id:
                    raise InvalidRequest(
                        f"catalogue: {name!r} names both {owner} and {gpu.id}; remove one alias"
                    )

    @classmethod
    def shipped(cls) -> Self:
        """The catalogue that comes with the package."""
        return cls(_shipped_gpus())

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._gpus)

    def __iter__(self) -> Iterator[Gpu]:
        return iter(self._gpus.values())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _normal(name) in self._names

    def gpu(self, name: str) -> Gpu:
        """By id or alias; case and punctuation do not matter.

        Raises:
            InvalidRequest: unknown; the message names near ids.
        """
        owner = self._names.get(_normal(name))
        if owner is None:
            near = dict.fromkeys(
                self._names[match]
                for match in difflib.get_close_matches(_normal(name), self._names, n=6, cutoff=0.5)
            )
            hint = (
                f"did you mean {', '.join(list(near)[:3])}?"
                if near
                else "`foundry budsim catalogue` lists them"
            )
            raise InvalidRequest(
                f"no accelerator {name[:80]!r} in the catalogue; {hint}", field="gpu"
            )
        return self._gpus[owner]

    def with_gpu(self, gpu: Gpu) -> Self:
        """This accelerator added, or put in the place of the one with its id."""
        return type(self)({**self._gpus, gpu.id: gpu}.values())

    def with_prices(self, prices: Mapping[str, float]) -> Self:
        """$ per accelerator and hour, by id or alias.

        Raises:
            InvalidRequest: an unknown accelerator, or a price that is not a positive number.
        """
        changed = dict(self._gpus)
        for name, price in prices.items():
            gpu = self.gpu(name)
            checked = finite_number(price, f"price of {name}", low=0.0, exclusive=True)
            changed[gpu.id] = replace(gpu, price_per_hour=checked, price_source="configured")
        return type(self)(changed.values())

    def overlaid(self, text: str) -> Self:
        """Accelerators of a YAML document in the catalogue's form added; of those whose id or
        alias is known only the fields given change.

        Raises:
            InvalidRequest: names the accelerator and the field.
        """
        changed = dict(self._gpus)
        for key, entry in _document(text).items():
            owner = self._names.get(_normal(key), key)
            changed[owner] = _gpu(owner, entry, self._gpus.get(owner))
        return type(self)(changed.values())

    def digest(self) -> str:
        """sha256 of every number and price, lower-case hex; the order plays no part."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content = [asdict(self._gpus[key]) for key in sorted(self._gpus)]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


@cache
def _shipped_gpus() -> tuple[Gpu, ...]:
    text = files("foundry.engines.budsim").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return tuple(_gpu(key, entry, None) for key, entry in _document(text).items())


def _normal(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _document(text: str) -> dict[str, object]:
    try:
        document = yaml.safe_load(text)
    # Dates that do not exist and endless integers are ValueErrors.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"catalogue: not valid YAML{tell_place(error)}") from error
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InvalidRequest("catalogue: expected a mapping of accelerator ids to their fields")
    return document


_POSITIVE = frozenset({"memory_gb", "bandwidth_gbps", "price_per_hour"})
_SHARES = frozenset({"attained_bandwidth", "attained_flops"})
_TEXTS = frozenset({"name", "vendor", "price_source", "source", "link"})
_FIELDS = {item.name: item for item in fields(Gpu)}
_OPTIONAL: dict[str, object] = {
    **{name: item.default for name, item in _FIELDS.items() if item.default is not MISSING},
    **dict.fromkeys(("bf16_tflops", "fp16_tflops", "fp8_tflops", "int8_tops", "fp4_tflops"), 0.0),
    "price_per_hour": None,
    "price_source": "",
    "verified": False,
}


def _gpu(key: str, entry: object, base: Gpu | None) -> Gpu:
    """One entry, on top of what is known of this id."""
    if not isinstance(entry, dict):
        raise InvalidRequest(f"catalogue: {key}: expected fields like memory_gb", field=key)
    known = asdict(base) if base else {**_OPTIONAL, "id": key}
    for name, value in entry.items():
        if name not in _FIELDS or name == "id":
            near = difflib.get_close_matches(str(name), _FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"accepted: {', '.join(_FIELDS)}"
            raise InvalidRequest(f"catalogue: {key}.{name} is unknown; {hint}", field=str(name))
        known[name] = _value(f"{key}.{name}", name, value)
    missing = [name for name in _FIELDS if name not in known]
    if missing:
        raise InvalidRequest(f"catalogue: {key} lacks {', '.join(missing)}", field=missing[0])
    gpu = Gpu(**known)
    if not any(gpu.flops(compute) for compute in COMPUTE_FORMATS):
        raise InvalidRequest(
            f"catalogue: {key} cannot compute; give bf16_tflops or another peak", field=key
        )
    return gpu


def _value(path: str, name: str, value: object) -> object:
    if name == "aliases":
        if not isinstance(value, list) or not all(isinstance(alias, str) for alias in value):
            raise InvalidRequest(f"catalogue: {path} must be a list of names", field=path)
        return tuple(value)
    if name == "verified":
        if not isinstance(value, bool):
            raise InvalidRequest(f"catalogue: {path} must be true or false", field=path)
        return value
    if name in _TEXTS:
        if not isinstance(value, str) or (name == "link" and value not in LINKS):
            accepted = " or ".join(LINKS) if name == "link" else "a string"
            raise InvalidRequest(f"catalogue: {path} must be {accepted}", field=path)
        return value
    if name == "price_per_hour" and value is None:
        return None
    share = name in _SHARES
    high = 1.0 if share else 1e6
    return finite_number(
        value, f"catalogue: {path}", low=0.0, high=high, exclusive=share or name in _POSITIVE
    )


def finite_number(
    value: object, what: str, *, low: float, high: float = 1e6, exclusive: bool = False
) -> float:
    """A finite number in [low, high]; `exclusive` leaves `low` out.

    Raises:
        InvalidRequest: names the value and the range.
    """
    # Comparing refuses NaN and infinities, and does not overflow on integers of any length.
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is not None and low <= number <= high and not (exclusive and number == low):
        return float(number)
    bound = "above" if exclusive else "from"
    raise InvalidRequest(
        f"{what} is {str(value)[:80]!r}; it must be a number {bound} {low:g} up to {high:g}",
        field=what,
    )

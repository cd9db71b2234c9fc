"""The prior with its efficiencies fitted: a few dozen physical constants, the same for all models.

Two forms. A step lasts a smooth maximum of compute and memory plus communication and the engine's
own overhead. A first token waits for a sum of terms: its own prefill, the step it joins, the
prompts that arrive with it. Constants that an engine may change are its own, drawn towards the
others. Both are fitted to logs of measurements with a robust loss and a pull towards plausible
constants, which is what lets them speak about models and accelerators that nobody measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foundry.engines.budsim.physics import Prior, Step, prior, static_terms
from foundry.engines.budsim.points import ENGINES, Column, Points

Kind = Literal["step", "first_token", "dated_first_token", "static"]
Vector = NDArray[np.float64]

# Months since January 2023 that count as now when an engine's release is unknown.
PRESENT_MONTH = 39.0
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Constant:
    """A fitted number: where it starts and how strongly it is held there (1/standard deviation)."""

    start: float
    pull: float


def _log(value: float, pull: float) -> Constant:
    return Constant(float(np.log(value)), pull)


# Logs of factors and of seconds, unless they say "shift": a shift adds to the log of the result.
_STEP: Mapping[str, Constant] = {
    "compute": _log(1.7, 0.9),
    "weights": _log(1.1, 1.5),
    "kv": _log(2.0, 0.9),
    "comm": _log(1.5, 1.5),
    "step_s": _log(1e-3, 0.9),
    "layer_s": _log(1e-5, 0.9),
    "tensor_parallel_s": _log(1e-4, 1.5),
    "sequence_s": _log(2e-6, 1.5),
    "sharpness": _log(3.0, 3.0),
    "mixture_weights": Constant(0.0, 1.5),
    "mixture_compute": Constant(0.0, 1.5),
    "four_bit_compute": Constant(0.0, 3.0),
    "sixteen_bit_weights": Constant(0.0, 3.0),
    "latent_kv": Constant(0.0, 3.0),
    "encoder_overhead": Constant(0.0, 0.6),
    "shift.encoder": Constant(0.0, 0.6),
    "shift.attention_parallel": Constant(0.0, 1.5),
    "shift.large_batch": Constant(0.0, 3.0),
    "shift.mixture_parallel": Constant(0.0, 3.0),
    **{f"overhead.{engine}": Constant(0.0, 3.0) for engine in ENGINES},
    **{f"shift.{engine}": Constant(0.0, 6.0) for engine in ENGINES},
}
_STATIC: Mapping[str, Constant] = {**_STEP, "prefill_compute": _log(1.8, 1.5)}

# Seconds, or factors of terms of the prior: see `_first_token_terms`.
_TERMS: Mapping[str, float] = {
    "constant": 1.0,
    "prefill": 1.5,
    "joined": 1.0,
    "burst": 0.05,
    "waves": 0.3,
    "layers": 1.0,
    "mixture_layers": 1.0,
    "attention_parallel": 0.5,
    "full_cache": 0.2,
    "sequences": 0.3,
    "interrupted": 0.1,
}
_SHIFTS = ("mixture", "latent", "four_bit", "sixteen_bit", "encoder")
_FIRST_TOKEN: Mapping[str, Constant] = {
    **{
        f"{term}.{engine}": _log(start, 0.5) for term, start in _TERMS.items() for engine in ENGINES
    },
    **{f"shift.{name}": Constant(0.0, 6.0) for name in _SHIFTS},
}
# Engines change with the months: kept apart, because what months explain accelerators may explain.
_DATED: Mapping[str, Constant] = {
    **_FIRST_TOKEN,
    **{f"shift.year.{engine}": Constant(0.0, 6.0) for engine in ENGINES},
}
_CONSTANTS: Mapping[Kind, Mapping[str, Constant]] = {
    "step": _STEP,
    "static": _STATIC,
    "first_token": _FIRST_TOKEN,
    "dated_first_token": _DATED,
}
# Same-named terms of different engines stay close: 1/standard deviation of their differences.
_KINSHIP = 1.5
_SOFT: Mapping[Kind, float] = {
    "step": 0.15,
    "static": 0.15,
    "first_token": 0.25,
    "dated_first_token": 0.25,
}
_EVALUATIONS = 40


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted constants of one kind, by name."""

    kind: Kind
    constants: Mapping[str, float]

    def log_seconds(self, points: Points, terms: Prior | None = None) -> Column:
        """Log of the calibrated time, seconds: of a step, to a first token, or of a batch."""
        inputs = _INPUTS[self.kind](points, terms)
        return _FORMS[self.kind](inputs, self.constants)


def fit(kind: Kind, points: Points, log_seconds: Column) -> Calibration:
    """Constants that explain measured times.

    Args:
        log_seconds: (N,), N at least 1.
    """
    from scipy.optimize import least_squares

    names = list(_CONSTANTS[kind])
    start = np.asarray([constant.start for constant in _CONSTANTS[kind].values()])
    pull = np.asarray([constant.pull for constant in _CONSTANTS[kind].values()])
    inputs = _INPUTS[kind](points, None)
    kin = [
        [names.index(f"{term}.{engine}") for engine in ENGINES]
        for term in (_TERMS if kind.endswith("first_token") else ())
    ]

    kinship = np.zeros((sum(len(rows) for rows in kin), len(names)))
    for block, rows in enumerate(kin):
        at = slice(block * len(rows), (block + 1) * len(rows))
        kinship[at, rows] = _KINSHIP * (np.eye(len(rows)) - 1.0 / len(rows))

    def residuals(vector: Vector) -> Vector:
        found = _FORMS[kind](inputs, dict(zip(names, vector, strict=True)))
        return np.concatenate([found - log_seconds, pull * (vector - start), kinship @ vector])

    def jacobian(vector: Vector) -> NDArray[np.float64]:
        assert isinstance(inputs, _TokenInputs)
        rows = _token_jacobian(inputs, dict(zip(names, vector, strict=True)))
        return np.concatenate([rows, np.diag(pull), kinship])

    result = least_squares(
        residuals,
        start,
        jac=jacobian if isinstance(inputs, _TokenInputs) else "2-point",
        loss="soft_l1",
        f_scale=_SOFT[kind],
        max_nfev=_EVALUATIONS,
    )
    # Rounded, so that the order of a sum on another machine changes nothing that follows.
    fitted = [round(float(value), _DIGITS) + 0.0 for value in result.x]
    return Calibration(kind, dict(zip(names, fitted, strict=True)))


@dataclass(frozen=True, slots=True)
class _StepInputs:
    points: Points
    step: Step
    prefill: Step | None = None


@dataclass(frozen=True, slots=True)
class _TokenInputs:
    """`terms` are seconds, (N, terms); `shifts` by name, (N,) each: what a constant multiplies."""

    points: Points
    terms: NDArray[np.float64]
    shifts: Mapping[str, Column]


def _step_inputs(points: Points, terms: Prior | None) -> _StepInputs:
    return _StepInputs(points, (terms or prior(points)).mixed)


def _static_inputs(points: Points, terms: Prior | None) -> _StepInputs:
    prefill, decode = static_terms(points)
    return _StepInputs(points, decode, prefill)


def step_parts(points: Points, step: Step, c: Mapping[str, float]) -> dict[str, Column]:
    """Calibrated terms of a step in seconds; the step lasts their sum times `factor`.

    Keys: weights, kv, compute, comm, overhead, factor. Where memory takes longer than compute,
    `compute` is what it adds to the smooth maximum, and the other way round.
    """
    mixture = points.experts > 0
    compute = step.compute * np.exp(
        c["compute"] + c["mixture_compute"] * mixture + c["four_bit_compute"] * (points.wb < 1)
    )
    weights = step.weights * np.exp(
        c["weights"] + c["mixture_weights"] * mixture + c["sixteen_bit_weights"] * (points.wb >= 2)
    )
    kv = step.kv * np.exp(c["kv"] + c["latent_kv"] * points.latent)
    memory = weights + kv
    core = _smooth_maximum(compute, memory, 1.0 + np.exp(c["sharpness"]))
    bound = memory >= compute
    scale = np.where(bound, 1.0, (core - compute) / np.maximum(memory, 1e-30))
    return {
        "weights": weights * scale,
        "kv": kv * scale,
        "compute": np.where(bound, core - memory, compute),
        "comm": step.comm * np.exp(c["comm"]),
        "overhead": _overhead(points, c),
        "factor": np.exp(_step_shift(points, c)),
    }


def _overhead(points: Points, c: Mapping[str, float]) -> Column:
    engine = _of_engine(points, c, "overhead") + c["encoder_overhead"] * points.encoder
    # Every pipeline stage is a process with a step of its own.
    own = (np.exp(c["step_s"]) + np.exp(c["sequence_s"]) * points.batch) * points.pp
    parallel = np.exp(c["tensor_parallel_s"]) * np.log2(points.tp)
    total: Column = own * np.exp(engine) + np.exp(c["layer_s"]) * points.layers + parallel
    return total


def _step_shift(points: Points, c: Mapping[str, float]) -> Column:
    mixture = points.experts > 0
    large = 0.3 * np.log(np.maximum(1.0, points.batch / 64.0))
    shift: Column = (
        _of_engine(points, c, "shift")
        + c["shift.encoder"] * points.encoder
        + c["shift.attention_parallel"] * (points.dp > 1)
        + c["shift.large_batch"] * large
        + c["shift.mixture_parallel"] * 0.1 * mixture * np.log(points.tp)
    )
    return shift


def _step_form(inputs: _StepInputs, c: Mapping[str, float]) -> Column:
    parts = step_parts(inputs.points, inputs.step, c)
    factor = parts.pop("factor")
    total: Column = np.log(sum(parts.values()) * factor)
    return total


def _static_form(inputs: _StepInputs, c: Mapping[str, float]) -> Column:
    assert inputs.prefill is not None
    prefill = inputs.prefill
    compute = prefill.compute * np.exp(c["prefill_compute"])
    memory = prefill.weights * np.exp(c["weights"])
    first = compute + memory + prefill.comm * np.exp(c["comm"])
    parts = step_parts(inputs.points, inputs.step, c)
    factor = parts.pop("factor")
    total: Column = np.log((first + inputs.points.output * sum(parts.values())) * factor)
    return total


# How far engines stay behind the roofline, about; the fitted factors correct it.
_TYPICAL = {"compute": 1.8, "weights": 1.1, "kv": 2.0, "comm": 1.5}
_WAVES = 10
# Outputs of one workload differ by a fifth, so a wave of users that started together spreads.
_SPREAD = 0.2


def typical(step: Step) -> Column:
    """Seconds of a step with the usual efficiencies."""
    memory = step.weights * _TYPICAL["weights"] + step.kv * _TYPICAL["kv"]
    core = _smooth_maximum(step.compute * _TYPICAL["compute"], memory, 3.0)
    return core + step.comm * _TYPICAL["comm"]


def _token_inputs(points: Points, terms: Prior | None) -> _TokenInputs:
    found = terms or prior(points)
    prefill, burst = typical(found.prefill), typical(found.burst)
    joined = typical(found.mixed) + 1e-3 * points.pp
    cycle = points.output * joined
    queue = points.batch * burst
    # Users that began together come back in waves that widen as √j.
    spreads = [_SPREAD * np.sqrt(j) * cycle for j in range(1, _WAVES)]
    waves = sum(np.maximum(0.0, queue - spread) for spread in spreads) / (2.0 * _WAVES)
    layers = points.layers * 1e-4
    columns = {
        "constant": np.full(len(points), 5e-3),
        "prefill": prefill,
        "joined": joined,
        "burst": queue,
        "waves": waves,
        "layers": layers,
        "mixture_layers": layers * (points.experts > 0),
        "attention_parallel": prefill * (points.dp > 1) * points.dp,
        "full_cache": cycle * np.maximum(0.0, 1.0 - 1.0 / np.maximum(found.pressure, 1e-9)),
        "sequences": points.batch * 1e-4,
        "interrupted": prefill * prefill / joined * np.minimum(queue / cycle, 1.0),
    }
    stacked = np.column_stack([columns[name] for name in _TERMS])
    return _TokenInputs(points, stacked, _shift_columns(points))


def _shift_columns(points: Points) -> dict[str, Column]:
    columns = {
        "shift.mixture": points.experts > 0,
        "shift.latent": points.latent,
        "shift.four_bit": points.wb < 1,
        "shift.sixteen_bit": points.wb >= 2,
        "shift.encoder": points.encoder,
    }
    years = (points.month - PRESENT_MONTH) / 12.0
    for code, engine in enumerate(ENGINES):
        columns[f"shift.year.{engine}"] = years * (points.engine == code)
    return {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}


def token_parts(
    points: Points, terms: Prior | None, c: Mapping[str, float]
) -> tuple[dict[str, Column], Column]:
    """Calibrated terms of a first token in seconds, and the factor on their sum."""
    inputs = _token_inputs(points, terms)
    parts = _weighed(inputs, c)
    return dict(zip(_TERMS, parts.T, strict=True)), np.exp(_token_shift(inputs, c))


def _weighed(inputs: _TokenInputs, c: Mapping[str, float]) -> NDArray[np.float64]:
    factors = np.exp([[c[f"{term}.{engine}"] for term in _TERMS] for engine in ENGINES])
    parts: NDArray[np.float64] = inputs.terms * factors[inputs.points.engine.astype(np.int64)]
    return parts


def _token_form(inputs: _TokenInputs, c: Mapping[str, float]) -> Column:
    seconds: Column = np.log(_weighed(inputs, c).sum(axis=1)) + _token_shift(inputs, c)
    return seconds


def _token_shift(inputs: _TokenInputs, c: Mapping[str, float]) -> Column:
    zero = np.zeros(len(inputs.points))
    return sum((c[name] * column for name, column in inputs.shifts.items() if name in c), zero)


def _token_jacobian(inputs: _TokenInputs, c: Mapping[str, float]) -> NDArray[np.float64]:
    """d log seconds / d constant, (N, constants): the share of each term, the shift's column."""
    parts = _weighed(inputs, c)
    shares = parts / parts.sum(axis=1, keepdims=True)
    columns = [
        shares[:, index] * (inputs.points.engine == code)
        for index in range(len(_TERMS))
        for code in range(len(ENGINES))
    ]
    return np.column_stack([*columns, *(inputs.shifts[name] for name in c if "shift" in name)])


def _of_engine(points: Points, c: Mapping[str, float], name: str) -> Column:
    return np.asarray([c[f"{name}.{engine}"] for engine in ENGINES])[points.engine.astype(np.int64)]


def _smooth_maximum(a: Column, b: Column, power: float) -> Column:
    """(a^p + b^p)^(1/p): between the maximum and the sum."""
    largest = np.maximum(np.maximum(a, b), 1e-30)
    total: Column = largest * ((a / largest) ** power + (b / largest) ** power) ** (1.0 / power)
    return total


_Form = Callable[..., Column]
_INPUTS: Mapping[Kind, Callable[[Points, Prior | None], _StepInputs | _TokenInputs]] = {
    "step": _step_inputs,
    "static": _static_inputs,
    "first_token": _token_inputs,
    "dated_first_token": _token_inputs,
}
_FORMS: Mapping[Kind, _Form] = {
    "step": _step_form,
    "static": _static_form,
    "first_token": _token_form,
    "dated_first_token": _token_form,
}

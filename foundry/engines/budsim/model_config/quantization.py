"""The format in which a checkpoint stores its weights."""

from collections.abc import Mapping

from foundry.engines.budsim.architecture import WeightFormat
from foundry.engines.budsim.model_config.fields import Config, checked_integer
from foundry.errors import InvalidRequest

_DTYPES: dict[str, WeightFormat] = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "float8_e4m3fn": "fp8",
    "bf16": "bf16",
    "fp16": "fp16",
    "half": "fp16",
    "float": "fp32",
}
_METHODS: dict[str, WeightFormat] = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "finegrained_fp8": "fp8",
    "mxfp4": "fp4",
}
_ALGORITHMS: dict[str, WeightFormat] = {
    "FP8": "fp8",
    "NVFP4": "fp4",
    "W4A16_AWQ": "int4",
    "W8A8_SQ_PER_CHANNEL": "int8",
}
_BY_BITS = frozenset({"gptq", "awq", "auto-round", "gptq_marlin", "awq_marlin", "intel/auto-round"})
_ACCEPTED = (*_METHODS, *sorted(_BY_BITS), "bitsandbytes", "compressed-tensors", "modelopt")


def weight_format(text: Config, outer: Config) -> WeightFormat:
    """Of most weights; multimodal files carry the quantisation inside or outside `text_config`.

    Raises:
        InvalidRequest: the quantisation is unknown; the message lists what is accepted.
    """
    section = text.section("quantization_config") or outer.section("quantization_config")
    if section:
        return _quantised(section)
    for config in (text, outer):
        dtype = config.text("dtype") or config.text("torch_dtype")
        if dtype:
            return _known(_DTYPES, dtype.removeprefix("torch."), "dtype")
    return "bf16"


def _quantised(section: Mapping[str, object]) -> WeightFormat:
    method = str(section.get("quant_method", ""))
    if method in _METHODS:
        return _METHODS[method]
    if method in _BY_BITS:
        return _integer_format(section.get("bits", section.get("w_bit", 4)))
    if method == "bitsandbytes":
        return "int4" if section.get("load_in_4bit") else "int8"
    if method == "compressed-tensors":
        return _compressed_tensors(section)
    if method.startswith("modelopt"):
        return _known(_ALGORITHMS, str(section.get("quant_algo", "")), "quant_algo")
    raise InvalidRequest(
        f"config.json: quantization_config.quant_method {method[:80]!r} is unknown; accepted: "
        f"{', '.join(_ACCEPTED)}",
        field="quantization_config.quant_method",
    )


def _compressed_tensors(section: Mapping[str, object]) -> WeightFormat:
    groups = section.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            if weights.get("type") == "float":
                return "fp4" if weights.get("num_bits") == 4 else "fp8"
            return _integer_format(weights.get("num_bits"))
    raise InvalidRequest(
        "config.json: quantization_config.config_groups names no weights; give num_bits and type",
        field="quantization_config.config_groups",
    )


def _integer_format(bits: object) -> WeightFormat:
    number = checked_integer("quantization_config.bits", bits, low=2, high=8)
    return "int4" if number <= 4 else "int8"


def _known(table: Mapping[str, WeightFormat], value: str, key: str) -> WeightFormat:
    if value not in table:
        raise InvalidRequest(
            f"config.json: `{key}` {value[:80]!r} is unknown; accepted: {', '.join(table)}",
            field=key,
        )
    return table[value]

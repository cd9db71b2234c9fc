"""Layers compiled by torch: what lies between the matrix products becomes few kernels."""

import importlib.util
import shutil

import torch

from foundry.engines.training.decoder.experts import SparseMLP
from foundry.engines.training.decoder.model import Decoder, DecoderLayer
from foundry.errors import UnsupportedFeature

_C_COMPILERS = ("g++", "c++", "clang++", "gcc", "cc", "clang")


def require_compiler(device: torch.device) -> None:
    """Check for what torch compiles with.

    Raises:
        UnsupportedFeature: it is missing.
    """
    # Triton builds the launchers of its kernels with a C compiler, too.
    if not any(map(shutil.which, _C_COMPILERS)):
        raise UnsupportedFeature(
            "compile is set, but this node has no C++ compiler: install g++, or leave compile out"
        )
    if device.type != "cpu" and importlib.util.find_spec("triton") is None:
        raise UnsupportedFeature(
            "compile is set, but this node's torch came without triton: leave compile out"
        )


def compile_layers(model: Decoder) -> None:
    """Have every layer compiled when it is first called; one layer's code serves all like it.

    Attention stays as it is: its kernels are fused already, and the lengths of the segments, which
    change with every batch, would have it compiled again each time. So does the rotation beside it,
    which writes into halves of one tensor; and so do routed experts, whose shares of the tokens do.

    On two cores it did not pay: a minute to begin with, then steps of 0.7 (float32) to 1.9 times
    (bfloat16) the time.
    """
    for layer in model.model.layers:
        assert isinstance(layer, DecoderLayer)
        attention = layer.self_attn
        attention.mix = torch.compiler.disable(attention.mix)  # type: ignore[method-assign,no-untyped-call]
        if isinstance(layer.mlp, SparseMLP):
            layer.mlp.forward = torch.compiler.disable(layer.mlp.forward)  # type: ignore[method-assign,no-untyped-call]
        # Tokens of a batch change as well: their number is a variable of the code.
        layer.compile(dynamic=True)

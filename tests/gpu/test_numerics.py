"""One model on the device and on the processor: the same numbers, whatever shares the stream."""

from pathlib import Path

import pytest
import torch

from foundry.engines.training.config import Lora
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.attention import attend
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.projection import Projection
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.devices import read_traits
from foundry.engines.training.precision import choose_precision, find_rule
from tests.gpu.streams import Stream, loss_sum, run

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
# Segments of one length have a kernel of their own, so have those of many.
EQUAL, RAGGED = Stream.draw((128, 128, 128)), Stream.draw((40, 1, 130, 17, 64))
NARROW = (torch.bfloat16, torch.float16)


def load(
    model_dir: Path, device: torch.device, compute: torch.dtype = torch.float32, rank: int = 0
) -> Decoder:
    """The model, with an adapter that changes something if a rank is given."""
    stored = compute if rank else torch.float32
    model = load_model(model_dir, dtype=stored, compute_dtype=compute, device=device)
    if rank:
        lora.attach(model, Lora(rank=rank), 0)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                noise = 0.02 * torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(noise)
    return model


def skip_where_it_is_slow(device: torch.device, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    if device.type != "cpu" and name not in find_rule(read_traits(device)).formats:
        pytest.skip(f"the device computes {name} slowly or not at all")


@torch.no_grad()
@pytest.mark.parametrize("stream", [EQUAL, RAGGED], ids=["equal", "ragged"])
@pytest.mark.parametrize("rank", [0, 8])
def test_float32_logits_are_the_processor_s(
    device: torch.device, model_dir: Path, stream: Stream, rank: int
) -> None:
    logits = []
    for where in (device, CPU):
        model = load(model_dir, where, rank=rank)
        logits.append(model.lm_head(run(model, stream)).cpu())
    assert logits[1].abs().max() > 1
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 8])
def test_gradients_are_the_processor_s(device: torch.device, model_dir: Path, rank: int) -> None:
    gradients = []
    for where in (device, CPU):
        model = load(model_dir, where, rank=rank)
        model.train()
        torch.autograd.backward(loss_sum(model, RAGGED) / 100)
        gradients.append(
            {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) == (2 * 7 * 4 if rank else 2 + 9 * 4)
    for name, expected in gradients[1].items():
        size = expected.abs().max().item()
        torch.testing.assert_close(gradients[0][name], expected, rtol=0, atol=1e-4 * size)


@torch.no_grad()
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("stream", [EQUAL, RAGGED], ids=["equal", "ragged"])
def test_narrow_losses_are_near_float32_s(
    device: torch.device, model_dir: Path, dtype: torch.dtype, stream: Stream
) -> None:
    skip_where_it_is_slow(device, dtype)
    count = len(stream.tokens_T) - len(stream.segments)
    wide = loss_sum(load(model_dir, CPU, rank=8), stream).item() / count
    narrow = loss_sum(load(model_dir, device, dtype, rank=8), stream).item() / count
    assert narrow == pytest.approx(wide, abs=0.02)


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "gap"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 4e-3)]
)
def test_packed_is_unpacked(
    device: torch.device, model_dir: Path, dtype: torch.dtype, gap: float
) -> None:
    skip_where_it_is_slow(device, dtype)
    model = load(model_dir, device, dtype, rank=8)
    count = len(RAGGED.tokens_T) - len(RAGGED.segments)
    alone = sum(loss_sum(model, part).item() for part in RAGGED.split() if len(part.tokens_T) > 1)
    assert loss_sum(model, RAGGED).item() / count == pytest.approx(alone / count, abs=gap)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
@pytest.mark.parametrize("segments", [EQUAL.segments, RAGGED.segments], ids=["equal", "ragged"])
def test_a_segment_does_not_touch_the_others(
    device: torch.device, model_dir: Path, dtype: torch.dtype, segments: tuple[int, ...]
) -> None:
    """Bit for bit: the others' hidden states do not change with its tokens."""
    skip_where_it_is_slow(device, dtype)
    model = load(model_dir, device, dtype, rank=8)
    before, after = Stream.draw(segments, seed=1), Stream.draw(segments, seed=1)
    start = sum(segments[:2])
    changed = slice(start, start + segments[2])
    after.tokens_T[changed] = Stream.draw((segments[2],), seed=2).tokens_T
    one, other = run(model, before), run(model, after)
    untouched = torch.ones(sum(segments), dtype=torch.bool)
    untouched[changed] = False
    assert torch.equal(one[untouched], other[untouched])
    assert not torch.equal(one[changed], other[changed])


@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("segments", [EQUAL.segments, RAGGED.segments], ids=["equal", "ragged"])
def test_attention_and_its_gradients(
    device: torch.device, dtype: torch.dtype, window: int | None, segments: tuple[int, ...]
) -> None:
    skip_where_it_is_slow(device, dtype)
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(sum(segments), heads, 64, generator=generator) for heads in (4, 2, 2, 4)]
    found = []
    for where, kind in ((device, dtype), (CPU, torch.float32)):
        # Both sides get the narrow values.
        q, k, v, weight = (x.to(dtype).to(where, kind, copy=True) for x in drawn)
        inputs = [x.requires_grad_() for x in (q, k, v)]
        out = attend(q, k, v, segments, window=window)
        torch.autograd.backward((out.float() * weight.float()).sum())
        gradients = [x.grad for x in inputs]
        found.append([x.detach().float().cpu() for x in (out, *gradients) if x is not None])
    gap = {torch.float32: 5e-5, torch.bfloat16: 0.02, torch.float16: 3e-3}[dtype]
    for one, expected in zip(*found, strict=True):
        size = expected.abs().max().item()
        torch.testing.assert_close(one, expected, rtol=0, atol=gap * size)


@torch.no_grad()
def test_base_and_adapter_are_rounded_once(device: torch.device, model_dir: Path) -> None:
    """An adapter's update below half a unit of the base's last place must not vanish."""
    skip_where_it_is_slow(device, torch.bfloat16)
    model = load(model_dir, device, torch.bfloat16, rank=8)
    projection = model.get_submodule("model.layers.0.mlp.gate_proj")
    assert isinstance(projection, Projection) and projection.attached is not None
    scale = projection.attached.scale
    x_TI = torch.randn(300, 256, generator=torch.Generator().manual_seed(4)).bfloat16()
    found_TO = projection(x_TI.to(device)).float().cpu()
    w_OI, a_RI, b_OR = (
        parameter.detach().cpu().bfloat16().float()
        for name in ("weight", "lora_A", "lora_B")
        for parameter in [projection.get_parameter(name)]
    )
    method = Lora(rank=8)
    scale = method.alpha / method.rank
    low_TR = x_TI.float() @ a_RI.T
    update_TO = scale * low_TR @ b_OR.T
    exact_TO = x_TI.float() @ w_OI.T + update_TO
    # Half a unit of the last of eight bits. The small parts may be rounded by themselves.
    bound_TO = exact_TO.abs() * 2**-8 + 2**-7 * scale * (low_TR.abs() @ b_OR.abs().T)
    within = ((found_TO - exact_TO).abs() <= bound_TO).float().mean().item()
    # Where base and update are rounded apart and then added, one in thirty is beyond it.
    assert within > 0.999


def test_one_seed_draws_one_adapter(device: torch.device, model_dir: Path) -> None:
    adapters = []
    for where in (device, CPU):
        model = load_model(model_dir, device=where)
        lora.attach(model, Lora(rank=8), seed=5)
        adapters.append({n: p.cpu() for n, p in model.named_parameters() if "lora_" in n})
    assert all(torch.equal(adapters[0][name], value) for name, value in adapters[1].items())
    assert any(value.abs().max() > 0 for value in adapters[0].values())


def test_auto_is_a_format_that_the_device_has(device: torch.device) -> None:
    chosen = choose_precision("auto", read_traits(device))
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        assert chosen == "bfloat16"
    x = torch.ones(64, 64, dtype=getattr(torch, chosen), device=device)
    assert (x @ x).float().cpu().eq(64).all()

"""LoRA products on CPUs."""

from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.engine

SLOTS, RANK, D_IN, SIZES = 4, 8, 24, (16, 8)


IDS = [11, None, 33, 44]


@pytest.mark.parametrize(
    "lora_of_token",
    [[0, 0, 0], [33] * 5, [11, 11, 0, 33, 33], [44, 11, 44, 0, 11, 33, 44], [11]],
    ids=["base alone", "one", "runs", "interleaved", "one token"],
)
def test_every_token_gets_its_own_adapter_and_the_base_none(lora_of_token: list[int]) -> None:
    """vLLM's own wrapper reads slot -1, the last one, for the base's tokens of a mixed batch."""
    from foundry.serving.engine.cpu_lora import GroupedLora

    torch.manual_seed(0)
    x = torch.randn(len(lora_of_token), D_IN)
    a = tuple(torch.randn(SLOTS, 1, RANK, D_IN) for _ in SIZES)
    b = tuple(torch.randn(SLOTS, 1, size, RANK) for size in SIZES)
    found = torch.randn(len(lora_of_token), sum(SIZES))
    expected = found.clone()
    for row, lora in enumerate(lora_of_token):
        if lora:
            slot = IDS.index(lora)
            parts = [
                0.5 * bi[slot, 0] @ (ai[slot, 0] @ x[row]) for ai, bi in zip(a, b, strict=True)
            ]
            expected[row] += torch.cat(parts)
    wrapper = GroupedLora(64, 64, "cpu")
    mapping = SimpleNamespace(
        index_mapping=tuple(lora_of_token), prompt_mapping=(0,), is_prefill=True
    )
    wrapper.update_metadata(mapping, IDS, SLOTS, 100)
    wrapper.add_lora_linear(found, x, a, b, 0.5, SIZES)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_rows_of_one_adapter_share_a_product() -> None:
    from foundry.serving.engine.cpu_lora import group_rows

    groups = dict(group_rows(torch.tensor([-1, 2, 2, 0, -1, 0])))
    assert groups[2] == slice(1, 3)
    assert isinstance(groups[0], torch.Tensor)
    assert groups[0].tolist() == [3, 5]
    assert set(groups) == {0, 2}


def test_vllm_takes_our_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import platforms
    from vllm.platforms import cpu_platform_plugin

    if not cpu_platform_plugin():
        pytest.skip("vLLM is built for an accelerator here")
    monkeypatch.setenv("VLLM_PLUGINS", "foundry")
    found = platforms.resolve_current_platform_cls_qualname()
    assert found == "foundry.serving.engine.cpu_platform.FoundryCpu"

import torch
from torch import nn

from foundry.engines.training.learner import Learner
from foundry.engines.training.optimisers.host import HostMasters
from tests.engines.training.diloco.toy import Toy, batch, learner, weights


def offloaded(model: nn.Module) -> Learner:
    masters = HostMasters(dict(model.named_parameters()))
    return Learner(
        model,  # type: ignore[arg-type]
        masters.parameters,
        lr=1e-2,
        weight_decay=0.1,
        grad_clip=1.0,
        masters=masters,
    )


def test_training_on_the_host_is_the_same_training() -> None:
    plain, moved = learner(), offloaded(Toy())
    for number in range(3):
        parts = [batch(2 * number, 9), batch(2 * number + 1, 30)]
        assert moved.step(parts, 1e-2) == plain.step(parts, 1e-2)
        assert moved.evaluate(parts) == plain.evaluate(parts)
    for name, value in weights(plain).items():
        assert torch.equal(moved.parameters[name], value)


def test_the_device_keeps_no_gradient_and_its_own_type() -> None:
    model = Toy()
    masters = HostMasters(dict(model.named_parameters()))
    model.to(torch.bfloat16)
    torch.autograd.backward(model(*_inputs()).square().sum())
    assert all(parameter.grad is None for parameter in model.parameters())
    collected = {name: p.grad for name, p in masters.parameters.items() if p.grad is not None}
    assert collected and all(grad.dtype == torch.float32 for grad in collected.values())


def test_masters_that_are_written_to_reach_the_device() -> None:
    """As a DiLoCo round or a checkpoint does."""
    model = Toy()
    masters = HostMasters(dict(model.named_parameters()))
    model.to(torch.bfloat16)
    name, master = next(iter(masters.parameters.items()))
    with torch.no_grad():
        master.fill_(0.3)
    masters.publish()
    # Dithered: either of the two neighbours of 0.3.
    live = model.get_parameter(name)
    assert live.dtype == torch.bfloat16
    assert set(live.flatten().tolist()) == {0.298828125, 0.30078125}


def _inputs() -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    part = batch(0)
    return part.tokens_T, part.positions_T, part.segments

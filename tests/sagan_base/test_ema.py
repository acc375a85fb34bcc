"""The moving average, against its closed form."""

import copy

import torch
from torch import nn

from sagan_base.checkpoint import build_networks
from sagan_base.ema import GeneratorEMA


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def set_weights(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)


def test_the_average_is_the_weighted_sum_of_its_history():
    trained = network().double()
    ema = GeneratorEMA(trained, decay=0.9)
    history = [trained[0].weight.detach().clone()]
    for update in range(1, 6):
        with torch.no_grad():
            trained[0].weight.add_(torch.randn(2, 3, dtype=torch.float64))
        history.append(trained[0].weight.detach().clone())
        ema.update(update)
    weights = [0.9**5] + [0.1 * 0.9 ** (5 - update) for update in range(1, 6)]
    expected = sum(weight * value for weight, value in zip(weights, history, strict=True))
    torch.testing.assert_close(ema.module[0].weight.detach(), expected)


def test_buffers_are_copied_not_averaged():
    trained = network()
    ema = GeneratorEMA(trained, decay=0.9)
    set_weights(trained, 5.0)
    ema.update(1)
    assert torch.equal(ema.module[1].running_mean, torch.full((2,), 5.0))
    assert ema.module[1].num_batches_tracked == 5
    assert not torch.equal(ema.module[0].bias, torch.full((2,), 5.0))


def test_until_its_start_the_average_is_a_copy():
    trained = network()
    ema = GeneratorEMA(trained, decay=0.5, start=2)
    for update, value, expected in [(1, 4.0, 4.0), (2, 0.0, 0.0), (3, 1.0, 0.5), (4, 1.0, 0.75)]:
        set_weights(trained, value)
        ema.update(update)
        assert torch.equal(ema.module[0].weight, torch.full((2, 3), expected))


def test_the_average_is_in_evaluation_mode_and_takes_no_gradient():
    trained = network().train()
    ema = GeneratorEMA(trained, decay=0.9)
    assert not ema.module.training and trained.training
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert all(p.requires_grad for p in trained.parameters())


def test_the_average_follows_a_generator_with_spectral_norm_and_attention(tiny_config):
    generator, _ = build_networks(tiny_config())
    ema = GeneratorEMA(generator, decay=0.9)
    before = copy.deepcopy(ema.module.state_dict())
    generator.train()(torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))  # moves statistics and power iteration
    ema.update(1)
    moved = [name for name, value in ema.module.state_dict().items() if not torch.equal(value, before[name])]
    buffers = {name for name, _ in generator.named_buffers()}
    assert moved and set(moved) <= buffers
    assert all(torch.equal(ema.module.state_dict()[name], generator.state_dict()[name]) for name in moved)

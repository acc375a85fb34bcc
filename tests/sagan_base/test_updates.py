"""What an update computes: of both networks, their optimisers and the moving average."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import sagan_base.updates
from sagan_base.config import AttentionConfig
from sagan_base.distributed import Processes
from sagan_base.updates import LOSSES, Updates

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


class PlainGenerator(nn.Module):
    """No batch statistics and no power iteration: what remains is exactly linear in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(3, 8)
        self.linear = nn.Linear(8, 256)

    def forward(self, z, labels):
        return torch.tanh(self.linear(z + self.classes(labels))).view(-1, 1, 16, 16)

    def attention_layers(self):
        return {}


class PlainDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(3, 8)
        self.linear = nn.Linear(256, 8)

    def forward(self, images, labels):
        features = torch.relu(self.linear(images.flatten(1)))
        return (features * (1 + self.classes(labels))).sum(1)

    def attention_layers(self):
        return {}


@pytest.fixture
def plain_networks(monkeypatch):
    def build(config):
        with torch.random.fork_rng():
            torch.manual_seed(config.training.seed)
            return PlainGenerator(), PlainDiscriminator()

    monkeypatch.setattr(sagan_base.updates, "build_networks", build)


def updates_of(config, data) -> Updates:
    return Updates(config, ALONE, data.batch, len(data))


def test_one_step_is_that_of_a_loop_written_out(plain_networks, tiny_config, tiny_data):
    config = tiny_config(discriminator_steps=2, seed=3)
    updates = updates_of(config, tiny_data)
    generator, discriminator = sagan_base.updates.build_networks(config)
    adam_g = torch.optim.Adam(generator.parameters(), 1e-4, (0.0, 0.9), 1e-8, foreach=False)
    adam_d = torch.optim.Adam(discriminator.parameters(), 4e-4, (0.0, 0.9), 1e-8, foreach=False)
    shown = []
    for step in (1, 2):
        losses = dict(zip(LOSSES, updates.step(step).tolist(), strict=True))
        d_losses = []
        for repeat in range(2):
            position = ((step - 1) * 2 + repeat) * 8
            index = sagan_base.updates.image_indices(3, position, 8, 30)
            shown += index.tolist()
            real, real_labels = tiny_data.images[index] / 127.5 - 1, tiny_data.labels[index]
            z, labels = updates._draw("discriminator", step, repeat)
            fake = generator(z, labels).detach()
            d_loss = (1 - discriminator(real, real_labels)).clamp(min=0).mean()
            d_loss = d_loss + (1 + discriminator(fake, labels)).clamp(min=0).mean()
            adam_d.zero_grad()
            d_loss.backward()
            adam_d.step()
            d_losses.append(d_loss.item())
        z, labels = updates._draw("generator", step)
        g_loss = -discriminator(generator(z, labels), labels).mean()
        adam_g.zero_grad()
        g_loss.backward()
        adam_g.step()
        assert losses["discriminator_loss"] == pytest.approx(sum(d_losses) / 2, abs=1e-5)
        assert losses["generator_loss"] == pytest.approx(g_loss.item(), abs=1e-5)
    assert sorted(shown[:30]) == list(range(30))  # the first epoch, each image once
    for ours, theirs in ((updates.generator, generator), (updates.discriminator, discriminator)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_micro_batches_equal_the_big_batch(plain_networks, tiny_config, tiny_data, accumulation):
    whole, parts = (updates_of(tiny_config(accumulation=n), tiny_data) for n in (1, accumulation))
    for step in (1, 2, 3):
        torch.testing.assert_close(whole.step(step), parts.step(step), atol=1e-5, rtol=1e-5)
        # The gradients too, because Adam with a first beta of 0 hardly notices their scale.
        for name in ("generator", "discriminator"):
            for a, b in zip(getattr(whole, name).parameters(), getattr(parts, name).parameters(), strict=True):
                torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)
                torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_generator_update_leaves_the_discriminator_alone(tiny_config, tiny_data):
    updates = updates_of(tiny_config(), tiny_data)
    before = [p.clone() for p in updates.discriminator.parameters()]
    updates._update_generator(1)
    assert all(torch.equal(a, b) for a, b in zip(before, updates.discriminator.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in updates.discriminator.parameters())


def test_a_discriminator_update_leaves_the_generator_alone(tiny_config, tiny_data):
    updates = updates_of(tiny_config(), tiny_data)
    before = [p.clone() for p in updates.generator.parameters()]
    updates._update_discriminator(1, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, updates.generator.parameters(), strict=True))
    assert all(p.grad is None for p in updates.generator.parameters())


def test_flipping_shows_some_images_mirrored_and_the_others_as_they_are(tiny_config, tiny_data):
    seen = []
    updates = updates_of(tiny_config(flip=True), tiny_data)
    forward = updates.discriminator.forward
    updates._parallel_discriminator = lambda images, labels: (seen.append(images[:8]), forward(images, labels))[1]
    updates._update_discriminator(1, 0)
    originals, _ = tiny_data.batch(sagan_base.updates.image_indices(0, 0, 8, 30))
    kept = [torch.equal(a, b) for a, b in zip(seen[0], originals, strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(seen[0], originals, strict=True)]
    assert all(k != m for k, m in zip(kept, mirrored, strict=True))
    assert any(kept) and any(mirrored)


def test_what_is_mirrored_changes_from_step_to_step(tiny_config, tiny_data):
    seen = []
    updates = updates_of(tiny_config(flip=True), tiny_data)
    forward = updates.discriminator.forward
    updates._parallel_discriminator = lambda images, labels: (seen.append(images[:8]), forward(images, labels))[1]
    mirrored = []
    for step in (1, 2):
        updates._update_discriminator(step, 0)
        originals, _ = tiny_data.batch(sagan_base.updates.image_indices(0, 8 * (step - 1), 8, 30))
        mirrored.append([not torch.equal(a, b) for a, b in zip(seen[-1], originals, strict=True)])
    assert mirrored[0] != mirrored[1]


def test_latents_depend_on_the_seed_the_step_and_who_is_updated_and_on_nothing_else(tiny_config, tiny_data):
    here, elsewhere = (updates_of(tiny_config(seed=seed), tiny_data) for seed in (1, 2))
    draws = [here._draw("generator", 1), elsewhere._draw("generator", 1), here._draw("generator", 2)]
    draws += [here._draw("discriminator", 1, 0), here._draw("discriminator", 1, 1)]
    for i, (z, _) in enumerate(draws):
        assert not any(torch.equal(z, other) for other, _ in draws[:i])
    assert torch.equal(updates_of(tiny_config(seed=1), tiny_data)._draw("generator", 1)[0], draws[0][0])


def test_every_number_of_the_recipe_reaches_the_optimisers_and_the_average(tiny_config, tiny_data):
    config = tiny_config(
        generator_lr=3e-4, discriminator_lr=7e-4, betas=(0.1, 0.8), adam_epsilon=1e-5, ema_decay=0.7, ema_start=1
    )
    updates = updates_of(config, tiny_data)
    for optimizer, rate in ((updates.generator_optimizer, 3e-4), (updates.discriminator_optimizer, 7e-4)):
        (group,) = optimizer.param_groups
        assert (group["lr"], tuple(group["betas"]), group["eps"]) == (rate, (0.1, 0.8), 1e-5)
    weight, average = (network.blocks[0].conv1.bias for network in (updates.generator, updates.ema.module))
    updates.step(1)
    before = weight.detach().clone()
    assert torch.equal(average, before)  # a copy until ema_start
    updates.step(2)
    torch.testing.assert_close(average, 0.7 * before + 0.3 * weight)


def test_the_logged_logits_are_those_of_real_and_of_generated_images(plain_networks, tiny_config, tiny_data):
    updates = updates_of(tiny_config(), tiny_data)
    forward, logits = updates.discriminator.forward, []

    def recorded(images, labels):
        logits.append(forward(images, labels))
        return logits[-1]

    updates._parallel_discriminator = recorded
    values = dict(zip(LOSSES, updates.step(1).tolist(), strict=True))
    real, generated = logits[0].detach().chunk(2)
    assert values["discriminator_real"] == pytest.approx(real.mean().item())
    assert values["discriminator_fake"] == pytest.approx(generated.mean().item())


def test_bfloat16_keeps_the_weights_in_float32_and_changes_the_losses_slightly(tiny_config, tiny_data):
    full, half = (updates_of(tiny_config(precision=p), tiny_data) for p in ("float32", "bfloat16"))
    exact, rounded = full.step(1), half.step(1)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.1, rtol=0.1)
    assert {p.dtype for p in half.generator.parameters()} == {torch.float32}


def test_the_memory_layout_does_not_change_the_numbers(tiny_config, tiny_data):
    usual, last = (updates_of(tiny_config(channels_last=c), tiny_data) for c in (False, True))
    torch.testing.assert_close(usual.step(1), last.step(1), atol=1e-5, rtol=1e-4)
    convolution = last.generator.blocks[0].conv1.parametrizations.weight.original
    assert convolution.is_contiguous(memory_format=torch.channels_last)


def test_temperatures_learn_at_their_own_rate(tiny_config, tiny_data):
    config = tiny_config(temperature_lr_factor=7.0)
    config = replace(config, model=replace(config.model, attention=AttentionConfig("ltr", 2, qk_norm=True)))
    updates = updates_of(config, tiny_data)
    for network, optimizer in (
        (updates.generator, updates.generator_optimizer),
        (updates.discriminator, updates.discriminator_optimizer),
    ):
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert len(rates) == len(list(network.parameters()))
        (layer,) = network.attention_layers().values()
        assert rates[id(layer.log_temperature)] == pytest.approx(7 * rates[id(layer.gain)])

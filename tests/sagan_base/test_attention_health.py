"""Health of attention: measures against definitions written out, at their ends, and interventions that are undone."""

import math

import pytest
import torch

from sagan_base.attention_health import (
    IMAGES,
    MapHealth,
    Maps,
    attention_health,
    interventions,
    logged_health,
    output_changes,
    real_batches,
    replaced_maps,
    sample_batches,
    verdict,
    watch,
)
from sagan_base.checkpoint import build_networks
from sagan_base.config import AttentionConfig, ModelConfig, RunConfig
from ylg import SparseAttention2d, head_masks


def layer(**changes) -> SparseAttention2d:
    torch.manual_seed(0)
    return SparseAttention2d(16, (8, 8), "ltr", num_heads=2, **changes).double().requires_grad_(False)


def random_maps(masks, images=5):
    scores = 3 * torch.randn(images, *masks.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return scores.masked_fill(~masks, -torch.inf).softmax(-1)


def test_the_measures_are_their_definitions_written_out():
    masks, maps = head_masks("ltr", (8, 8), (4, 4), 2), Maps(layer())
    attention = random_maps(masks)
    maps.add(attention[:2])
    maps.add(attention[2:])
    health = maps.health()
    for head in range(2):
        entropies, variations = [], []
        for image in attention:
            for query in range(64):
                p = image[head, query][masks[head, query]]
                if len(p) > 1:
                    entropies.append(-(p * p.log()).sum().item() / math.log(len(p)))
                    variations.append((p - 1 / len(p)).abs().sum().item() / 2)
        assert health.entropy[head] == pytest.approx(sum(entropies) / len(entropies))
        assert health.variation[head] == pytest.approx(sum(variations) / len(variations))
        uniform = masks[head] / masks[head].sum(1, keepdim=True)
        expected = attention[:, head].var(0, correction=0).sum() / (attention[:, head] - uniform).square().mean(0).sum()
        assert health.between[head] == pytest.approx(expected.item())
    torch.testing.assert_close(maps.mean, attention.mean(0))


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_a_layer_without_scores_is_uniform_and_no_image_differs(mode):
    block = layer(mode=mode)
    block.query.weight.zero_()
    maps = Maps(block)
    maps.add(block(torch.randn(3, 16, 8, 8, dtype=torch.float64), return_attention=True)[1])
    health = maps.health()
    assert max(health.variation) < 1e-12 and not health.depends_on_image
    if mode == "parallel":
        assert health.entropy == pytest.approx((1, 1))


def test_the_same_map_for_every_image_does_not_depend_on_the_image_however_sharp_it_is():
    maps = Maps(layer())
    maps.add(random_maps(head_masks("ltr", (8, 8), (4, 4), 2), 1).expand(4, -1, -1, -1))
    health = maps.health()
    assert min(health.variation) > 0.3 and max(health.between) < 1e-12 and not health.depends_on_image


CONFIG = RunConfig(
    ModelConfig(
        16, image_channels=1, num_classes=3, latent_dim=8, generator_width=8, discriminator_width=8,
        attention=AttentionConfig("ltr", 2, qk_norm=True, temperature=8.0, head_dim_qk=4),
    )
)  # fmt: skip


def networks():
    made = build_networks(CONFIG)
    for network in made:
        for attending in network.attention_layers().values():
            attending.gain.data.fill_(1.0)
    return tuple(network.eval().requires_grad_(False) for network in made)


def test_a_layer_with_its_own_maps_gives_its_own_output_and_the_network_is_left_as_it_was(tiny_data):
    _, discriminator = networks()
    discriminator.train()
    state = {name: value.clone() for name, value in discriminator.state_dict().items()}
    batches = real_batches(tiny_data, 12)
    maps = watch(discriminator, batches)
    assert discriminator.training
    assert all(torch.equal(value, state[name]) for name, value in discriminator.state_dict().items())
    discriminator.eval()
    own = discriminator(*batches[0])
    with replaced_maps(discriminator, lambda name, attention: attention):
        torch.testing.assert_close(discriminator(*batches[0]), own)
    with replaced_maps(discriminator, interventions(maps)["another image's map"]):
        assert not torch.allclose(discriminator(*batches[0]), own, atol=1e-5)
    assert torch.equal(discriminator(*batches[0]), own)


def test_interventions_change_nothing_where_all_images_have_one_map(tiny_data):
    _, discriminator = networks()
    for attending in discriminator.attention_layers().values():
        attending.log_temperature.data.fill_(-30.0)
    batches = real_batches(tiny_data, 12)
    changes = output_changes(discriminator, batches, watch(discriminator, batches))
    assert set(changes) == {"mean map", "another image's map"} and max(changes.values()) < 1e-5


def test_the_report_names_every_layer_beside_its_untrained_self_and_says_what_it_means(tiny_data):
    generator, discriminator = networks()
    report = attention_health(generator, discriminator, networks(), tiny_data, count=12)
    assert list(report) == ["generator.attention.8", "discriminator.attention.8"]
    for values in report.values():
        assert values.untrained == MapHealth(values.entropy, values.variation, values.between)
        assert min(values.output_changes.values()) > 1e-4
    assert verdict(report) == "attention depends on the image in every layer"
    for network in (generator, discriminator):
        network.attention["8"].log_temperature.data.fill_(-30.0)
    fixed = attention_health(generator, discriminator, networks(), tiny_data, count=12)
    assert verdict(fixed).startswith("the maps of generator.attention.8, discriminator.attention.8 do not depend")


def test_a_runs_log_tells_whether_maps_depend_on_the_image():
    layer = "generator.attention.8"
    metrics = {f"gain/{layer}": 3.0, f"entropy/{layer}": 1.0, f"variation/{layer}": 0.01, f"between/{layer}": 0.9}
    assert logged_health(metrics) == {layer: MapHealth((1.0,), (0.01,), (0.9,))}
    assert verdict(logged_health(metrics)).startswith(f"the maps of {layer} do not depend on the image")
    metrics[f"variation/{layer}"] = 0.3
    assert verdict(logged_health(metrics)) == "attention depends on the image in every layer"
    assert verdict(logged_health({"gain/x": 1.0})) == "no attention layer"


def test_images_and_samples_are_as_many_as_asked_and_always_the_same(tiny_data):
    generator, _ = networks()
    assert IMAGES == 512
    for batches in (real_batches(tiny_data, 20), sample_batches(generator, tiny_data, 20)):
        assert sum(len(inputs[0]) for inputs in batches) == 20
    again = sample_batches(generator, tiny_data, 20)
    assert all(torch.equal(a, b) for x, y in zip(again, batches, strict=True) for a, b in zip(x, y, strict=True))

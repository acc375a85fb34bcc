"""The discriminator at every size: shapes, parameter counts, attention features, refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F

from sagan_base import Discriminator
from sagan_base.blocks import DiscriminatorBlock
from sagan_base.config import NumericsConfig

SMALL = {"discriminator_width": 8, "num_classes": 3}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return Discriminator(**{"resolution": 16, **SMALL, **options})


def images_and_labels(resolution=16, channels=3, batch=2, seed=1):
    torch.manual_seed(seed)
    return torch.rand(batch, channels, resolution, resolution) * 2 - 1, torch.arange(batch) % 3


def number_of_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def expected_parameters(resolution, width, classes, image_channels, attention_channels):
    """Counted from the description of the published network, block by block."""

    def conv(inputs, outputs, kernel):
        return kernel * kernel * inputs * outputs + outputs

    channels = [width * min(16, 2**i) for i in range({16: 2, 32: 3, 64: 4, 128: 5, 256: 6}[resolution])]
    total = 0
    for inputs, outputs in zip([image_channels, *channels], channels, strict=False):
        total += conv(inputs, outputs, 3) + conv(outputs, outputs, 3) + conv(inputs, outputs, 1)
    last = channels[-1]
    total += 2 * conv(last, last, 3) + last + 1
    for c in attention_channels:
        total += 2 * c * max(c // 8, 8) + 2 * c * max(c // 2, 8) + 1
    return total + (classes * last if classes > 1 else 0)


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_every_size_has_the_shapes_and_the_parameters_of_its_description(resolution, num_classes):
    discriminator = small(resolution=resolution, num_classes=num_classes)
    images, labels = images_and_labels(resolution)
    with torch.no_grad():
        logits = discriminator(images, labels)
        features, attention = discriminator.attention_features(images)
    side = min(32, resolution // 2)
    channels = 8 * resolution // (2 * side)
    assert logits.shape == (2,)
    assert features.shape == (2, channels, side, side)
    assert attention.shape == (2, 8, side**2, (side // 2) ** 2)
    assert number_of_parameters(discriminator) == expected_parameters(resolution, 8, num_classes, 3, [channels])


def test_the_default_is_the_network_of_the_paper():
    discriminator = Discriminator()
    blocks = [*discriminator.blocks, discriminator.last_block]
    assert [block.conv2.out_channels for block in blocks] == [64, 128, 256, 512, 1024, 1024]
    layer = discriminator.attention_layers()["attention.32"]
    assert (layer.query.out_channels, layer.value.out_channels) == (16, 64)
    assert number_of_parameters(discriminator) == expected_parameters(128, 64, 1000, 3, [128])


def test_eight_sparse_heads_cost_as_many_parameters_as_one_dense_head():
    assert number_of_parameters(small()) == number_of_parameters(small(pattern="dense", num_heads=1))


def test_grey_images_have_one_channel():
    assert small(image_channels=1)(*images_and_labels(channels=1)).shape == (2,)


def test_an_unconditional_discriminator_needs_no_labels_and_does_not_read_them():
    discriminator = small(num_classes=1).eval()
    images, labels = images_and_labels()
    assert torch.equal(discriminator(images), discriminator(images, labels + 100))


def test_the_label_adds_the_inner_product_of_its_embedding_and_the_summed_features():
    discriminator = small().eval()
    images, _ = images_and_labels()
    seen = {}
    discriminator.linear.register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0]))
    logits = [discriminator(images, torch.full((2,), label)) for label in (0, 2)]
    rows = discriminator.embedding.weight
    torch.testing.assert_close(logits[1] - logits[0], seen["features"] @ (rows[2] - rows[0]))


def test_attention_features_are_the_input_of_the_first_attention_layer_and_its_map():
    discriminator = small(resolution=32, discriminator_attention=(8, 16)).eval()
    images, labels = images_and_labels(32)
    for layer in discriminator.attention_layers().values():
        layer.gain.data.fill_(0.5)
    for side in (16, 8):
        layer, seen = discriminator.attention[str(side)], {}
        hook = layer.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.update(features=inputs[0]))
        discriminator(images, labels)
        hook.remove()
        features, attention = discriminator.attention_features(images, side=side)
        torch.testing.assert_close(features, seen["features"])
        torch.testing.assert_close(attention, layer(features, return_attention=True)[1])
    first, _ = discriminator.attention_features(images)
    assert first.shape[-1] == 16


def test_the_stages_are_computed_when_asked_for_and_the_last_one_is_scored():
    discriminator = small(resolution=32, discriminator_attention=(8,)).eval()
    images, labels = images_and_labels(32)
    run, seen = [], {}
    layers = dict(zip((16, 8, 4), discriminator.blocks, strict=True)) | {"attention": discriminator.attention["8"]}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: run.append(name))
    stages = discriminator.stages(images)
    assert [next(stages)[0], next(stages)[0]] == [16, 8] and run == [16, 8]
    assert [side for side, _ in stages] == [4, 4] and run == [16, 8, "attention", 4]
    discriminator.linear.register_forward_pre_hook(lambda _, inputs: seen.update(scored=inputs[0]))
    discriminator(images, labels)
    *_, (_, last) = discriminator.stages(images)
    torch.testing.assert_close(seen["scored"], last.relu().sum((2, 3)))


def test_attention_features_are_differentiable_down_to_the_image():
    discriminator = small().eval()
    images = images_and_labels()[0].requires_grad_()
    features, attention = discriminator.attention_features(images)
    for output in (features, attention.square()):
        (gradient,) = torch.autograd.grad(output.sum(), images, retain_graph=True)
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("options", "side", "message"),
    [
        ({"attention": None}, None, "has no attention layer"),
        ({}, 4, "side=4: this discriminator has attention at 8"),
    ],
)
def test_features_of_absent_attention_are_refused(options, side, message):
    with pytest.raises(ValueError, match=message):
        small(**options).attention_features(images_and_labels()[0], side=side)


def test_blocks_follow_their_description():
    """First: no leading ReLU; others: ReLU first, raw shortcut; last: nothing halved, identity shortcut."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    before = x.clone()
    for options in ({"first": True}, {}, {"halve": False}):
        out_channels = 3 if options.get("halve") is False else 5
        block = DiscriminatorBlock(3, out_channels, NumericsConfig(), **options).eval()
        torch.nn.init.normal_(block.conv1.bias), torch.nn.init.normal_(block.conv2.bias)
        hidden = x if options.get("first") else x.clamp(min=0)
        hidden = F.conv2d(hidden, block.conv1.weight, block.conv1.bias, padding=1).clamp(min=0)
        hidden = F.conv2d(hidden, block.conv2.weight, block.conv2.bias, padding=1)
        if options.get("halve", True):
            shortcut = F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
            expected = F.avg_pool2d(hidden + shortcut, 2)
        else:
            expected = hidden + x
        torch.testing.assert_close(block(x), expected)
        assert torch.equal(x, before)


def test_every_parameter_receives_a_gradient_once_the_gain_has_left_zero():
    discriminator = small()
    discriminator.attention["8"].gain.data.fill_(0.5)
    discriminator(*images_and_labels()).square().sum().backward()
    for name, parameter in discriminator.named_parameters():
        used = parameter.grad.abs().max() > 0
        assert used, name


def test_under_autocast_blocks_run_in_bfloat16_and_the_score_in_float32():
    discriminator, inputs = small().eval(), images_and_labels()
    seen = {}
    discriminator.last_block.register_forward_hook(lambda _, __, output: seen.update(block=output.dtype))
    discriminator.linear.register_forward_hook(lambda _, __, output: seen.update(score=output.dtype))
    exact = discriminator(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = discriminator(*inputs)
    assert seen == {"block": torch.bfloat16, "score": torch.float32}
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, atol=0.05, rtol=0.02)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Dynamo about itself
def test_compiled_training_passes_compute_and_store_the_same():
    discriminator, (images, labels) = small(), images_and_labels()
    discriminator.attention["8"].gain.data.fill_(0.5)
    twin = copy.deepcopy(discriminator)
    compiled = torch.compile(twin, backend="aot_eager")
    for batch in (images, -images):
        torch.testing.assert_close(compiled(batch, labels), discriminator(batch, labels))
    for (name, ours), theirs in zip(twin.state_dict().items(), discriminator.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((2, 3, 32, 32), [0, 1], r"images have shape \(2, 3, 32, 32\); give \[batch, 3, 16, 16\]"),
        ((2, 1, 16, 16), [0, 1], r"give \[batch, 3, 16, 16\]"),
        ((3, 16, 16), [0, 1], r"give \[batch, 3, 16, 16\]"),
        ((2, 3, 16, 16), None, "labels are missing"),
        ((2, 3, 16, 16), [0, 3], "label 3 is out of range"),
    ],
)
def test_wrong_inputs_are_refused_with_a_remedy(shape, labels, message):
    labels = None if labels is None else torch.tensor(labels)
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(shape), labels)

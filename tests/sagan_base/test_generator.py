"""The generator at every size: shapes, parameter counts, attention, initial weights, refusals."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sagan_base import Generator
from sagan_base.blocks import GeneratorBlock
from sagan_base.config import AttentionConfig, ModelConfig, NumericsConfig
from sagan_base.spectral_norm import SpectralNorm

SMALL = {"generator_width": 4, "num_classes": 3, "latent_dim": 6}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return Generator(**{"resolution": 16, **SMALL, **options})


def noise_and_labels(batch=2, seed=1):
    torch.manual_seed(seed)
    return torch.randn(batch, SMALL["latent_dim"]), torch.arange(batch) % 3


def number_of_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def expected_parameters(resolution, width, classes, latent, image_channels, attention_channels):
    """Counted from the description of the published network, block by block."""

    def conv(inputs, outputs, kernel):
        return kernel * kernel * inputs * outputs + outputs

    sides = [8 * 2**i for i in range(6) if 8 * 2**i <= resolution]
    channels = [width * min(16, resolution // side) for side in sides]
    total = (latent + 1) * 16 * channels[0]
    for inputs, outputs in zip([channels[0], *channels], channels, strict=False):
        total += 2 * classes * (inputs + outputs)
        total += conv(inputs, outputs, 3) + conv(outputs, outputs, 3) + conv(inputs, outputs, 1)
    for c in attention_channels:
        total += 2 * c * max(c // 8, 8) + 2 * c * max(c // 2, 8) + 1
    return total + 2 * channels[-1] + conv(channels[-1], image_channels, 3)


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
def test_every_size_has_the_shapes_and_the_parameters_of_its_description(resolution):
    generator = Generator(resolution=resolution, **SMALL)
    z, labels = noise_and_labels()
    with torch.no_grad():
        images, attention = generator(z, labels, return_attention=True)
    side = min(32, resolution // 2)
    assert images.shape == (2, 3, resolution, resolution)
    assert attention.shape == (2, 8, side**2, (side // 2) ** 2)
    assert images.abs().max() <= 1
    attention_channels = [4 * min(16, resolution // side)]
    assert number_of_parameters(generator) == expected_parameters(resolution, 4, 3, 6, 3, attention_channels)


def test_the_default_is_the_network_of_the_paper():
    generator = Generator()
    assert (generator.resolution, generator.num_classes, generator.latent_dim) == (128, 1000, 128)
    assert [block.conv2.out_channels for block in generator.blocks] == [1024, 512, 256, 128, 64]
    layer = generator.attention_layers()["attention.32"]
    assert (layer.grid, layer.query.out_channels, layer.value.out_channels) == ((32, 32), 32, 128)
    assert number_of_parameters(generator) == expected_parameters(128, 64, 1000, 128, 3, [256])


def test_eight_sparse_heads_cost_as_many_parameters_as_one_dense_head():
    sparse = Generator(resolution=64, generator_width=32, num_classes=3)
    dense = Generator(resolution=64, generator_width=32, num_classes=3, pattern="dense", num_heads=1)
    assert number_of_parameters(sparse) == number_of_parameters(dense)


@pytest.mark.parametrize(
    "options",
    [
        {"pattern": "dense", "num_heads": 1},
        {"pattern": "strided", "order": "hilbert", "alignment": "tile"},
        {"pattern": "ltr", "num_heads": 2, "mode": "sequential"},
        {"attention": AttentionConfig("butterfly", num_heads=4, order="raster"), "alignment": "rows"},
    ],
)
def test_attention_options_reach_the_layer(options):
    generator = small(**options)
    layer = generator.attention_layers()["attention.8"]
    for name in ("pattern", "num_heads", "order", "alignment", "mode"):
        assert getattr(layer, name) == getattr(generator.config.attention, name)
    attention = options.pop("attention", AttentionConfig())
    assert generator.config.attention == AttentionConfig(**{**vars(attention), **options})
    _, attention_map = generator(*noise_and_labels(), return_attention=True)
    torch.testing.assert_close(attention_map.sum(-1), torch.ones(2, layer.num_heads, 64))


def test_several_attention_layers_give_a_tuple_of_maps_in_the_order_of_the_pass():
    generator = small(resolution=32, generator_attention=(32, 8))
    assert list(generator.attention_layers()) == ["attention.8", "attention.32"]
    _, maps = generator(*noise_and_labels(), return_attention=True)
    assert [tuple(one.shape) for one in maps] == [(2, 8, 64, 16), (2, 8, 1024, 256)]


@pytest.mark.parametrize("options", [{"attention": None}, {"generator_attention": ()}])
def test_a_network_without_attention_makes_images_but_no_maps(options):
    generator = small(**options)
    assert generator(*noise_and_labels()).shape == (2, 3, 16, 16)
    assert generator.attention_layers() == {}
    with pytest.raises(ValueError, match="no attention layer; leave return_attention=False"):
        generator(*noise_and_labels(), return_attention=True)


def test_grey_images_have_one_channel():
    assert small(image_channels=1)(*noise_and_labels()).shape == (2, 1, 16, 16)


def test_an_unconditional_generator_needs_no_labels_and_does_not_read_them():
    generator = small(num_classes=1).eval()
    z, labels = noise_and_labels()
    assert torch.equal(generator(z), generator(z, labels + 100))


def test_labels_act_through_gain_and_bias_alone():
    generator = small().eval()
    z, _ = noise_and_labels()
    zeros, ones = torch.tensor([0, 0]), torch.tensor([1, 1])
    assert torch.equal(generator(z, zeros), generator(z, ones))  # all gains are 1 and all biases 0 at the start
    nn.init.normal_(generator.blocks[0].norm1.bias)
    assert not torch.equal(generator(z, zeros), generator(z, ones))


def test_images_of_a_batch_are_independent_in_evaluation_mode():
    generator = small().eval()
    z, labels = noise_and_labels(3)
    torch.testing.assert_close(generator(z, labels)[1:2], generator(z[1:2], labels[1:2]))


def test_every_parameter_receives_a_gradient_once_the_gain_has_left_zero():
    generator = small(resolution=32)
    z, labels = noise_and_labels(3)
    weights = torch.randn(3, 3, 32, 32)
    (generator(z, labels) * weights).sum().backward()
    for name, parameter in generator.named_parameters():
        through_attention = any(f".{part}." in name for part in ("query", "key", "value", "output"))
        assert parameter.grad.abs().max() > 0 or through_attention, name
    with torch.no_grad():
        generator.attention["16"].gain.fill_(0.5)
    generator.zero_grad()
    (generator(z, labels) * weights).sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_the_block_leaves_the_input_of_its_shortcut_untouched():
    block = GeneratorBlock(4, 3, 1, NumericsConfig())
    x = torch.randn(2, 4, 4, 4)
    before = x.clone()
    block(x, None)
    assert torch.equal(x, before)


def raw_weights(network):
    """The trained weights of all spectrally normalised layers."""
    return [m.parametrizations.weight.original for m in network.modules() if hasattr(m, "parametrizations")]


def test_xavier_weights_fill_their_interval():
    for weight in raw_weights(small(resolution=64, generator_width=16, init="xavier")):
        receptive = weight[0, 0].numel()
        bound = (6 / (receptive * (weight.shape[0] + weight.shape[1]))) ** 0.5
        assert 0.9 * bound < weight.abs().max() <= bound


def test_orthogonal_weights_are_orthogonal():
    for weight in raw_weights(small(init="orthogonal")):
        matrix = weight.flatten(1)
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)


def test_normal_weights_have_standard_deviation_002():
    weights = torch.cat([weight.flatten() for weight in raw_weights(small(resolution=64, init="normal"))])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert weights.mean().abs() < 1e-3


def test_biases_and_gains_start_where_the_published_ones_do():
    generator = small()
    for name, parameter in generator.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif name.endswith(("bias", "gain")):
            assert (parameter == 0).all(), name


def test_numerics_reach_every_normalisation():
    numerics = NumericsConfig("normal", 0.25, 0.5, 1e-6, bounded_spectral_norm=False)
    generator = small(numerics=numerics)
    for module in generator.modules():
        if isinstance(module, SpectralNorm):
            assert (module.bounded, module.epsilon) == (False, 1e-6)
        if hasattr(module, "decay"):
            assert (module.epsilon, module.decay) == (0.25, 0.5)
    attention_norms = {
        layer.parametrizations.weight[0].bounded
        for layer in small().attention["8"].modules()
        if hasattr(layer, "parametrizations")
    }
    assert attention_norms == {False}  # always divided by sigma itself


@pytest.mark.parametrize("attention_gain", [0.0, 0.7])
def test_a_copy_shares_nothing_and_computes_the_same(attention_gain):
    generator = small()
    generator.attention["8"].gain.data.fill_(attention_gain)
    twin, inputs = copy.deepcopy(generator), noise_and_labels()
    for _ in range(2):
        assert torch.equal(generator(*inputs), twin(*inputs))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(1)
    assert not torch.equal(generator(*inputs), twin(*inputs))


def test_state_survives_safetensors(tmp_path):
    generator, inputs = small().eval(), noise_and_labels()
    save_file(generator.state_dict(), tmp_path / "generator.safetensors")
    twin = small(seed=7).eval()
    assert not torch.equal(generator(*inputs), twin(*inputs))
    twin.load_state_dict(load_file(tmp_path / "generator.safetensors"))
    assert torch.equal(generator(*inputs), twin(*inputs))


def test_images_are_float32_under_autocast_and_close_to_exact_ones():
    generator, inputs = small().eval(), noise_and_labels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(*inputs)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, generator(*inputs), atol=0.02, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_double_precision_and_channels_last_compute_the_same(layout):
    generator, (z, labels) = small().eval(), noise_and_labels()
    exact = copy.deepcopy(generator).double()(z.double(), labels)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(generator.to(memory_format=layout)(z, labels).double(), exact, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Dynamo about itself
def test_a_compiled_training_pass_is_one_graph_and_stores_the_same():
    """Without attention, whose engine may break the graph to launch kernels; test_discriminator.py has it."""
    generator, inputs = small(attention=None), noise_and_labels()
    twin = copy.deepcopy(generator)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), generator(*inputs))
    for (name, ours), theirs in zip(twin.state_dict().items(), generator.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 48}, "resolution=48 is not one of"),
        ({"image_channels": 4}, "use 1 .grey. or 3 .colour."),
        ({"generator_attention": (64,)}, r"generator_attention=\[64\] is no feature map.*use \(8, 16\)"),
        ({"width": 3}, r"no option \['width'\]; its options are"),
        ({"pattern": "diagonal"}, "diagonal"),
        ({"num_heads": 5}, "num_heads=5"),
        ({"attention": None, "pattern": "dense"}, "attention=None; leave one out"),
    ],
)
def test_wrong_options_are_refused_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize(
    ("z", "labels", "message"),
    [
        ((2, 5), [0, 1], r"z has shape \(2, 5\); give \[batch, 6\]"),
        ((6,), [0], r"z has shape \(6,\)"),
        ((2, 6), None, "labels are missing: this network has 3 classes"),
        ((2, 6), [0], r"labels have shape \(1,\); give one per image, shape \(2,\)"),
        ((2, 6), [[0], [1]], r"labels have shape \(2, 1\)"),
        ((2, 6), [0, 3], r"label 3 is out of range: this network has 3 classes; use 0 \.\.\. 2"),
        ((2, 6), [-1, 0], "label -1 is out of range"),
        ((2, 6), [0.0, 1.0], r"labels have dtype torch.float32; give class numbers"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_wrong_inputs_are_refused_with_a_remedy(z, labels, message, training):
    labels = None if labels is None else torch.tensor(labels)
    with pytest.raises(ValueError, match=message):
        small().train(training)(torch.randn(z), labels)


def test_a_configuration_and_its_fields_as_keywords_build_the_same_network():
    config = ModelConfig(resolution=32, num_classes=5, attention=AttentionConfig(num_heads=4, pattern="ltr"))
    assert Generator(config).config == config
    assert Generator(resolution=32, num_classes=5, num_heads=4, pattern="ltr").config == config
    assert Generator(ModelConfig(), resolution=32, num_classes=5, num_heads=4, pattern="ltr").config == config


def test_integer_labels_of_any_width_are_taken():
    generator = small().eval()
    z, labels = noise_and_labels()
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(generator(z, labels.to(dtype)), generator(z, labels))

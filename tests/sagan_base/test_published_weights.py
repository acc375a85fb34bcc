"""The networks against numbers produced by the paper's own program; what is too large for a clone is skipped there."""

import copy
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sagan_base import Discriminator, Generator, load_published_weights
from sagan_base.blocks import attention
from sagan_base.config import AttentionConfig, NumericsConfig
from sagan_base.published_weights import PUBLISHED_ATTENTION, published_variables

DENSE_8, DENSE_1 = AttentionConfig("dense", num_heads=8), AttentionConfig("dense", num_heads=1)
U = "/spectral_normalize/spectral_norm/spectral_norm_u"


@pytest.fixture(scope="module")
def golden(golden_folder, request):
    """Reads an archive of reference data as a dict of arrays, each once."""
    archives = {}

    def read(name):
        if name not in archives:
            path = golden_folder / f"{name}.npz"
            if not path.is_file():
                path = request.getfixturevalue("shared") / "golden" / "a" / f"{name}.npz"
            with np.load(path) as archive:
                archives[name] = dict(archive)
        return archives[name]

    return read


@pytest.fixture(scope="module")
def loaded(shared):
    return load_published_weights(shared / "golden" / "a" / "weights.npz")


@pytest.fixture
def networks(loaded):
    return copy.deepcopy(loaded)


def nchw(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def assert_close(ours, theirs, tolerance):
    """``theirs`` NHWC where it has four axes as an image, ``ours`` then NCHW."""
    theirs = torch.as_tensor(theirs)
    assert ours.shape == theirs.shape
    assert (ours.detach() - theirs).abs().max() <= tolerance


@pytest.fixture(scope="module")
def inputs(golden):
    arrays = golden("inputs")
    return torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["labels"]), nchw(arrays["images"])


def test_images_and_attention_of_the_generator_are_the_published_ones(loaded, inputs, golden):
    z, labels, _ = inputs
    with torch.no_grad():
        images, attention_map = loaded[0](z, labels, return_attention=True)
    assert_close(images, nchw(golden("outputs")["gen_images"]), 5e-5)
    assert_close(attention_map, golden("outputs")["gen_attn"], 2e-5)


def test_logits_features_and_attention_of_the_discriminator_are_the_published_ones(loaded, inputs, golden):
    _, labels, images = inputs
    with torch.no_grad():
        logits = loaded[1](images, labels)
        features, attention_map = loaded[1].attention_features(images)
    assert_close(logits, golden("outputs")["disc_logits"][:, 0], 5e-5)
    assert_close(features, nchw(golden("outputs")["disc_h1_"]), 2e-5)
    assert_close(attention_map, golden("outputs")["disc_attn"], 2e-5)


def test_every_block_computes_what_the_published_one_does(loaded, inputs, golden):
    generator, discriminator = loaded
    z, labels, images = inputs
    modules = {f"gen/g_block{i}": block for i, block in enumerate(generator.blocks[:4], start=1)}
    modules |= {f"disc/d_block{i}": block for i, block in enumerate(discriminator.blocks, start=1)}
    modules["disc/d_optimized_block1"] = modules.pop("disc/d_block1")
    modules |= {"gen/g_ops": generator.attention["32"], "disc/d_ops": discriminator.attention["32"]}
    modules |= {"disc/d_block6": discriminator.last_block, "disc/d_sn_linear": discriminator.linear}
    modules["disc/d_embedding"] = discriminator.embedding
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        generator(z, labels), discriminator(images, labels)
    for hook in hooks:
        hook.remove()
    expected = {name: array for name, array in golden("intermediates").items() if name != "gen/g_snh0"}
    assert seen.keys() == expected.keys()
    for name, array in expected.items():
        theirs = nchw(array) if array.ndim == 4 else torch.from_numpy(array)
        assert_close(seen[name][: len(theirs)], theirs, 5e-5 * max(1, float(theirs.abs().max())))


def test_a_training_step_of_the_generator_leaves_the_published_state(networks, inputs, golden):
    generator, discriminator = networks
    z, labels, _ = inputs
    expected = dict(golden("gen_training_step"))
    with torch.no_grad():
        images = generator.train()(z, labels)
    assert_close(images, nchw(expected.pop("gen_images")), 5e-5)
    state = published_variables(generator, discriminator)
    assert len(expected) == 22 + 21
    for name, array in expected.items():
        np.testing.assert_allclose(state[name.removeprefix("after/")], array, rtol=1e-5, atol=2e-6, err_msg=name)


def test_a_training_pass_of_the_discriminator_leaves_the_published_vectors(networks, inputs, golden):
    generator, discriminator = networks
    _, labels, images = inputs
    discriminator.train()(images, labels)
    state = published_variables(generator, discriminator)
    expected = golden("disc_u_after_one_forward")
    assert len(expected) == 23
    for name, array in expected.items():
        np.testing.assert_allclose(state[name], array, atol=2e-6, err_msg=name)


def test_evaluation_never_changes_state(networks, inputs):
    z, labels, images = inputs
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    networks[0](z, labels), networks[1](images, labels), networks[1].attention_features(images)
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def normalised_layers(networks):
    """TensorFlow name of the weight -> (layer, its weight as [rows, outputs] with rows as the program has them)."""
    layers = {}
    generator, discriminator = networks
    for i, block in enumerate(generator.blocks, start=1):
        for j, layer in enumerate((block.conv1, block.conv2, block.shortcut), start=1):
            layers[f"Generator/generator/g_block{i}/snconv{j}/snconv{j}/kernel"] = layer
    layers["Generator/generator/g_snh0/dense/kernel"] = generator.linear
    layers["Generator/generator/g_snconv_last/g_snconv_last/kernel"] = generator.to_image
    for i, block in enumerate([*discriminator.blocks, discriminator.last_block], start=1):
        scope = f"Discriminator/discriminator/d_{'optimized_' if i == 1 else ''}block{i}"
        for j, layer in enumerate((block.conv1, block.conv2, block.shortcut)[: 2 if i == 6 else 3], start=1):
            layers[f"{scope}/sn_conv{j}/sn_conv{j}/kernel"] = layer
    layers["Discriminator/discriminator/d_sn_linear/dense/kernel"] = discriminator.linear
    layers["Discriminator/discriminator/d_embedding/embedding_map"] = discriminator.embedding
    for scope, network in (
        ("Generator/generator/g_ops", generator),
        ("Discriminator/discriminator/d_ops", discriminator),
    ):
        for name, part in (("theta", "query"), ("phi", "key"), ("g", "value"), ("attn", "output")):
            layers[f"{scope}/sn_conv_{name}/weights"] = getattr(network.attention["32"], part)
    return layers


def test_each_weight_is_divided_by_the_published_number(loaded, golden):
    divisors = golden("sn_divisors")
    layers = normalised_layers(loaded)
    assert len(layers) == 44
    for name, layer in layers.items():
        parametrized = layer.parametrizations.weight
        ours = parametrized[0].divisor(parametrized.original).item()
        assert ours == pytest.approx(float(divisors[name]), rel=2e-6), name
        assert (ours == 1.0) == (divisors[name] == 1.0), name
        sigma = torch.linalg.matrix_norm(parametrized.original.double().flatten(1), 2).item()
        assert sigma == pytest.approx(float(divisors[f"true_sigma/{name}"]), rel=1e-6), name


def test_unsettled_vectors_are_iterated_exactly_once_in_the_program_s_order_of_rows(shared, golden, tmp_path):
    """Set ``a`` holds settled vectors, which cannot tell 0, 1 or 2 iterations apart; drawn anew, they can."""
    rng = np.random.default_rng(0)
    variables = dict(golden("weights"))
    variables |= {n: rng.standard_normal(a.shape).astype(np.float32) for n, a in variables.items() if n.endswith(U)}
    np.savez(tmp_path / "unsettled.npz", **variables)
    networks = load_published_weights(tmp_path / "unsettled.npz")

    def unit(x):
        return x / np.sqrt(max((x * x).sum(), 1e-12))

    for name, layer in normalised_layers(networks).items():
        weight = variables[name].astype(np.float64)
        is_embedding = name.endswith("embedding_map")
        u_name = name.rpartition("/")[0] + (U if is_embedding else f"/{name}{U}")
        matrix = weight.T if is_embedding else weight.reshape(-1, weight.shape[-1])
        v = unit(matrix.T @ variables[u_name].astype(np.float64))
        sigma = float((unit(matrix @ v).T @ matrix @ v).item())
        expected = sigma if "/sn_conv_" in name else max(1.0, sigma)
        parametrized = layer.parametrizations.weight
        assert parametrized[0].divisor(parametrized.original).item() == pytest.approx(expected, rel=1e-5), name


def attention_block(arrays, scope, config, side):
    """An attention layer holding ``w/SCOPE/...`` of a golden file, in evaluation mode."""
    channels = arrays["x"].shape[-1]
    layer = attention(channels, side, config, NumericsConfig()).eval()
    layer.gain.data = torch.from_numpy(arrays[f"w/{scope}/sigma_ratio"])
    for name, convolution in (("theta", layer.query), ("phi", layer.key), ("g", layer.value), ("attn", layer.output)):
        weight = f"{scope}/sn_conv_{name}/weights"
        parametrized = convolution.parametrizations.weight
        parametrized.original.data = torch.from_numpy(arrays[f"w/{weight}"]).permute(3, 2, 0, 1).contiguous()
        u = arrays[f"w/{scope}/sn_conv_{name}/{weight}{U}"]
        parametrized[0].u.copy_(torch.from_numpy(u).reshape(parametrized[0].u.shape))
    return layer


def test_the_sparse_block_alone_computes_what_the_published_one_does(golden):
    arrays = golden("attention_block")
    layer, x = attention_block(arrays, "sn_nonlocal", PUBLISHED_ATTENTION, 32), nchw(arrays["x"])
    seen = {}
    for name in ("query", "key", "value"):
        getattr(layer, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    layer.output.register_forward_pre_hook(lambda _, inputs: seen.update({"merged": inputs[0]}))
    output, attention_map = layer(x, return_attention=True)
    assert_close(output, nchw(arrays["output"]), 2e-5)
    assert_close(attention_map, arrays["attn"], 2e-5)
    assert_close(seen["query"], nchw(arrays["theta"]), 2e-5)
    assert_close(F.max_pool2d(seen["key"], 2), nchw(arrays["phi_pooled"]), 2e-5)
    assert_close(F.max_pool2d(seen["value"], 2), nchw(arrays["g_pooled"]), 2e-5)
    assert_close(seen["merged"], nchw(arrays["attn_g_before_last_conv"]), 2e-5)
    # The program's masked probabilities are exact zeros too, so the masks agree entry by entry.
    assert torch.equal(attention_map == 0, torch.from_numpy(arrays["attn"]) == 0)


def test_a_second_training_call_of_the_block_starts_from_the_stored_vectors(golden):
    arrays = golden("attention_block")
    layer, x = attention_block(arrays, "sn_nonlocal", PUBLISHED_ATTENTION, 32).train(), nchw(arrays["x"])
    assert_close(layer(x), nchw(arrays["output"]), 2e-5)
    for name, convolution in (("theta", layer.query), ("phi", layer.key), ("g", layer.value), ("attn", layer.output)):
        scope = f"sn_nonlocal/sn_conv_{name}"
        u = arrays[f"w_after_one_training_call/{scope}/{scope}/weights{U}"]
        np.testing.assert_allclose(convolution.parametrizations.weight[0].u.flatten(), u.flatten(), atol=2e-6)
    second = layer(x)
    assert_close(second, nchw(arrays["output_training_second_call"]), 2e-5)
    assert (second - nchw(arrays["output"])).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("archive", "scope", "output", "config"),
    [
        ("dense_block", "dense1", "output_single_head", DENSE_1),
        ("dense_block", "dense8", "output_8_heads", DENSE_8),
        ("attention_wide_ylg", "ylg", "output", PUBLISHED_ATTENTION),
        ("attention_wide", "dense8", "output_dense_8_heads", DENSE_8),
        ("attention_wide", "dense1", "output_dense_single_head", DENSE_1),
    ],
)
def test_dense_and_wide_blocks_compute_what_the_published_ones_do(golden, archive, scope, output, config):
    arrays = golden(archive)
    layer = attention_block(arrays, scope, config, 16)
    result, attention_map = layer(nchw(arrays["x"]), return_attention=True)
    assert_close(result, nchw(arrays[output]), 2e-5)
    if scope == "ylg":
        assert_close(attention_map, arrays["attn"], 2e-5)


def test_the_inversion_loss_and_its_gradient_are_the_published_ones(loaded, inputs, golden):
    # In float64, because a processor's own order of sums moves a float32 gradient by five times the tolerance.
    generator, discriminator = (copy.deepcopy(network).double() for network in loaded)
    expected, images = golden("inversion"), inputs[2].double()
    latent = torch.from_numpy(expected["latent"]).double().requires_grad_()
    with torch.no_grad():
        real_features, attention_map = discriminator.attention_features(images)
    saliency = attention_map.sum(2) / (attention_map != 0).sum(2)
    saliency_16 = saliency.unflatten(2, (16, 16))
    saliency_32 = F.interpolate(saliency_16, scale_factor=2, mode="nearest")
    fake_images = generator(latent, torch.from_numpy(expected["labels"]))
    features, _ = discriminator.attention_features(fake_images)
    norms = ((features - real_features)[:, None] * saliency_32[:, :, None]).square().sum((0, 2, 3, 4)).sqrt()
    loss = norms[:4].sum()  # the program weighs with heads 0 to 3 only
    (gradient,) = torch.autograd.grad(loss, latent)

    assert_close(fake_images, nchw(expected["fake_images"]), 5e-5)
    assert_close(features, nchw(expected["fake_features_h1_"]), 2e-5)
    assert_close(saliency_16, expected["saliency_16"], 2e-5)
    assert_close(saliency_32, expected["saliency_32"], 2e-5)
    assert_close(norms, expected["per_head_weighted_norm"], 1e-4)
    assert_close(loss, expected["disc_loss"], 1e-4)
    assert_close((fake_images - images).norm(), expected["img_loss"], 1e-3)
    scale = np.abs(expected["grad_disc_loss_wrt_latent"]).max()
    assert_close(gradient, expected["grad_disc_loss_wrt_latent"], 1e-4 * scale)


def test_the_state_written_back_is_the_state_read(loaded, golden):
    variables = published_variables(*loaded)
    assert variables.keys() == golden("weights").keys()
    for name, array in golden("weights").items():
        assert variables[name].shape == array.shape
        np.testing.assert_array_equal(variables[name], array, err_msg=name)


@pytest.fixture(scope="module")
def checkpoint(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    with tarfile.open(shared / "golden" / "a" / "model.ckpt-0.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return next(folder.rglob("model.ckpt-0.index")).with_suffix("")


@pytest.mark.parametrize("form", ["prefix", "index file", "data file", "folder", "text"])
def test_a_tensorflow_checkpoint_holds_the_same_networks(checkpoint, loaded, form):
    path = {
        "prefix": checkpoint,
        "index file": checkpoint.with_name("model.ckpt-0.index"),
        "data file": checkpoint.with_name("model.ckpt-0.data-00000-of-00001"),
        "folder": checkpoint.parent,
        "text": str(checkpoint),
    }[form]
    for network, expected in zip(load_published_weights(path), loaded, strict=True):
        state = network.state_dict()
        assert state.keys() == expected.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.state_dict().items())


def test_a_folder_of_several_checkpoints_gives_the_one_that_its_state_file_names(checkpoint, tmp_path, loaded):
    for step in (0, 100):
        for file in checkpoint.parent.glob("model.ckpt-0.*"):
            (tmp_path / file.name.replace("ckpt-0", f"ckpt-{step}")).symlink_to(file)
    with pytest.raises(ValueError, match=r"model.ckpt-0, model.ckpt-100"):
        load_published_weights(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/trained/elsewhere/model.ckpt-100"\n')
    generator, _ = load_published_weights(tmp_path)
    assert torch.equal(generator.to_image.bias, loaded[0].to_image.bias)


def small_networks(**options):
    torch.manual_seed(0)
    options = {"num_classes": 3, "generator_width": 4, "discriminator_width": 8, "latent_dim": 5} | options
    sizes = {64: (32, 16), 32: (32, 8)}[options.setdefault("resolution", 32)]
    sides = {"generator_attention": sizes[:1], "discriminator_attention": sizes[1:], "alignment": "rows"}
    return Generator(**options, **sides), Discriminator(**options, **sides)


@pytest.mark.parametrize(
    "options", [{}, {"resolution": 64}, {"image_channels": 1}, {"latent_dim": 7, "num_classes": 4}]
)
def test_sizes_are_read_off_the_variables(tmp_path, options):
    networks = small_networks(**options)
    np.savez(tmp_path / "small.npz", **published_variables(*networks))
    for network, written in zip(load_published_weights(tmp_path / "small.npz"), networks, strict=True):
        assert network.config == written.config
        assert not network.training
        for name, tensor in written.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor), name


def test_the_attention_of_dense_weights_can_be_told(tmp_path):
    np.savez(tmp_path / "dense.npz", **published_variables(*small_networks(num_heads=1, pattern="dense")))
    generator, _ = load_published_weights(tmp_path / "dense.npz", attention=DENSE_1)
    _, attention_map = generator(torch.randn(1, 5), torch.tensor([0]), return_attention=True)
    assert attention_map.shape == (1, 1, 1024, 256)
    assert (attention_map > 0).all()


def test_counters_and_optimiser_slots_of_a_training_checkpoint_are_passed_over(tmp_path):
    variables = published_variables(*small_networks())
    slots = {f"{name}/Adam{suffix}": array for name, array in variables.items() for suffix in ("", "_1")}
    np.savez(tmp_path / "training.npz", global_step=np.int64(7), beta1_power=np.float32(0), **variables, **slots)
    load_published_weights(tmp_path / "training.npz")


BIAS = "Generator/generator/g_block2/snconv1/snconv1/bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop(BIAS), f"has no variable {BIAS}; give weights of the paper's SAGAN program"),
        (lambda v: v.pop("Generator/generator/g_bn/gamma"), "has no variable Generator/generator/g_bn/gamma"),
        (lambda v: v.update({BIAS: np.zeros(5, np.float32)}), rf"{BIAS} of .* has shape \(5,\).*ask for \(8,\)"),
        (lambda v: v.update({BIAS: np.zeros(8, np.int32)}), f"{BIAS} of .* has dtype int32"),
        (lambda v: v.update({"Generator/generator/g_bn/gamma": np.ones(4)}), "expected 4 axes"),
        (lambda v: v.update({"Generator/generator/extra": np.zeros(1)}), "such as Generator/generator/extra; give"),
        (lambda v: v.update({BIAS: np.array([None])}), "cannot be read as an .npz of plain arrays"),
        (dict.clear, "has no variable"),
    ],
)
def test_wrong_variables_are_refused_by_name_with_a_remedy(tmp_path, change, message):
    variables = published_variables(*small_networks())
    change(variables)
    np.savez(tmp_path / "wrong.npz", **variables)
    with pytest.raises(ValueError, match=message):
        load_published_weights(tmp_path / "wrong.npz")


@pytest.mark.parametrize("name", ["absent.npz", "absent", "folder"])
def test_an_absent_file_is_refused_by_name(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=name):
        load_published_weights(tmp_path / name)


def test_a_truncated_archive_is_refused(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"cut\.npz cannot be read"):
        load_published_weights(tmp_path / "cut.npz")


def test_labels_that_the_program_took_for_class_0_are_refused(loaded):
    generator, discriminator = loaded
    for label in (-1, 10):
        with pytest.raises(ValueError, match=rf"label {label} is out of range.*0 \.\.\. 9"):
            generator(torch.zeros(1, 128), torch.tensor([label]))
        with pytest.raises(ValueError, match=rf"label {label} is out of range.*class 0"):
            discriminator(torch.zeros(1, 3, 128, 128), torch.tensor([label]))

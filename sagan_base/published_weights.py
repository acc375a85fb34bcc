"""The paper's published weights: TensorFlow variables to PyTorch modules and back.

The published program keeps convolutions as [height, width, in, out], linear layers as [in, out], feature maps with
channels last, and one power-iteration vector per normalised weight, [rows, 1] with rows in (height, width, in) order.
One table, ``_variables``, says which variable is which tensor and how its axes move; reading and writing both use it.

Where this package refuses what the program did quietly: a label out of range was taken for class 0 there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sagan_base.batch_norm import BatchNorm2d
from sagan_base.config import AttentionConfig, ModelConfig
from sagan_base.discriminator import Discriminator
from sagan_base.files import read_arrays
from sagan_base.generator import Generator
from sagan_base.network import Network
from sagan_base.tf_checkpoint import read_tf_checkpoint

G = "Generator/generator/"
D = "Discriminator/discriminator/"

# The mask rows repeat over consecutive row-major queries in the published program.
PUBLISHED_ATTENTION = AttentionConfig("ltr_rtl", num_heads=8, order="manhattan", alignment="rows")


def load_published_weights(
    path: str | Path, attention: AttentionConfig = PUBLISHED_ATTENTION
) -> tuple[Generator, Discriminator]:
    """Build the paper's networks from the variables of its TensorFlow program.

    Args:
        path: an ``.npz`` of variables by name; or the prefix of a TensorFlow checkpoint (``FOLDER/model.ckpt-900000``,
            also with ``.index``), read without TensorFlow; or a folder whose file ``checkpoint`` names the newest.
        attention: what the attention layers apply. The default is the published sparse one; a dense SAGAN of the same
            program is ``AttentionConfig("dense", num_heads=1)``.
    Returns:
        (generator, discriminator) in evaluation mode, in which nothing ever changes their state. Sizes, widths,
        latent size and number of classes are those of the variables.
    Raises:
        ValueError: there is no such file, or a variable is missing, unexpected or of an unexpected shape.
    """
    path = Path(path)
    variables = {name.removesuffix(":0"): array for name, array in _read(path).items()}
    config = _config_of(variables, attention, path)
    networks = Generator(config), Discriminator(config)
    _assign(networks, variables, path)
    return networks[0].eval(), networks[1].eval()


def published_variables(generator: Generator, discriminator: Discriminator) -> dict[str, np.ndarray]:
    """The inverse of ``load_published_weights``: the networks' state as TensorFlow variables, by name."""
    return {
        variable.name: variable.to_tensorflow()
        for network in (generator, discriminator)
        for variable in _variables(network)
    }


@dataclass(frozen=True)
class _Variable:
    """A TensorFlow variable and the tensor of ours that holds it.

    Attributes:
        shape: of the variable in TensorFlow.
        split, axes: ours is the variable seen in shape ``split`` (None: ``shape``), its axes permuted by ``axes``
            (None: unchanged), in the shape of ``tensor``.
    """

    name: str
    tensor: Tensor
    shape: tuple[int, ...]
    split: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None

    def assign(self, array: np.ndarray) -> None:
        split, axes = self._view()
        with torch.no_grad():
            self.tensor.copy_(torch.from_numpy(array.reshape(split).transpose(axes).reshape(self.tensor.shape)))

    def to_tensorflow(self) -> np.ndarray:
        split, axes = self._view()
        moved = self.tensor.detach().cpu().numpy().reshape([split[axis] for axis in axes])
        return moved.transpose(np.argsort(axes)).reshape(self.shape).copy()

    def _view(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        split = self.shape if self.split is None else self.split
        return split, tuple(range(len(split))) if self.axes is None else self.axes


def _variables(network: Network) -> Iterator[_Variable]:
    """Every variable of the network, in the order of its forward pass."""
    return _generator(network) if isinstance(network, Generator) else _discriminator(network)


def _generator(generator: Generator) -> Iterator[_Variable]:
    # The program reshapes the first layer's output to [4, 4, channels], we to [channels, 4, 4].
    scope, first = f"{G}g_snh0/dense", generator.linear
    latent_dim, channels = first.in_features, first.out_features // 16
    kernel = ((latent_dim, 16 * channels), (latent_dim, 4, 4, channels), (3, 1, 2, 0))
    yield _Variable(f"{scope}/kernel", _weight(first), *kernel)
    yield _Variable(_u_name(f"{scope}/kernel"), _u(first), (latent_dim, 1))
    yield _Variable(f"{scope}/bias", first.bias, (16 * channels,), (4, 4, channels), (2, 0, 1))
    for number, block in enumerate(generator.blocks, start=1):
        scope = f"{G}g_block{number}"
        yield from _batch_norm(f"{scope}/cbn_0", block.norm1)
        yield from _convolution(f"{scope}/snconv1/snconv1", block.conv1)
        yield from _batch_norm(f"{scope}/cbn_1", block.norm2)
        yield from _convolution(f"{scope}/snconv2/snconv2", block.conv2)
        yield from _convolution(f"{scope}/snconv3/snconv3", block.shortcut)
    yield from _attention(f"{G}g_ops", generator)
    yield from _batch_norm(f"{G}g_bn", generator.norm)
    yield from _convolution(f"{G}g_snconv_last/g_snconv_last", generator.to_image)


def _discriminator(discriminator: Discriminator) -> Iterator[_Variable]:
    blocks = [*discriminator.blocks, discriminator.last_block]
    for number, block in enumerate(blocks, start=1):
        scope = f"{D}d_optimized_block1" if number == 1 else f"{D}d_block{number}"
        yield from _convolution(f"{scope}/sn_conv1/sn_conv1", block.conv1)
        yield from _convolution(f"{scope}/sn_conv2/sn_conv2", block.conv2)
        if isinstance(block.shortcut, nn.Conv2d):
            yield from _convolution(f"{scope}/sn_conv3/sn_conv3", block.shortcut)
    yield from _attention(f"{D}d_ops", discriminator)
    kernel, last = f"{D}d_sn_linear/dense/kernel", discriminator.linear
    yield _Variable(kernel, _weight(last), (last.in_features, 1), axes=(1, 0))
    yield _Variable(_u_name(kernel), _u(last), (last.in_features, 1))
    yield _Variable(f"{D}d_sn_linear/dense/bias", last.bias, (1,))
    if discriminator.embedding is not None:
        rows = _weight(discriminator.embedding)
        yield _Variable(f"{D}d_embedding/embedding_map", rows, tuple(rows.shape))
        u = f"{D}d_embedding/spectral_normalize/spectral_norm/spectral_norm_u"
        yield _Variable(u, _u(discriminator.embedding), (rows.shape[1], 1))


def _attention(scope: str, network: Network) -> Iterator[_Variable]:
    layers = list(network.attention_layers().values())
    if len(layers) != 1:
        raise ValueError(f"the published networks have one attention layer each, this one has {len(layers)}")
    layer = layers[0]
    yield _Variable(f"{scope}/sigma_ratio", layer.gain, ())
    for name, convolution in (
        ("theta", layer.query), ("phi", layer.key), ("g", layer.value), ("attn", layer.output)
    ):  # fmt: skip
        yield from _convolution(f"{scope}/sn_conv_{name}", convolution, "weights")


def _batch_norm(scope: str, norm: BatchNorm2d) -> Iterator[_Variable]:
    num_classes, channels = norm.weight.shape
    yield _Variable(f"{scope}/gamma", norm.weight, (num_classes, 1, 1, channels))
    yield _Variable(f"{scope}/beta", norm.bias, (num_classes, 1, 1, channels))
    yield _Variable(f"{scope}/moving_mean", norm.running_mean, (channels,))
    yield _Variable(f"{scope}/moving_variance", norm.running_var, (channels,))


def _convolution(scope: str, convolution: nn.Conv2d, variable: str = "kernel") -> Iterator[_Variable]:
    out_channels, in_channels, *kernel = _weight(convolution).shape
    yield _Variable(
        f"{scope}/{variable}", _weight(convolution), (*kernel, in_channels, out_channels), axes=(3, 2, 0, 1)
    )
    rows = kernel[0] * kernel[1] * in_channels
    u = _u_name(f"{scope}/{variable}")
    yield _Variable(u, _u(convolution), (rows, 1), (*kernel, in_channels), (2, 0, 1))
    if convolution.bias is not None:
        yield _Variable(f"{scope}/bias", convolution.bias, (out_channels,))


def _weight(layer: nn.Module) -> Tensor:
    return layer.parametrizations.weight.original


def _u(layer: nn.Module) -> Tensor:
    return layer.parametrizations.weight[0].u


def _u_name(weight: str) -> str:
    """The program makes u inside the layer's scope, under the weight's whole name."""
    return f"{weight.rpartition('/')[0]}/{weight}/spectral_normalize/spectral_norm/spectral_norm_u"


def _config_of(variables: dict[str, np.ndarray], attention: AttentionConfig, path: Path) -> ModelConfig:
    """Read the sizes off the variables that have them; ``_assign`` checks all others against the result."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in variables:
            raise ValueError(f"{path} has no variable {name}; give weights of the paper's SAGAN program")
        sizes = variables[name].shape
        if len(sizes) != axes:
            raise ValueError(f"variable {name} of {path} has shape {sizes}, expected {axes} axes")
        return sizes

    num_blocks = sum(f"{G}g_block{number}/cbn_0/gamma" in variables for number in range(1, 10))
    resolution = 4 << num_blocks
    image_channels = shape(f"{G}g_snconv_last/g_snconv_last/kernel", 4)[3]
    num_classes = shape(f"{G}g_block1/cbn_0/gamma", 4)[0]
    if num_classes == 1:
        raise ValueError(f"{path} has 1 class, and an embedding for it; such networks cannot be read here")
    return ModelConfig(
        resolution=resolution,
        image_channels=image_channels,
        num_classes=num_classes,
        latent_dim=shape(f"{G}g_snh0/dense/kernel", 2)[0],
        generator_width=shape(f"{G}g_bn/gamma", 4)[3],
        discriminator_width=shape(f"{D}d_optimized_block1/sn_conv1/sn_conv1/kernel", 4)[3],
        # After the generator's third block and the discriminator's second; both are 32 at resolution 128.
        generator_attention=(32,),
        discriminator_attention=(resolution // 4,),
        attention=attention,
    )


def _assign(networks: tuple[Generator, Discriminator], variables: dict[str, np.ndarray], path: Path) -> None:
    expected = {variable.name: variable for network in networks for variable in _variables(network)}
    for name, variable in expected.items():
        if name not in variables:
            raise ValueError(f"{path} has no variable {name}; give weights of the paper's SAGAN program")
        array = variables[name]
        if array.shape != variable.shape:
            raise ValueError(
                f"variable {name} of {path} has shape {array.shape}, but the other variables ask for {variable.shape}; "
                "give the unchanged weights of one program"
            )
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"variable {name} of {path} has dtype {array.dtype}; save it as floating point")
    # A training checkpoint holds more than the networks: counters, and the optimisers' copies of each variable.
    unexpected = [
        name
        for name in sorted(variables.keys() - expected.keys())
        if name.startswith((G, D)) and not re.search(r"/Adam(_\d+)?$", name)
    ]
    if unexpected:
        raise ValueError(
            f"{path} has {len(unexpected)} variables that this network does not, such as {unexpected[0]}; "
            "give weights of the paper's SAGAN program, or take them out if they are not part of the network"
        )
    for name, variable in expected.items():
        variable.assign(variables[name])


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        return read_arrays(path)
    return read_tf_checkpoint(_checkpoint_prefix(path))


def _checkpoint_prefix(path: Path) -> Path:
    """The prefix meant by a prefix, one of its files, or their folder."""
    if not path.is_dir():
        return path.with_name(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name))
    prefixes = sorted(file.with_suffix("") for file in path.glob("*.index"))
    state = path / "checkpoint"
    if state.is_file():
        # It may name a folder of the machine that trained, so only the last part counts.
        newest = re.search(r'^model_checkpoint_path: "(?:.*/)?(.+)"', state.read_text(), re.MULTILINE)
        if newest and path / newest[1] in prefixes:
            return path / newest[1]
    if len(prefixes) != 1:
        names = ", ".join(prefix.name for prefix in prefixes) or "none"
        raise ValueError(f"folder {path} has no single TensorFlow checkpoint (found: {names}); name its prefix")
    return prefixes[0]

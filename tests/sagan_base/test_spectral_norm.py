"""The spectral norm against float64 NumPy written from the definition, and against torch.linalg."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sagan_base.spectral_norm import SpectralNorm, spectral_norm


def unit(x):
    return x / np.sqrt(max((x * x).sum(), 1e-12))


def one_iteration(rows_by_outputs, u):
    """(sigma, new u) of W [rows, outputs] from u [rows]: the definition, in float64."""
    v = unit(rows_by_outputs.T @ u)
    new_u = unit(rows_by_outputs @ v)
    return new_u @ rows_by_outputs @ v, new_u


def matrix(weight):
    return weight.detach().double().flatten(1).numpy().T


LAYERS = {
    "convolution": lambda: nn.Conv2d(5, 7, 3),
    "linear": lambda: nn.Linear(6, 4),
    "embedding": lambda: nn.Embedding(3, 8),
    "single output": lambda: nn.Linear(6, 1),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    return LAYERS[request.param]()


@pytest.mark.parametrize("training", [True, False])
def test_every_pass_does_exactly_one_power_iteration_from_the_stored_vector(layer, training):
    spectral_norm(layer, bounded=False).train(training)
    norm, original = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    u = norm.u.double().flatten().numpy()
    for _ in range(3):
        sigma, new_u = one_iteration(matrix(original), u)
        torch.testing.assert_close(layer.weight.double(), original.double() / sigma, rtol=1e-5, atol=1e-6)
        u = new_u if training else u
        np.testing.assert_allclose(norm.u.double().flatten().numpy(), u, atol=1e-6)


def test_a_pass_in_either_mode_gives_the_same_weight_from_the_same_state(layer):
    spectral_norm(layer, bounded=False)
    twin = copy.deepcopy(layer).eval()
    assert torch.equal(layer.train().weight, twin.weight)
    assert torch.equal(twin.weight, twin.weight)
    if layer.weight.shape[0] > 1:  # one output settles at once
        assert not torch.equal(layer.weight, twin.weight)


def test_registration_leaves_the_vector_as_it_was_drawn():
    torch.manual_seed(3)
    layer = nn.Linear(6, 4)
    expected = torch.randn(6)
    torch.manual_seed(3)
    layer = spectral_norm(nn.Linear(6, 4))
    assert torch.equal(layer.parametrizations.weight[0].u, expected)


def test_many_passes_reach_the_largest_singular_value_of_torch_linalg(layer):
    norm = SpectralNorm(layer.weight, bounded=False)
    for _ in range(500):
        norm(layer.weight)
    expected = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    torch.testing.assert_close(norm.divisor(layer.weight), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_the_bounded_norm_leaves_small_weights_exactly_as_they_are(scale):
    weight = torch.randn(4, 6) * scale
    bounded, plain = SpectralNorm(weight).eval(), SpectralNorm(weight, bounded=False).eval()
    plain.u = bounded.u
    if scale < 1:
        assert torch.equal(bounded(weight), weight)
    else:
        assert torch.equal(bounded(weight), plain(weight))


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("scale", [0.05, 3.0])
def test_gradients_flow_through_the_weight_but_not_through_the_vectors(bounded, scale):
    weight = (torch.randn(4, 6, dtype=torch.float64) * scale).requires_grad_()
    norm = SpectralNorm(weight, bounded).eval()
    coefficients = torch.randn(4, 6, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((norm(weight) * coefficients).sum(), weight)

    # Constant u and v: d sigma / dW = u v^T in the rows-by-outputs matrix.
    m, u = matrix(weight), norm.u.numpy()
    v = unit(m.T @ u)
    sigma, new_u = one_iteration(m, u)
    expected = coefficients.numpy().copy()
    if not bounded or sigma > 1:
        expected = expected / sigma - (expected * m.T).sum() / sigma**2 * np.outer(v, new_u)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_several_passes_before_one_backward_keep_their_own_vectors():
    """The discriminator sees real and generated images before the gradient is taken; u moves in between."""
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    norm = SpectralNorm(weight, bounded=False)
    state = norm.u.clone()
    a, b = torch.randn(2, 4, 6, dtype=torch.float64)
    (joint,) = torch.autograd.grad((norm(weight) * a).sum() + (norm(weight) * b).sum(), weight)
    norm.u.copy_(state)
    (first,) = torch.autograd.grad((norm(weight) * a).sum(), weight)
    (second,) = torch.autograd.grad((norm(weight) * b).sum(), weight)
    torch.testing.assert_close(joint, first + second)


def test_the_power_iteration_stays_in_float32_under_autocast():
    layer = spectral_norm(nn.Conv2d(64, 32, 3), bounded=False).eval()
    x = torch.randn(1, 64, 4, 4)
    exact = layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.weight, exact)
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("bounded", [True, False])
def test_a_weight_of_zeros_stays_so_and_is_normalised_once_it_is_not(layer, bounded):
    spectral_norm(layer, bounded)
    original = layer.parametrizations.weight.original
    drawn = original.detach().clone()
    nn.init.zeros_(original)
    weight = layer.weight
    weight.sum().backward()
    assert not weight.any() and original.grad.isfinite().all()
    with torch.no_grad():
        original.copy_(100 * drawn)
        for _ in range(300):
            weight = layer.weight
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_torch_compile_traces_a_pass_without_a_break_and_stores_the_vector(mode):
    layer = getattr(spectral_norm(nn.Conv2d(3, 4, 3, padding=1), bounded=False), mode)()
    twin, x = copy.deepcopy(layer), torch.randn(2, 3, 5, 5)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(twin.parametrizations.weight[0].u, layer.parametrizations.weight[0].u)

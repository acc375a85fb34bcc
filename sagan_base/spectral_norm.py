"""Spectral normalisation with the paper's program's semantics: a weight is divided by its largest singular value.

Each forward pass estimates that value by exactly one power iteration from a stored vector ``u``. In training mode the
iterated ``u`` is stored for the next pass; in evaluation mode it is used and forgotten, so both modes give the same
weight for the same state, and evaluation never changes state. From Miyato et al., arXiv:1802.05957, section 2.1.

Why not ``torch.nn.utils.parametrizations.spectral_norm``: it iterates from the output side, does not iterate at all in
evaluation mode, and always divides by sigma, where the paper's residual weights are divided by max(1, sigma).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


class SpectralNorm(nn.Module):
    """Parametrisation of a weight whose first axis is its output (Conv2d, Linear) or its class (Embedding).

    The weight is seen as the matrix ``W^T`` of shape [weight.shape[0], product of the other axes]. One iteration is
    ``v = unit(W^T u)``, ``u' = unit(W v)``, ``sigma = u'^T W v``; no gradient flows through u' and v, it does flow
    through both W in ``W / sigma``. The power iteration runs in float32 or better also under autocast.

    Args:
        weight: the weight to be normalised; only its shape, dtype and device are used.
        bounded: divide by max(1, sigma), so that small weights stay as they are, instead of by sigma.
        epsilon: smallest squared length that the vectors are divided by.
    Attributes:
        u: buffer of shape ``weight.shape[1:]``, that is [in, kernel height, kernel width] for a convolution: the input
            side of the matrix, in PyTorch's order of axes. Starts as N(0, 1), not normalised.
    """

    u: Tensor

    def __init__(self, weight: Tensor, bounded: bool = True, epsilon: float = 1e-12) -> None:
        super().__init__()
        self.bounded = bounded
        self.epsilon = epsilon
        self.register_buffer("u", torch.randn(weight.shape[1:], dtype=weight.dtype, device=weight.device))

    def divisor(self, weight: Tensor) -> Tensor:
        """The scalar that ``weight`` is divided by, differentiable in ``weight``; stores u' in training mode."""
        with torch.autocast(weight.device.type, enabled=False):
            dtype = torch.promote_types(weight.dtype, torch.float32)
            smallest_length = self.epsilon**0.5
            matrix = weight.flatten(1).to(dtype)
            with torch.no_grad():
                v = F.normalize(torch.mv(matrix, self.u.flatten().to(dtype)), dim=0, eps=smallest_length)
            image_of_v = torch.mv(matrix.T, v)
            with torch.no_grad():
                u = F.normalize(image_of_v, dim=0, eps=smallest_length)
                # A weight of zeros has no direction: the vector waits, or the weight could never be measured again.
                u = torch.where(image_of_v.any(), u, self.u.flatten().to(dtype))
                if self.training:
                    self.u.copy_(u.view_as(self.u))
            sigma = u.dot(image_of_v)
            return sigma.clamp_min(1.0 if self.bounded else self.epsilon)

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight, same shape and dtype."""
        return weight / self.divisor(weight).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"bounded={self.bounded}, epsilon={self.epsilon:g}"


def spectral_norm(module: nn.Module, bounded: bool = True, epsilon: float = 1e-12) -> nn.Module:
    """Normalise ``module.weight`` in place and return ``module``.

    Reading ``module.weight`` afterwards runs a power iteration, as a forward pass does; the trained weight itself is
    ``module.parametrizations.weight.original``, and ``module.parametrizations.weight[0]`` is the ``SpectralNorm``.
    """
    norm = SpectralNorm(module.weight, bounded, epsilon)
    # unsafe=True only skips the trial evaluation at registration, which would advance u before the first pass.
    parametrize.register_parametrization(module, "weight", norm, unsafe=True)
    return module

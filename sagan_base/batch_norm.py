"""Batch normalisation, plain or conditional on the class, with the paper's program's semantics.

Two conventions differ from ``nn.BatchNorm2d``: the moving variance averages the *biased* variance of the batch, and
``decay`` is the share of the old value. The statistics are shared by all classes; gain and bias have one row per class
(de Vries et al., arXiv:1707.00683), the gain starting at 1.
"""

from collections.abc import Iterable

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.Module):
    """Normalise each channel over batch and cells, then scale and shift it, by class where there are classes.

    Args:
        channels: C.
        num_classes: rows of gain and bias; with 1 the labels are not read.
        epsilon: added to the variance.
        decay: moving statistic = decay * old + (1 - decay) * batch, in training mode only.
    Shape:
        input and output [batch, C, height, width]; labels int64 [batch], in 0 ... num_classes - 1.
    Attributes:
        weight, bias: gain (starts at 1) and bias (starts at 0), [num_classes, C].
        running_mean, running_var: buffers [C], what evaluation mode normalises with.
        sync: statistics over all processes; see ``set_sync_batch_norm``.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, num_classes: int = 1, epsilon: float = 1e-3, decay: float = 0.999) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.decay = decay
        self.sync = False
        self.weight = nn.Parameter(torch.ones(num_classes, channels))
        self.bias = nn.Parameter(torch.zeros(num_classes, channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        num_classes, _ = self.weight.shape
        if num_classes == 1:
            return self._normalise(x, self.weight[0], self.bias[0])
        gain, bias = (F.embedding(labels, rows)[:, :, None, None] for rows in (self.weight, self.bias))
        normalised = self._normalise(x)
        return torch.addcmul(bias.to(normalised.dtype), normalised, gain.to(normalised.dtype))

    def _normalise(self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, gain, bias, eps=self.epsilon)
        if self.sync and distributed.is_available() and distributed.is_initialized():
            mean, variance, normalised = _normalise_globally(x, self.epsilon)
            if gain is not None:
                normalised = torch.addcmul(bias[:, None, None], normalised, gain[:, None, None])
            normalised = normalised.to(x.dtype)
        else:
            # With momentum 1 the fused kernel writes this batch's own moments; its variance is the unbiased one.
            mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
            normalised = F.batch_norm(x, mean, variance, gain, bias, training=True, momentum=1.0, eps=self.epsilon)
            count = x.numel() // x.shape[1]
            variance = variance * ((count - 1) / count)
        with torch.no_grad():
            self.running_mean.lerp_(mean, 1 - self.decay)
            self.running_var.lerp_(variance, 1 - self.decay)
        return normalised

    def extra_repr(self) -> str:
        num_classes, channels = self.weight.shape
        return f"{channels}, num_classes={num_classes}, epsilon={self.epsilon:g}, decay={self.decay:g}"


def _normalise_globally(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Moments over all processes, [C] each, and x normalised with them; every process holds equally many images.

    Two exchanges, the mean and then the squares around it: one exchange of mean and mean square would be quicker and
    lose digits where the mean is large.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = _mean_over_processes(x.mean((0, 2, 3)))
    centred = x - mean[:, None, None]
    variance = _mean_over_processes(centred.square().mean((0, 2, 3)))
    return mean, variance, centred * (variance + epsilon).rsqrt()[:, None, None]


class _SumOverProcesses(torch.autograd.Function):
    """Each process receives the sum, and so, going backwards, the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _mean_over_processes(value: Tensor) -> Tensor:
    return _SumOverProcesses.apply(value) / distributed.get_world_size()


@torch.no_grad()
def measure_statistics(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Replace the moving statistics of every ``BatchNorm2d`` by the mean of those of these batches, equally weighted.

    The moving statistics follow the trained weights with a delay, and not at all those of an average of weights; these
    are the network's own ("standing statistics", Brock et al., arXiv:1809.11096, appendix B). Nothing else of the
    network changes, and all of it is left in the mode it was in.

    Args:
        batches: the network's arguments, batch by batch.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, BatchNorm2d)]
    before = [(layer.training, layer.decay, layer.sync) for layer in norms]
    try:
        for number, inputs in enumerate(batches, 1):
            for layer in norms:
                layer.training, layer.decay, layer.sync = True, 1 - 1 / number, False
            network(*inputs)
    finally:
        for layer, (training, decay, sync) in zip(norms, before, strict=True):
            layer.training, layer.decay, layer.sync = training, decay, sync


def set_sync_batch_norm(module: nn.Module, enabled: bool) -> None:
    """Let every ``BatchNorm2d`` inside ``module`` take its training statistics over all processes, or over its own.

    As on the paper's TPUs. Without a process group both are the same.
    """
    for layer in module.modules():
        if isinstance(layer, BatchNorm2d):
            layer.sync = enabled

"""The hinge losses of SAGAN (Zhang et al., arXiv:1805.08318, equation 4; Lim & Ye, arXiv:1705.02894)."""

import torch.nn.functional as F
from torch import Tensor


def discriminator_hinge_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean of max(0, 1 - D(real)) plus mean of max(0, 1 + D(fake)): logits beyond the margin no longer count.

    Args:
        real_logits, fake_logits: logits [B] of real and of generated images; the two B may differ.
    Returns:
        Scalar, at least 0; 2 where every logit is 0.
    """
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def generator_hinge_loss(fake_logits: Tensor) -> Tensor:
    """Minus the mean of D(fake), logits [B]; unbounded, without a margin."""
    return -fake_logits.mean()

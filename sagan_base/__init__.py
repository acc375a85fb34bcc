"""SAGAN (Zhang et al., arXiv:1805.08318) with the sparse attention layers of ylg: networks, training, metrics.

Read next: config.py (every choice there is), generator.py, discriminator.py, training.py.
"""

from sagan_base.checkpoint import load_checkpoint
from sagan_base.discriminator import Discriminator
from sagan_base.generator import Generator
from sagan_base.published_weights import load_published_weights

__all__ = ["Discriminator", "Generator", "load_checkpoint", "load_published_weights"]

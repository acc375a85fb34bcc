"""SAGAN (Zhang et al., arXiv:1805.08318) with the sparse attention layers of ylg: networks, training, metrics.

Read next: config.py (every choice there is), generator.py, discriminator.py, training.py.
"""

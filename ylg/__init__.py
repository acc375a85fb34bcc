"""Sparse 2-D attention: orders, patterns, information flow, and an engine that runs the masks fast.

From Daras, Odena, Zhang and Dimakis, "Your Local GAN", CVPR 2020 (arXiv:1911.12287).
Read next: orders.py, patterns.py, heads.py, flow.py, plan.py, attention.py, layer.py.
"""

from ylg.heads import head_masks, sparse_head_masks
from ylg.orders import grid_order
from ylg.patterns import Pattern, pattern, register_pattern, sparse_step_masks, step_masks

__all__ = [
    "Pattern",
    "grid_order",
    "head_masks",
    "pattern",
    "register_pattern",
    "sparse_head_masks",
    "sparse_step_masks",
    "step_masks",
]

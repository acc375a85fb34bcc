"""Sparse 2-D attention: orders, patterns, information flow, and an engine that runs the masks fast.

From Daras, Odena, Zhang and Dimakis, "Your Local GAN", CVPR 2020 (arXiv:1911.12287).
Read next: orders.py, patterns.py, heads.py, flow.py, plan.py, attention.py, layer.py, tokens.py; the paper's ESA is
the order "manhattan", the CPU kernel is backends/tiles, the GPU kernels are backends/triton.
"""

from ylg.attention import sparse_attention
from ylg.flow import flow_report, has_full_information, information_flow_graph
from ylg.heads import ALIGNMENTS, head_masks, head_steps, sparse_head_masks
from ylg.layer import SparseAttention2d
from ylg.orders import ORDERS, grid_order
from ylg.pattern_table import LAYOUTS, Pattern
from ylg.patterns import (
    load_patterns,
    pattern,
    pattern_names,
    register_pattern,
    sparse_step_masks,
    step_masks,
)
from ylg.plan import AttentionPlan, attention_plan
from ylg.tokens import SparseAttention

__version__ = "0.2.0.dev0"

__all__ = [
    "ALIGNMENTS",
    "LAYOUTS",
    "ORDERS",
    "AttentionPlan",
    "Pattern",
    "SparseAttention",
    "SparseAttention2d",
    "attention_plan",
    "flow_report",
    "grid_order",
    "has_full_information",
    "head_masks",
    "head_steps",
    "information_flow_graph",
    "load_patterns",
    "pattern",
    "pattern_names",
    "register_pattern",
    "sparse_attention",
    "sparse_head_masks",
    "sparse_step_masks",
    "step_masks",
]

"""Backends: what executes a plan. ``ylg/attention.py`` names them and imports each when it is first used.

    f(queries, keys, values, plan, scale, return_attention) -> out, or (out, attention)

tiles/        the CPU kernel: plain torch on any device, hand-written backward
triton/       fused GPU kernels
flex.py       FlexAttention with padded heads: a peer, and a fallback by name
reference.py  dense softmax(QK^T + mask)V, for tests
"""

"""The CPU kernel, in plain torch, which runs on any device: attention.py computes, layout.py says where tiles lie.

second_order.py gives the derivatives beyond the first, to the Triton backend too.
"""

"""The CPU kernel, in plain torch, which runs on any device: attention.py computes, layout.py says where tiles lie.

plain.py is the same in plain operators: for derivatives beyond the first (of the Triton backend too), biases, export.
"""

"""Sparse 2-D attention: orders, patterns, information flow, and an engine that runs the masks fast.

From Daras, Odena, Zhang and Dimakis, "Your Local GAN", CVPR 2020 (arXiv:1911.12287).
Read next: orders.py, patterns.py, heads.py, flow.py, plan.py, attention.py, layer.py.
"""

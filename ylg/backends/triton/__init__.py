"""The GPU kernels: operators.py is what PyTorch sees of kernels.py, which walk the tables of table.py."""

"""Ablations: the rows of the paper's Table 1, trained, measured and tabulated."""

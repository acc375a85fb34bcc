"""How good are the samples: distances between features of real and generated images, by torch-fidelity.

Read next: evaluate.py (the measures), features.py (what the features are), class_accuracy.py.
"""

from sagan_base.torchvision_compat import declare_missing_operators

declare_missing_operators()  # before anything in this package imports torch-fidelity, and with it torchvision

"""Let torchvision be imported beside a torch that its compiled operators do not fit.

Torch-fidelity and timm import torchvision for a few lines of plain Python. Importing it registers shape rules for its
operators nms and qnms, which fails with "operator torchvision::nms does not exist" when its compiled part cannot be
loaded, most often a CUDA build of torchvision beside a CPU build of torch (pytorch/vision issues 9085 and 9077).
Declaring the two operators without an implementation is enough: nothing here calls them.
"""

import importlib.util
from pathlib import Path

import torch

OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a Library's declarations last as long as the object


def declare_missing_operators() -> tuple[str, ...]:
    """Declare torchvision's operators where its compiled part cannot be loaded; call before importing torchvision.

    Returns:
        The names declared: none on a healthy installation, where this changes nothing.
    """
    _load_compiled_operators()
    missing = tuple(name for name in OPERATORS if not hasattr(torch.ops.torchvision, name))
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(OPERATORS[name])
        _declared.append(library)
    return missing


def _load_compiled_operators() -> None:
    """Load torchvision's compiled operators as its own import would, and as silently."""
    package = importlib.util.find_spec("torchvision")
    for folder in package.submodule_search_locations or () if package else ():
        for library in [*Path(folder).glob("_C*.so"), *Path(folder).glob("_C*.pyd")]:
            try:
                torch.ops.load_library(str(library))
            except OSError:
                continue

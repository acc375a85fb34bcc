"""What the figures are called: after the features they were measured in, so that nobody takes one for another.

Bare "FID", "IS" and "KID" mean Inception's features; everything else carries its features' name.
"""

from collections.abc import Mapping

FEATURES = ("classifier", "efficientnet", "inception")  # as options name them; features.py has the extractors
BARE = {"FD": "FID", "IS-style": "IS", "KID": "KID"}


def column(name: str, label: str) -> str:
    """The name of one measure, such as "FD", in the features that are called ``label``."""
    return BARE[name] if label == "Inception" and name in BARE else f"{name} ({label})"


def leading(values: Mapping[str, float], name: str) -> str | None:
    """The first key of ``values`` that is the measure ``name`` ("FD", "IS-style"), in whatever features; or None."""
    return next((key for key in values if key == BARE[name] or key.startswith(f"{name} (")), None)


def is_distance(name: str) -> bool:
    """Whether a figure of this name is a Fréchet distance, in whatever features."""
    return name == BARE["FD"] or name.startswith("FD (")

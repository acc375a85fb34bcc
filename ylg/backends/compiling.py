"""What torch.compile finds ready, because it cannot follow how it is made."""

import torch

from ylg.backends.tiles.layout import tile_layout
from ylg.plan import plan_in_use


@torch.compiler.assume_constant_result
def make_ready(digest: str, device: str, plain: bool) -> bool:
    """Makes what is kept of a plan on a device; ``plain``: what plain operators need too."""
    plan = plan_in_use(digest)
    if plan is not None and plain:
        tile_layout(plan.to(device)).make_ready()
    elif plan is not None:
        plan.to(device)
    return True

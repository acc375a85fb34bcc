"""Start a run from another run's weights: on other data or classes, with other attention, or at another resolution.

Blocks are matched by the side of their feature map, so that a network of twice the resolution takes over its inner
blocks; that needs the same channels there, and so half the width. What has no counterpart of the same shape is new.
Optimisers start anew.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sagan_base.checkpoint import Checkpoint
from sagan_base.config import ModelConfig
from sagan_base.network import Network

# One row per class: gains and biases of the blocks' conditional norms, and the embedding of the projection.
CLASS_ROWS = re.compile(r"blocks\.\d+\.norm\d?\.(weight|bias)|embedding\.parametrizations\.weight\.original")


@dataclass(frozen=True)
class Start:
    """Where a run starts: a checkpoint, and the names of the classes that it goes on with."""

    checkpoint: Checkpoint
    class_names: Sequence[str]

    def __str__(self) -> str:
        """What a run's configuration says of it: another content is another run, another path is not."""
        info = self.checkpoint.info
        data = info.get("data", {}).get("name", "unknown data")
        return f"{data} at step {info.get('step')}, SHA-256 {self.checkpoint.sha256[:12]}"

    def fill(self, network: Network, kind: str, parts: Sequence[str]) -> str:
        """Copy into a network what fits.

        Args:
            kind: "generator" or "discriminator".
            parts: of the checkpoint; the first that it holds is taken (a slim export holds the averaged generator).
        Returns:
            for a person, what was taken and what is new.
        Raises:
            ValueError: no convolution of any block fits; the width that does is said.
        """
        weights = next(filter(None, map(self.checkpoint.part, parts)), {})
        there, here = self.checkpoint.config.model, network.config
        state = network.state_dict()
        found = {name: weights.get(_name_there(name, kind, there, here)) for name in state}
        taken = {}
        for name, theirs in found.items():
            if theirs is not None and CLASS_ROWS.fullmatch(name):
                theirs = self._rows(here) @ theirs
            if theirs is not None and theirs.shape == state[name].shape and not name.endswith("_extra_state"):
                taken[name] = theirs
        if not any(name.startswith("blocks.") and state[name].ndim == 4 for name in taken):
            theirs = getattr(there, f"{kind}_width")
            width, rest = divmod(theirs * there.resolution, here.resolution)
            raise ValueError(
                f"no block of the {kind} fits the one to start from ({there.resolution}x{there.resolution}, width "
                f"{theirs}); " + ("leave --init-from out" if rest else f"give --{kind}-width {width}")
            )
        network.load_state_dict(state | taken)
        names = [name for name in state if not name.endswith("_extra_state")]
        new = sorted({re.match(r"(blocks\.\d+|[^.]+)", name)[0] for name in names if name not in taken})
        return f"{kind}: {len(taken)} of {len(names)} tensors taken over; new in {', '.join(new) or 'nothing'}"

    def _rows(self, here: ModelConfig) -> Tensor:
        """[classes here, classes there]: a class of the same name keeps its row, another one has the mean of all."""
        count = self.checkpoint.config.model.num_classes
        known = tuple(self.checkpoint.info.get("class_names", ())) if count > 1 else ()
        wanted = tuple(self.class_names) if here.num_classes > 1 else ("",)
        if len(known) != count and len(wanted) == count:
            return torch.eye(count)
        rows = torch.full((len(wanted), count), 1 / count)
        for row, name in enumerate(wanted):
            if name in known:
                rows[row] = torch.eye(count)[known.index(name)]
        return rows


def _name_there(name: str, kind: str, there: ModelConfig, here: ModelConfig) -> str | None:
    """What a tensor is called in the other network; None where that has no block of the same side."""
    block = re.fullmatch(r"blocks\.(\d+)(\..*)", name)
    if block is None:
        return name
    sides, side = getattr(there, f"{kind}_sides"), getattr(here, f"{kind}_sides")[int(block[1])]
    return f"blocks.{sides.index(side)}{block[2]}" if side in sides else None

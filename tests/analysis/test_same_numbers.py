"""What a seed draws for pictures and inversions stays what it was; see tests/sagan_base/test_same_numbers.py."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from analysis.interpolate import _points
from analysis.inversion.calibration import DRAWS
from analysis.inversion.targets import brightness_warning, generated
from analysis.loading import Model
from sagan_base.sampling import draw_any


class Recorder(nn.Module):
    """Takes a generator's place and keeps what it is asked for."""

    num_classes, latent_dim, resolution = 3, 5, 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, z: Tensor, classes: Tensor) -> Tensor:
        self.asked.append((z, classes))
        return z[:, :1, None, None].expand(-1, 1, 4, 4)


def digest(*tensors: Tensor) -> str:
    """Of the integers, or of the numbers rounded to 1/1024."""
    integers = [(t.double() * 1024).round().long() if t.is_floating_point() else t.long() for t in tensors]
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in integers)).hexdigest()[:12]


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda model: draw_any(model.generator, DRAWS), "1c4ab2652f4b"),
        (lambda model: list(generated(model, 4, seed=3)), "0288b6e5168d"),
        (lambda model: brightness_warning(model, torch.zeros(1, 4, 4)), "4cf1d0b49fbc"),
    ],
    ids=["fitting model", "generated targets", "brightness"],
)
def test_what_the_generator_is_asked_for_is_what_it_always_was(use, expected):
    generator = Recorder()
    use(Model(generator, None, "recorder", Path()))
    assert digest(*(torch.cat(parts) for parts in zip(*generator.asked, strict=True))) == expected


def test_a_walk_visits_the_codes_it_always_did():
    assert digest(_points(Model(Recorder(), None, "recorder", Path()), None, 4, 3)[0]) == "dc95521795ec"

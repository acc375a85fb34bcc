"""A seed gives the same run in every revision: what was published with a seed must be repeatable from it.

Random draws are compared by a digest, because they are exact: integers as they are, normal numbers rounded to 1/1024,
since their last bit is the business of the machine's ``exp``. Losses are floating-point sums whose order depends on
the machine, so they have a tolerance; a draw that moved would change them a thousand times as much.
"""

import hashlib

import pytest
import torch
from torch import Tensor, nn

from sagan_base.distributed import Processes
from sagan_base.draws import PURPOSES, image_indices, labels, latents, stream, truncated_latents
from sagan_base.sampling import GeneratedImages, class_frequency_labels, draw_class, preview
from sagan_base.updates import Updates

EXPECTED_LOSSES = [  # steps 1, 2 and 3; losses of both networks, logits of real and of generated images
    [1.576638, 1.008622, -0.438081, -1.919464],
    [1.762144, 1.229607, -0.571979, -0.887983],
    [1.430262, 0.971594, -0.151712, -1.304055],
]


def digest(*tensors: Tensor) -> str:
    """Of the integers, or of the numbers rounded to 1/1024."""
    integers = [(t.double() * 1024).round().long() if t.is_floating_point() else t.long() for t in tensors]
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in integers)).hexdigest()[:12]


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

    def digest(self) -> str:
        return digest(*(torch.cat(parts) for parts in zip(*self.asked, strict=True)))


def test_the_place_of_a_purpose_seeds_its_stream_so_new_ones_come_last():
    assert PURPOSES[:7] == ("weights", "shuffle", "flip", "discriminator", "generator", "preview", "sample")


def test_the_draws_of_training_are_those_they_always_were():
    assert {
        "images": digest(image_indices(3, 25, 40, 30)),
        "flips": digest(torch.from_numpy(stream(3, "flip", 2, 0).random(40) < 0.5)),
        "discriminator": digest(latents(stream(3, "discriminator", 2, 0), 4, 8)),
        "generator": digest(latents(stream(3, "generator", 2), 4, 8)),
        "labels": digest(labels(stream(3, "generator", 2), 40, 10)),
        "truncated": digest(truncated_latents(stream(3, "sample", 1), 4, 8, 1.5)),
    } == {
        "images": "c13bdde68ef6",
        "flips": "69d871e2d394",
        "discriminator": "e5add1873737",
        "generator": "91f6df77979f",
        "labels": "edc3b5de5954",
        "truncated": "bf06acc046b6",
    }


def test_sheets_samples_and_measurements_ask_for_the_latents_and_classes_they_always_did(tiny_data):
    sheet, row, measured = Recorder(), Recorder(), Recorder()
    preview(sheet, seed=3)
    draw_class(row, label=2, number=70, seed=3)
    with GeneratedImages(measured, class_frequency_labels(tiny_data, 70, 3), seed=3, progress=False) as samples:
        for i in range(70):
            samples[i]
    assert (sheet.digest(), row.digest(), measured.digest()) == ("c4c49de79833", "6358751c4964", "e1cf5cfe57eb")


def test_the_first_losses_of_a_seed_are_those_they_always_were(tiny_config, tiny_data):
    updates = Updates(tiny_config(seed=3), Processes(0, 1, torch.device("cpu")), tiny_data.batch, len(tiny_data))
    losses = torch.stack([updates.step(number) for number in (1, 2, 3)])
    assert losses.tolist() == [pytest.approx(values, abs=1e-4) for values in EXPECTED_LOSSES]

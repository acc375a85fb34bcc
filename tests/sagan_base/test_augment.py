"""Differentiable augmentation: what each change does, its neutral middle, its gradient."""

import pytest
import torch

from sagan_base.augment import NUM_DRAWS, augment
from sagan_base.config import AUGMENTATIONS
from sagan_base.distributed import Processes
from sagan_base.updates import Updates

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


def images(channels=3, side=16):
    return torch.rand(4, channels, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def middle(**changes):
    """Draws that change nothing, but for those given by their place."""
    draws = torch.full((4, NUM_DRAWS), 0.5, dtype=torch.float64)
    for place, value in changes.items():
        draws[:, int(place[1:])] = value
    return draws


@pytest.mark.parametrize("channels", [1, 3])
def test_draws_in_the_middle_change_neither_colour_nor_place(channels):
    x = images(channels)
    torch.testing.assert_close(augment(x, middle(), ("colour", "translation")), x)


def test_brightness_is_added_and_grey_remains_when_saturation_and_contrast_are_least():
    x = images()
    torch.testing.assert_close(augment(x, middle(_0=0.9), ("colour",)), x + 0.4)
    grey = augment(x, middle(_1=0.0), ("colour",))
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))
    flat = augment(x, middle(_2=0.0), ("colour",))
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(flat - mean, (x - mean) / 2)


@pytest.mark.parametrize(("draw", "shift"), [(0.0, -2), (0.999, 2)])
def test_translation_moves_by_whole_pixels_up_to_an_eighth_and_black_comes_in(draw, shift):
    x = images()
    black = torch.full_like(x[:, :, :2], -1)
    moved = torch.cat([x[:, :, 2:], black], 2) if shift > 0 else torch.cat([black, x[:, :, :-2]], 2)
    assert torch.equal(augment(x, middle(_3=draw), ("translation",)), moved)
    assert torch.equal(augment(x.mT, middle(_4=draw), ("translation",)).mT, moved)


def test_cutout_removes_a_square_of_half_the_side():
    x = images()
    cut = augment(x, middle(), ("cutout",))
    assert (cut == 0).sum() == 4 * 3 * 8 * 8
    assert (cut[:, :, 4:12, 4:12] == 0).all()


def test_every_image_is_changed_in_its_own_way_whatever_the_order_of_the_names():
    x, draws = images()[:1].expand(4, -1, -1, -1), torch.rand(4, NUM_DRAWS, dtype=torch.float64)
    changed = augment(x, draws, AUGMENTATIONS)
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 4
    assert torch.equal(changed, augment(x, draws, AUGMENTATIONS[::-1]))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_gradient_is_that_of_finite_differences(name):
    draws = torch.rand(4, NUM_DRAWS, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: augment(x, draws, (name,)), images(side=8).requires_grad_())


def test_both_updates_see_augmented_images_and_each_step_its_own(tiny_config, tiny_data, monkeypatch):
    updates = Updates(tiny_config(augment=("colour",)), ALONE, tiny_data.batch, len(tiny_data))
    shown, scored = [], []
    monkeypatch.setattr("sagan_base.updates.augment", lambda x, draws, names: shown.append(draws) or x + 0)
    updates.discriminator.register_forward_pre_hook(lambda module, inputs: scored.append(inputs[0].shape[0]))
    updates.step(1)
    updates.step(2)
    assert scored == [16, 8, 16, 8]  # real and generated together, then generated alone
    assert len(shown) == 6
    assert len({tuple(draws.flatten().tolist()) for draws in shown}) == 6


def test_the_generator_learns_through_the_augmentation(tiny_config, tiny_data):
    plain, augmented = (
        Updates(tiny_config(augment=names), ALONE, tiny_data.batch, len(tiny_data)) for names in ((), ("translation",))
    )
    for updates in (plain, augmented):
        updates._update_generator(1)
    gradients = [u.generator.to_image.parametrizations.weight.original.grad for u in (plain, augmented)]
    assert gradients[1].abs().max() > 0 and not torch.equal(*gradients)

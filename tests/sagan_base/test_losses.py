"""Hinge losses worked by hand."""

import torch

from sagan_base.losses import discriminator_hinge_loss, generator_hinge_loss


def test_the_discriminator_pays_for_each_logit_inside_its_margin():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.25])
    # real: 0, 0.5, 2 over 3; fake: 0, 1.25 over 2
    torch.testing.assert_close(discriminator_hinge_loss(real, fake), torch.tensor(2.5 / 3 + 1.25 / 2))


def test_only_logits_inside_the_margin_have_a_discriminator_gradient():
    real = torch.tensor([2.0, 0.5, -1.0], requires_grad=True)
    fake = torch.tensor([-3.0, 0.25], requires_grad=True)
    discriminator_hinge_loss(real, fake).backward()
    torch.testing.assert_close(real.grad, torch.tensor([0, -1 / 3, -1 / 3]))
    torch.testing.assert_close(fake.grad, torch.tensor([0, 1 / 2]))


def test_the_generator_raises_every_logit_without_a_margin():
    fake = torch.tensor([-3.0, 5.0], requires_grad=True)
    loss = generator_hinge_loss(fake)
    loss.backward()
    assert loss.item() == -1.0
    torch.testing.assert_close(fake.grad, torch.tensor([-0.5, -0.5]))

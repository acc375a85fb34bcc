"""The loss equals the authors' numbers; the search finds, reproduces, survives interruption, and says what it did."""

import copy
import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from analysis.inversion.config import PRESETS, InversionConfig, LossConfig
from analysis.inversion.distances import ssim_distance
from analysis.inversion.lookahead import Lookahead
from analysis.inversion.loss import InversionLoss
from analysis.inversion.saliency import saliency_maps
from analysis.inversion.search import _ramp, invert
from sagan_base.discriminator import Discriminator
from sagan_base.generator import Generator
from ylg import head_masks


def networks(seed=0, **options):
    torch.manual_seed(seed)
    small = {
        "resolution": 16, "image_channels": 1, "num_classes": 3, "latent_dim": 8, "generator_width": 8,
        "discriminator_width": 8, "init": "orthogonal",
    } | options  # fmt: skip
    generator, discriminator = Generator(**small), Discriminator(**small)
    for network in (generator, discriminator):
        for layer in network.attention_layers().values():
            torch.nn.init.constant_(layer.gain, 0.5)
    return generator.eval(), discriminator.eval()


@pytest.fixture(scope="module")
def model():
    return networks()


def picture(generator, label=1, seed=5):
    z = torch.randn(1, generator.latent_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return generator(z, torch.tensor([label]))[0]


QUICK = InversionConfig(steps=6, restarts=3, draws=12, classes=2)


# ---- the loss ----


@pytest.fixture(scope="module")
def golden(shared):
    from sagan_base.published_weights import load_published_weights

    folder = shared / "golden" / "a"
    real = torch.from_numpy(np.load(folder / "inputs.npz")["images"]).permute(0, 3, 1, 2)
    return *load_published_weights(folder / "weights.npz"), real, np.load(folder / "inversion.npz")


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 2e-5), (torch.float32, 2e-4)])
def test_loss_and_gradient_equal_the_published_ones(golden, dtype, atol):
    """In float32 a processor's own order of sums moves gradients of up to 0.2 by 1e-4; float64 shows it."""
    generator, discriminator, real, numbers = golden
    generator, discriminator = (copy.deepcopy(network).to(dtype) for network in (generator, discriminator))
    loss = InversionLoss(discriminator, real.to(dtype), LossConfig(norm="batch"))
    z = torch.from_numpy(numbers["latent"]).to(dtype).requires_grad_(True)
    images = generator(z, torch.from_numpy(numbers["labels"]).long())
    value = loss.objective(loss.terms(images))
    assert value.item() == pytest.approx(float(numbers["disc_loss"]), abs=1e-4)
    (gradient,) = torch.autograd.grad(value, z)
    published = torch.from_numpy(numbers["grad_disc_loss_wrt_latent"]).to(dtype)
    torch.testing.assert_close(gradient, published, rtol=1e-3, atol=atol)


def test_every_heads_norm_and_the_pixel_distance_equal_the_published_ones(golden):
    _, discriminator, real, numbers = golden
    fake = torch.from_numpy(numbers["fake_images"]).permute(0, 3, 1, 2)
    every_head = InversionLoss(discriminator, real, LossConfig(heads=tuple(range(8)), norm="batch"))
    with torch.no_grad():
        over_the_batch = every_head.terms(fake).square().sum(0).sqrt()
    torch.testing.assert_close(
        over_the_batch, torch.from_numpy(numbers["per_head_weighted_norm"]), rtol=1e-5, atol=1e-4
    )
    pixel = InversionLoss(discriminator, real, LossConfig(method="pixel", norm="batch"))
    assert pixel.objective(pixel.terms(fake)).item() == pytest.approx(float(numbers["img_loss"]), rel=1e-5)


def test_the_features_compared_are_those_before_attention_or_of_every_block_with_equal_weight(model):
    generator, discriminator = model
    real, fake = picture(generator)[None], torch.rand(2, 1, 16, 16) * 2 - 1
    before, _ = discriminator.attention_features(fake)
    assert [side for side, _ in discriminator.stages(fake)] == [8, 4, 4]
    outputs = dict(islice(discriminator.stages(fake), 2))
    torch.testing.assert_close(outputs[8], before)
    after = discriminator.attention["8"](outputs[8])
    torch.testing.assert_close(outputs[4], discriminator.blocks[1](after))
    loss = InversionLoss(discriminator, real, LossConfig(method="features", features="blocks"))
    references = [features for _, features in islice(discriminator.stages(real), 2)]
    pairs = zip(outputs.values(), references, strict=True)
    expected = torch.stack([(a - b).square().mean((1, 2, 3)).sqrt() for a, b in pairs], 1)
    torch.testing.assert_close(loss.terms(fake), expected)
    per_head = InversionLoss(discriminator, real, LossConfig(features="blocks"))
    assert per_head.terms(fake).shape == (2, 2 * 4)


@pytest.mark.parametrize("method", ["saliency", "features", "pixel"])
@pytest.mark.parametrize("norm", ["restart", "l1"])
def test_terms_equal_their_definition_in_loops(model, method, norm):
    generator, discriminator = (network.double() for network in networks())
    real, fake = picture(generator.float()).double()[None], torch.rand(2, 1, 16, 16, dtype=torch.float64) * 2 - 1
    loss = InversionLoss(discriminator, real, LossConfig(method=method, norm=norm, heads=(1, 5)))
    with torch.no_grad():
        a, attention = discriminator.attention_features(real)
        b, _ = discriminator.attention_features(fake)
        ours = loss.terms(fake)
    if method == "pixel":
        a, b = real, fake
    for image in range(2):
        for term, head in enumerate((1, 5) if method == "saliency" else (None,)):
            total = 0.0
            for row in range(a.shape[2]):
                for col in range(a.shape[3]):
                    weight = 1.0
                    if head is not None:
                        column = attention[0, head, :, row // 2 * 4 + col // 2]
                        weight = float(column.sum() / (column != 0).sum())
                    difference = weight * (b[image, :, row, col] - a[0, :, row, col])
                    total += float(difference.abs().sum() if norm == "l1" else difference.square().sum())
            expected = total if norm == "l1" else math.sqrt(total)
            assert ours[image, term].item() == pytest.approx(expected, rel=1e-9)


def test_the_controls_weigh_as_uniform_attention_or_another_image_would(model):
    generator, discriminator = model
    real, other, fake = (picture(generator, seed=seed)[None] for seed in (5, 6, 7))

    def terms(method, attention):
        loss = InversionLoss(discriminator, real, LossConfig(method=method), other)
        features, _ = discriminator.attention_features(torch.cat([real, fake]))
        weights = saliency_maps(attention[:, :4], (8, 8))
        expected = ((features[1:] - features[:1]).square().sum(1, keepdim=True) * weights.square()).sum((2, 3)).sqrt()
        torch.testing.assert_close(loss.terms(fake), expected)
        return expected

    with torch.no_grad():
        layer = discriminator.attention["8"]
        uniform = torch.nn.functional.normalize(
            head_masks(layer.pattern, (8, 8), (4, 4), alignment=layer.alignment).float(), 1, -1
        )
        by_method = {
            "saliency": discriminator.attention_features(real)[1],
            "other-image": discriminator.attention_features(other)[1],
            "uniform": uniform[None],
        }
        values = [terms(*pair) for pair in by_method.items()]
    assert not torch.allclose(values[0], values[1], rtol=1e-7) and not torch.allclose(values[0], values[2], rtol=1e-7)
    with pytest.raises(ValueError, match="'other-image' needs another image"):
        InversionLoss(discriminator, real, LossConfig(method="other-image"))


def test_the_equations_norm_is_the_square_of_each_heads_own_and_its_saliency_divides_by_all_queries(model):
    generator, discriminator = model
    real, fake = (picture(generator, seed=seed)[None] for seed in (5, 6))
    losses = [InversionLoss(discriminator, real, LossConfig(norm=norm)) for norm in ("restart", "squared")]
    own, squared = (loss.terms(fake) for loss in losses)
    torch.testing.assert_close(squared, own.square())
    loss = InversionLoss(discriminator, real, LossConfig(queries="all"))
    _, attention = discriminator.attention_features(real)
    expected = attention[:, : loss.weights[0].shape[1]].mean(-2).unflatten(-1, (4, 4))
    torch.testing.assert_close(loss.weights[0][..., ::2, ::2], expected)


def test_restarts_do_not_share_a_gradient_under_their_own_norms_and_do_under_the_published_one(model):
    generator, discriminator = model
    real, labels = picture(generator)[None], torch.tensor([1, 1])
    near, far, farther = torch.randn(3, 8, generator=torch.Generator().manual_seed(3)).unbind()

    def gradient_of_first(norm, second):
        loss = InversionLoss(discriminator, real, LossConfig(norm=norm))
        z = torch.stack([near, second]).requires_grad_(True)
        return torch.autograd.grad(loss.objective(loss.terms(generator(z, labels))), z)[0][0]

    torch.testing.assert_close(gradient_of_first("restart", far), gradient_of_first("restart", farther))
    assert (gradient_of_first("batch", far) - gradient_of_first("batch", farther)).abs().max() > 1e-4


def test_the_mean_of_saliencies_gives_one_term_and_an_exact_match_no_nan(model):
    generator, discriminator = model
    real = picture(generator)[None].requires_grad_(True)
    loss = InversionLoss(discriminator, real.detach(), LossConfig(weighting="mean"))
    terms = loss.terms(real)
    assert terms.shape == (1, 1)
    assert terms.item() < 1e-6
    (gradient,) = torch.autograd.grad(loss.objective(terms), real)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_unknown_choices_and_absent_heads_and_layers_are_refused(model):
    generator, discriminator = model
    with pytest.raises(ValueError, match="method='style' is unknown; use one of saliency, features, pixel"):
        LossConfig(method="style")
    with pytest.raises(ValueError, match=r"heads=\[8\] do not exist; the discriminator has heads 0 to 7"):
        InversionLoss(discriminator, picture(generator)[None], LossConfig(heads=(0, 8)))
    generator, bare = networks(attention=None, init="orthogonal")
    with pytest.raises(ValueError, match="no attention layer"):
        InversionLoss(bare, picture(generator)[None], LossConfig())
    for allowed in (LossConfig(method="pixel"), LossConfig(method="features", features="blocks")):
        InversionLoss(bare, picture(generator)[None], allowed)


# ---- the optimiser ----


def test_lookahead_moves_slow_weights_by_alpha_every_k_steps():
    weight = torch.zeros(1, requires_grad=True)
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), k=2, alpha=0.25)
    seen = []
    for _ in range(4):
        weight.grad = -torch.ones(1)
        optimizer.step()
        seen.append(weight.item())
    assert seen == [1.0, 0.5, 1.5, 1.0]  # 0 -> 2, back to a quarter; 0.5 -> 2.5, back to a quarter


def test_lookahead_changes_the_path_of_an_inversion(model):
    plain = invert(*model, picture(model[0]), QUICK, ssim_distance(), label=1)
    ahead = invert(*model, picture(model[0]), replace(QUICK, lookahead=2), ssim_distance(), label=1)
    assert np.array_equal(plain.losses[:2], ahead.losses[:2])
    assert not np.array_equal(plain.losses[2:], ahead.losses[2:])


def test_lookahead_that_moves_all_the_way_changes_nothing(model):
    plain = invert(*model, picture(model[0]), QUICK, ssim_distance(), label=1)
    all_the_way = replace(QUICK, lookahead=2, lookahead_alpha=1.0)
    ahead = invert(*model, picture(model[0]), all_the_way, ssim_distance(), label=1)
    np.testing.assert_allclose(ahead.losses, plain.losses, rtol=1e-4)


# ---- the search ----


def test_a_generated_image_is_found_again(model):
    target = picture(model[0])
    config = InversionConfig(steps=150, restarts=4, draws=64)
    found = invert(*model, target, config, ssim_distance(), label=1)
    start = found.losses[0].min()
    assert found.losses.min() < 0.25 * start
    assert (found.image - target).abs().mean() < 0.5 * (found.images - target).abs().mean((1, 2, 3)).max() + 0.05
    with torch.no_grad():
        again = model[0](found.latents, found.labels)
    assert torch.equal(again, found.images)
    assert found.label == 1


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(model):
    config = replace(QUICK, noise=0.1, seed=3)
    one, two = (invert(*model, picture(model[0]), config, ssim_distance()) for _ in range(2))
    assert torch.equal(one.latents, two.latents)
    assert np.array_equal(one.losses, two.losses)
    other = invert(*model, picture(model[0]), replace(config, seed=4), ssim_distance())
    assert not torch.equal(one.latents, other.latents)


def test_restarts_begin_at_the_best_draws_of_the_best_classes(model):
    generator, discriminator = model
    target = picture(generator)
    config = replace(QUICK, steps=1, draws=30)
    found = invert(generator, discriminator, target, config, ssim_distance())
    assert len(found.draw_losses) == 30
    ranked = found.draw_losses.argsort()
    best_class = int(found.draw_labels[ranked[0]])
    kept = set(found.labels.tolist())
    assert best_class in kept
    assert len(kept) == 2
    torch.testing.assert_close(torch.tensor(found.losses[0]).min(), found.draw_losses.min(), rtol=1e-4, atol=1e-5)
    allowed = torch.tensor([label in kept for label in found.draw_labels.tolist()])
    expected = found.draw_losses[allowed].sort().values[: config.restarts]
    assert torch.tensor(found.losses[0]).sort().values[0] == pytest.approx(expected[0].item(), rel=1e-4)


def test_random_codes_are_cut_at_2(model):
    config = replace(QUICK, steps=1, restarts=100, draws=0)
    drawn = invert(*model, picture(model[0]), config, ssim_distance(), label=1).latents
    assert 1.8 < drawn.abs().max() <= 2.0


def test_every_class_is_tried_even_with_fewer_draws_than_classes(model):
    found = invert(*model, picture(model[0]), replace(QUICK, steps=1, restarts=1, draws=1), ssim_distance())
    assert sorted(set(found.draw_labels.tolist())) == [0, 1, 2]


def test_the_restart_is_chosen_by_the_distance_and_not_by_the_loss(model):
    from analysis.inversion.distances import Distance

    prefer_last = Distance("last", lambda images, reference: -torch.arange(len(images)).float())
    found = invert(*model, picture(model[0]), QUICK, prefer_last, label=0)
    assert found.chosen == 2
    assert found.chosen_by == "last"
    assert torch.equal(found.latent, found.latents[2])


def test_the_loss_chooses_the_restart_where_it_is_asked_to(model):
    from analysis.inversion.distances import Distance

    worst = Distance("worst", lambda images, reference: -torch.arange(len(images)).float())
    found = invert(*model, picture(model[0]), replace(QUICK, choose="loss", restarts=4, steps=4), worst, label=0)
    assert found.chosen == int(found.losses.min(0).argmin())
    assert found.chosen_by == "its loss"
    found.losses[:, found.chosen] = np.nan  # a code that ran away is not chosen
    assert np.isfinite(found.losses[:, found.chosen]).all()


def test_the_clamp_holds_and_the_published_preset_leaves_z_free(model):
    found = invert(*model, picture(model[0]), replace(QUICK, clamp=1.0, learning_rate=1.0, steps=5), ssim_distance())
    later = found.losses.argmin(0) > 0
    assert later.any()
    assert found.latents[torch.from_numpy(later)].abs().max() <= 1.0
    published = PRESETS["published"]
    assert (published.clamp, published.draws, published.steps, published.restarts) == (0.0, 0, 1000, 8)
    assert (published.loss.norm, published.learning_rate) == ("batch", 0.07)


def test_each_restart_keeps_the_code_of_its_lowest_loss_and_not_its_last(model):
    generator, discriminator = model
    target = picture(generator)
    config = replace(QUICK, steps=30, learning_rate=3.0, ramp_down=0.0, clamp=0.0)  # it overshoots
    found = invert(generator, discriminator, target, config, ssim_distance(), label=1)
    assert (found.losses.argmin(0) < 29).any()
    loss = InversionLoss(discriminator, target[None], config.loss)
    with torch.no_grad():
        again = loss.per_image(loss.terms(generator(found.latents, found.labels)))
    np.testing.assert_allclose(again.numpy(), found.losses.min(0), rtol=1e-4)


def test_with_noise_the_code_that_is_kept_is_the_one_that_was_seen(model):
    generator, discriminator = model
    target = picture(generator)
    found = invert(generator, discriminator, target, replace(QUICK, steps=1, noise=0.5), ssim_distance(), label=1)
    loss = InversionLoss(discriminator, target[None], QUICK.loss)
    with torch.no_grad():
        again = loss.per_image(loss.terms(generator(found.latents, found.labels)))
    np.testing.assert_allclose(again.numpy(), found.losses.min(0), rtol=1e-4)


def test_the_learning_rate_rises_linearly_stays_and_falls_along_a_cosine():
    config = InversionConfig(ramp_up=0.2, ramp_down=0.4)
    assert [_ramp(t, config) for t in (0.0, 0.1, 0.2, 0.6)] == [0.0, 0.5, 1.0, 1.0]
    assert _ramp(0.8, config) == pytest.approx(0.5)
    assert _ramp(0.9, config) == pytest.approx(0.5 - 0.5 * math.cos(math.pi / 4))
    assert _ramp(1.0, config) == 0.0
    assert {_ramp(t / 10, PRESETS["published"]) for t in range(11)} == {1.0}


def test_noise_on_z_changes_the_path_and_has_gone_before_the_end(model):
    config = replace(QUICK, steps=12, learning_rate=1e-9)  # z stays, so that losses show the noise alone
    still = invert(*model, picture(model[0]), config, ssim_distance(), label=0).losses
    noisy = invert(*model, picture(model[0]), replace(config, noise=0.5), ssim_distance(), label=0).losses
    change = np.abs(noisy - still).mean(1)
    assert change[:3].mean() > 0.01
    assert change[9:].max() < 1e-4
    assert np.ptp(still, axis=0).max() < 1e-4


def test_frames_are_evenly_spaced_and_bounded_however_long_it_lasts(model):
    found = invert(*model, picture(model[0]), replace(QUICK, steps=120, restarts=1), ssim_distance(), label=0)
    steps = [step for step, _ in found.frames]
    assert 24 <= len(steps) <= 48
    assert steps == [*range(0, 119, steps[1]), 119]  # and it ends where the search ended
    assert found.frames[0][1].dtype == torch.uint8


def test_it_stops_early_when_nothing_improves(model):
    config = replace(QUICK, steps=40, patience=3, learning_rate=1e-9)
    found = invert(*model, picture(model[0]), config, ssim_distance())
    assert found.stopped == "no improvement"
    assert len(found.losses) < 10


def test_codes_that_run_away_end_the_search_and_the_best_before_is_kept(model):
    config = replace(QUICK, steps=40, learning_rate=1e25, ramp_up=0.0, clamp=0.0)
    found = invert(*model, picture(model[0]), config, ssim_distance(), label=1)
    assert found.stopped == "losses not finite"
    assert not np.isfinite(found.losses[-1]).any()
    assert found.latents.isfinite().all() and found.images.isfinite().all() and found.distances.isfinite().all()


def test_a_model_of_which_nothing_is_finite_is_refused(model):
    generator, discriminator = networks()
    torch.nn.init.constant_(generator.to_image.bias, math.nan)
    with pytest.raises(ValueError, match="no code has a finite loss"):
        invert(generator, discriminator, picture(model[0]), QUICK, ssim_distance(), label=1)


@pytest.mark.parametrize("interrupted_at", ["drawing", "optimising", "tuning"])
def test_an_interruption_keeps_the_best_so_far(model, interrupted_at):
    def interrupt(stage, done, total, loss):
        if stage == interrupted_at and done >= 3:
            raise KeyboardInterrupt

    config = replace(QUICK, tune_steps=5)
    if interrupted_at == "drawing":  # nothing is there yet
        with pytest.raises(KeyboardInterrupt):
            invert(*model, picture(model[0]), config, ssim_distance(), report=interrupt)
        return
    found = invert(*model, picture(model[0]), config, ssim_distance(), report=interrupt)
    assert found.stopped == "interrupted"
    assert len(found.losses) == (3 if interrupted_at == "optimising" else 6)
    assert (found.tuned is not None) == (interrupted_at == "tuning")


def test_tuning_the_generator_helps_beyond_z_and_leaves_the_models_weights_alone(model):
    generator, discriminator = model
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    real = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = invert(generator, discriminator, real, replace(QUICK, tune_steps=30), ssim_distance(), label=0)
    assert found.tuned_losses[0] == pytest.approx(2.0)  # each part relative to its value before
    assert min(found.tuned_losses) < 1.9
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())
    assert all(parameter.requires_grad for parameter in generator.parameters())
    assert (found.tuned - real).square().mean() < (found.image - real).square().mean()


def test_the_tuned_image_is_that_of_the_lowest_loss_and_not_the_last(model):
    generator, discriminator = model
    real = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = replace(QUICK, tune_steps=3, tune_learning_rate=0.02)  # it overshoots
    found = invert(generator, discriminator, real, config, ssim_distance(), label=0)
    assert np.argmin(found.tuned_losses) == 1
    loss = InversionLoss(discriminator, real[None], config.loss)
    with torch.no_grad():
        features = [loss.terms(image[None]).sum().item() for image in (found.tuned, found.image)]
    pixels = [(image - real).square().mean().item() for image in (found.tuned, found.image)]
    expected = features[0] / features[1] + pixels[0] / pixels[1]
    assert min(found.tuned_losses) == pytest.approx(expected, rel=1e-4)


def test_tuning_moves_as_fast_as_its_learning_rate_says(model):
    config = replace(QUICK, tune_steps=5, tune_learning_rate=1e-9)
    found = invert(*model, picture(model[0], seed=9), config, ssim_distance(), label=0)
    assert found.tuned_losses == pytest.approx([2.0] * 5, abs=1e-4)


def test_mistakes_are_refused_with_the_remedy(model):
    with pytest.raises(ValueError, match="steps=0 is not positive"):
        InversionConfig(steps=0)
    with pytest.raises(ValueError, match="learning_rate=1e\\+38 is not a positive number up to 1e30"):
        InversionConfig(learning_rate=1e38)
    with pytest.raises(ValueError, match="noise=-1 is negative"):
        InversionConfig(noise=-1)
    with pytest.raises(ValueError, match=r"ramp_up=0\.8 and ramp_down=0\.5"):
        InversionConfig(ramp_up=0.8, ramp_down=0.5)
    with pytest.raises(ValueError, match="class 3 does not exist; the model has classes 0 to 2"):
        invert(*model, picture(model[0]), QUICK, ssim_distance(), label=3)
    with pytest.raises(ValueError, match=r"shape \(3, 16, 16\), the model needs \(1, 16, 16\)"):
        invert(*model, torch.zeros(3, 16, 16), QUICK, ssim_distance())

"""Inversion: find the latent code of which a generator makes a given image, guided by the discriminator.

One call inverts one image with many restarts in one batch: draw several hundred codes, keep the best (and the best
classes, where the class is unknown), follow the loss of loss.py by Adam, and choose among the restarts, by
a distance that was not minimised unless the loss is to choose. Read next: job.py, what is written; ../invert.py, the
command.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from analysis.inversion.config import InversionConfig
from analysis.inversion.distances import Distance
from analysis.inversion.lookahead import Lookahead
from analysis.inversion.loss import InversionLoss
from analysis.inversion.tuning import tune
from sagan_base.sampling import to_uint8


@dataclass(eq=False)
class Inversion:
    """The outcome of an inversion. R restarts, of which ``chosen`` counts.

    Attributes:
        latents [R, d], labels [R], images [R, C, H, W]: of each restart at its lowest loss.
        losses, pixel_distances: [steps, R], at each step; the second is the mean squared difference of pixels.
        frames: (step, images [R, C, H, W] uint8) at up to 48 evenly spaced steps, and the last one.
        distances: [R], by the distance named ``distance``, which was not minimised.
        draw_losses: [draws], of the random codes; draw_labels their classes.
        stopped: why it ended: "steps", "no improvement", "interrupted", or "losses not finite" (a learning rate far too
            large lets the codes run away; the best before is kept).
        tuned: image of the tuned generator [C, H, W], where that stage ran; tuned_losses its losses.
    """

    config: InversionConfig
    latents: Tensor
    labels: Tensor
    images: Tensor
    losses: np.ndarray
    pixel_distances: np.ndarray
    frames: list[tuple[int, Tensor]]
    distances: Tensor
    distance: str
    draw_losses: Tensor
    draw_labels: Tensor
    stopped: str
    seconds: float
    tuned: Tensor | None = None
    tuned_losses: list[float] = field(default_factory=list)

    @property
    def chosen(self) -> int:
        """The restart of the smallest distance, or of the lowest loss, as ``config.choose`` says."""
        if self.config.choose == "distance":
            return int(self.distances.argmin())
        finite = np.where(np.isfinite(self.losses), self.losses, np.inf)
        return int(finite.min(0, initial=np.inf).argmin())  # before the first step the best draw, which is the first

    @property
    def chosen_by(self) -> str:
        return "its loss" if self.config.choose == "loss" else self.distance

    def effort(self) -> str:
        """What was done, for people."""
        stopped = "" if self.stopped == "steps" else f" ({self.stopped})"
        best = f"best of {len(self.latents)} restarts by {self.chosen_by}" if len(self.latents) > 1 else "1 restart"
        return f"{best}, {len(self.losses)} step{'s' * (len(self.losses) != 1)}{stopped}"

    @property
    def image(self) -> Tensor:
        return self.images[self.chosen]

    @property
    def latent(self) -> Tensor:
        return self.latents[self.chosen]

    @property
    def label(self) -> int:
        return int(self.labels[self.chosen])


def invert(
    generator: nn.Module,
    discriminator: nn.Module,
    image: Tensor,
    config: InversionConfig,
    distance: Distance,
    label: int | None = None,
    report: Callable[[str, int, int, float], None] = lambda stage, done, total, loss: None,
    other: Tensor | None = None,
) -> Inversion:
    """Invert one image. Ctrl-C keeps the best so far; the same seed gives the same bits on a CPU.

    Args:
        generator, discriminator: in evaluation mode; neither is changed.
        image: real image [C, R, R] in [-1, 1].
        distance: measures the restarts, and chooses one unless ``config`` says that the loss does.
        label: class of the image; None searches all classes.
        report: called as (stage, steps done, steps in all, lowest loss).
        other: another image [C, R, R], for the method "other-image".
    Raises:
        ValueError: the image does not fit the networks, the class does not exist, no code has a finite loss, or as
            ``InversionLoss``.
    """
    started = time.monotonic()
    device = next(generator.parameters()).device
    _check(generator, image, label)
    real = image[None].to(device)
    loss = InversionLoss(discriminator, real, config.loss, None if other is None else other[None].to(device))
    search = _Search(generator, loss, real, config, torch.Generator().manual_seed(config.seed), report)
    stopped = "interrupted"
    try:
        search.draw(label)
        stopped = search.optimise()
    except KeyboardInterrupt:
        if search.best_latents is None:
            raise
    result = search.result(distance, stopped)
    if config.tune_steps and stopped != "interrupted":
        code, label = (each[result.chosen][None].to(device) for each in (result.latents, result.labels))
        tuned, losses, cut = tune(generator, loss, real, code, label, config, report)
        result = replace(result, tuned=tuned, tuned_losses=losses, stopped="interrupted" if cut else stopped)
    return replace(result, seconds=time.monotonic() - started)


def _check(generator: nn.Module, image: Tensor, label: int | None) -> None:
    expected = (generator.config.image_channels, generator.resolution, generator.resolution)
    if tuple(image.shape) != expected:
        raise ValueError(f"the image has shape {tuple(image.shape)}, the model needs {expected}")
    if label is not None and not 0 <= label < generator.num_classes:
        raise ValueError(f"class {label} does not exist; the model has classes 0 to {generator.num_classes - 1}")


class _Search:
    """The state of an inversion, so that what it has is there when it is interrupted."""

    MOST_FRAMES = 48
    CHUNK = 64  # random codes scored at once: bounds memory, not results

    def __init__(self, generator, loss, real, config, random, report) -> None:
        self.generator, self.loss, self.real, self.config = generator, loss, real, config
        self.random, self.report = random, report
        self.draw_losses, self.draw_labels = torch.empty(0), torch.empty(0, dtype=torch.long)
        self.best_latents = self.best_losses = self.labels = None
        self.losses: list[np.ndarray] = []
        self.pixels: list[np.ndarray] = []
        self.frames: list[tuple[int, Tensor]] = []
        self.frame_every = 1
        self.last: tuple[int, Tensor] | None = None

    def _normal(self, count: int) -> Tensor:
        """Normal draws cut at +-2, as published, made on the CPU so that a seed means the same on any device."""
        z = torch.empty(count, self.generator.latent_dim)
        return nn.init.trunc_normal_(z, 0.0, 1.0, -2.0, 2.0, generator=self.random)

    def draw(self, label: int | None) -> None:
        """Score random codes, and start from the best, shared among the best classes."""
        config, num_classes = self.config, self.generator.num_classes
        count = max(config.draws, config.restarts)
        if label is None:
            count = max(count, num_classes)  # every class is tried at least once
            labels = torch.arange(count) % num_classes
        else:
            labels = torch.full((count,), label)
        latents = self._normal(count)
        if count == config.restarts:
            losses = torch.full((count,), math.nan)  # nothing to choose among: not scored
        else:
            losses = torch.cat(list(self._scored(latents, labels)))
        keep = self._starts(losses, labels, 1 if label is not None else config.classes)
        self.draw_losses, self.draw_labels = losses, labels
        device = self.real.device
        self.best_latents, self.labels = latents[keep].to(device), labels[keep].to(device)
        self.best_losses = losses[keep].nan_to_num(nan=math.inf).to(device)

    def _scored(self, latents: Tensor, labels: Tensor) -> Iterator[Tensor]:
        device, lowest = self.real.device, math.inf
        for start in range(0, len(latents), self.CHUNK):
            part = slice(start, start + self.CHUNK)
            with torch.no_grad():
                images = self.generator(latents[part].to(device), labels[part].to(device))
                losses = self.loss.per_image(self.loss.terms(images)).cpu()
            lowest = min(lowest, float(losses.min()))
            self.report("drawing", min(start + self.CHUNK, len(latents)), len(latents), lowest)
            yield losses

    def _starts(self, losses: Tensor, labels: Tensor, classes: int) -> Tensor:
        """The draws to start from: of each of the best classes its best, then the best of those classes."""
        ranked = losses.argsort(stable=True)
        if len(ranked) == self.config.restarts:
            return ranked
        best_classes = list(dict.fromkeys(labels[ranked].tolist()))[: min(classes, self.config.restarts)]
        allowed = [index for index in ranked.tolist() if int(labels[index]) in best_classes]
        first = [next(index for index in allowed if int(labels[index]) == label) for label in best_classes]
        rest = [index for index in allowed if index not in set(first)]
        return torch.tensor((first + rest)[: self.config.restarts])

    def optimise(self) -> str:
        """Follow the loss; returns why it stopped."""
        config = self.config
        z = self.best_latents.clone().requires_grad_(True)
        adam = torch.optim.Adam([z], lr=config.learning_rate)
        optimizer = Lookahead(adam, config.lookahead, config.lookahead_alpha) if config.lookahead else adam
        self.best_losses = torch.full_like(self.best_losses, math.inf)  # draws had no noise and are evaluated again
        milestone, waiting = math.inf, 0
        for step in range(config.steps):
            for group in adam.param_groups:
                group["lr"] = config.learning_rate * _ramp((step + 0.5) / config.steps, config)
            noise = config.noise * max(0.0, 1 - step / config.steps / 0.75)
            code = z
            if noise:
                code = z + noise * torch.randn(z.shape, generator=self.random).to(z.device)
            images = self.generator(code, self.labels)
            terms = self.loss.terms(images)
            losses = self.loss.per_image(terms.detach())
            better = losses < self.best_losses
            self.best_losses = torch.where(better, losses, self.best_losses)
            self.best_latents = torch.where(better[:, None], code.detach(), self.best_latents)
            self._record(step, losses, images.detach())
            self.report("optimising", step + 1, config.steps, float(self.best_losses.min()))
            if not losses.isfinite().any():
                if not self.best_losses.isfinite().any():
                    raise ValueError("no code has a finite loss: the model's weights or the image are damaged")
                return "losses not finite"
            lowest = float(self.best_losses[self.best_losses.isfinite()].sum())
            milestone, waiting = (lowest, 0) if lowest < 0.999 * milestone else (milestone, waiting + 1)
            if config.patience and waiting >= config.patience:
                return "no improvement"
            (gradient,) = torch.autograd.grad(self.loss.objective(terms), z)
            z.grad = gradient
            optimizer.step()
            if config.clamp:
                with torch.no_grad():
                    z.clamp_(-config.clamp, config.clamp)
        return "steps"

    def _record(self, step: int, losses: Tensor, images: Tensor) -> None:
        self.losses.append(losses.cpu().numpy())
        self.pixels.append((images - self.real).square().flatten(1).mean(1).cpu().numpy())
        self.last = (step, images)
        if step % self.frame_every == 0:
            self.frames.append((step, to_uint8(images)))
            if len(self.frames) > self.MOST_FRAMES:  # however long it lasts: evenly spaced, and bounded
                self.frames, self.frame_every = self.frames[::2], 2 * self.frame_every

    def result(self, distance: Distance, stopped: str) -> Inversion:
        with torch.no_grad():
            images = self.generator(self.best_latents, self.labels)
        restarts = len(self.best_latents)
        frames = list(self.frames)
        if self.last is not None and frames[-1][0] < self.last[0]:
            frames.append((self.last[0], to_uint8(self.last[1])))
        return Inversion(
            config=self.config,
            latents=self.best_latents.cpu(),
            labels=self.labels.cpu(),
            images=images.cpu(),
            losses=np.array(self.losses).reshape(-1, restarts),
            pixel_distances=np.array(self.pixels).reshape(-1, restarts),
            frames=frames,
            distances=distance(images, self.real).cpu().nan_to_num(nan=math.inf),
            distance=distance.name,
            draw_losses=self.draw_losses,
            draw_labels=self.draw_labels,
            stopped=stopped,
            seconds=0.0,
        )


def _ramp(progress: float, config: InversionConfig) -> float:
    """Factor of the learning rate: linear rise, constant, fall along a cosine."""
    up = min(1.0, progress / config.ramp_up) if config.ramp_up else 1.0
    down = min(1.0, (1 - progress) / config.ramp_down) if config.ramp_down else 1.0
    return up * (0.5 - 0.5 * math.cos(math.pi * down))

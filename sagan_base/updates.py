"""One step of GAN training: discriminator updates, a generator update, the moving average; and all of their state.

The batch is global: every process draws all of it (draws.py) and works on its share, in ``accumulation`` micro-batches
whose gradients are averaged. Without batch statistics in between, that is the big batch exactly, up to rounding. Two
things see the micro-batch: the generator's batch norm takes its statistics over it (over all processes with
``sync_batch_norm``, over this process's share without), and each forward pass advances the power iteration once.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sagan_base.augment import NUM_DRAWS, augment
from sagan_base.batch_norm import set_sync_batch_norm
from sagan_base.checkpoint import Checkpoint, build_networks, fill_network, named_part
from sagan_base.config import RunConfig
from sagan_base.distributed import Processes
from sagan_base.draws import image_indices, labels, latents, stream
from sagan_base.ema import GeneratorEMA
from sagan_base.init_from import Start
from sagan_base.losses import discriminator_hinge_loss, generator_hinge_loss

# index [B] -> (images [B, C, R, R] in [-1, 1], labels [B]), on the device
ReadImages = Callable[[Tensor], tuple[Tensor, Tensor]]
LOSSES = ("discriminator_loss", "generator_loss", "discriminator_real", "discriminator_fake")


class Updates:
    """Networks, optimisers and moving average of one run, in this process.

    Args:
        config: the run.
        group: this process among all; decides the share of the batch and the device.
        read_images: the training images by index.
        num_images: how many there are.
    Raises:
        ValueError: the batch does not divide into equal parts.
    """

    def __init__(self, config: RunConfig, group: Processes, read_images: ReadImages, num_images: int) -> None:
        recipe, training = config.recipe, config.training
        if recipe.batch_size % (training.accumulation * group.count):
            raise ValueError(
                f"batch_size={recipe.batch_size} does not divide into accumulation={training.accumulation} micro-"
                f"batches for {group.count} processes; use a multiple of {training.accumulation * group.count}"
            )
        self.config, self.group = config, group
        self.read_images, self.num_images = read_images, num_images
        layout = torch.channels_last if training.channels_last else torch.contiguous_format
        self.layout = layout
        generator, discriminator = build_networks(config)
        self.generator = generator.to(group.device, memory_format=layout).train()
        self.discriminator = discriminator.to(group.device, memory_format=layout).train()
        set_sync_batch_norm(self.generator, training.sync_batch_norm)
        self.ema = GeneratorEMA(self.generator, recipe.ema_decay, recipe.ema_start)
        self.generator_optimizer = _adam(self.generator, recipe.generator_lr, config)
        self.discriminator_optimizer = _adam(self.discriminator, recipe.discriminator_lr, config)
        if training.compile:  # in place, so that names, state and the classes stay the same
            self.generator.compile()
            self.discriminator.compile()
        if group.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # shapes never change, so the search for the fastest kernel pays
        self._parallel_generator = _parallel(self.generator, group)
        self._parallel_discriminator = _parallel(self.discriminator, group)
        self._discriminator_parameters = list(self.discriminator.parameters())

    def step(self, step: int) -> Tensor:
        """Do update number ``step`` (1 is the first); returns the values of ``LOSSES`` [4] of this process's share.

        A pure function of the state and ``step``: nothing is drawn from a hidden random state.
        """
        repeats = self.config.recipe.discriminator_steps
        values = torch.stack([self._update_discriminator(step, repeat) for repeat in range(repeats)]).mean(0)
        generator_loss = self._update_generator(step)
        self.ema.update(step)
        return torch.stack([values[0], generator_loss, values[1], values[2]])

    def _update_discriminator(self, step: int, repeat: int) -> Tensor:
        config, recipe = self.config, self.config.recipe
        seed, batch = config.training.seed, recipe.batch_size
        position = ((step - 1) * recipe.discriminator_steps + repeat) * batch
        index = image_indices(seed, position, batch, self.num_images)
        mirrored = None
        if recipe.flip:
            mirrored = torch.from_numpy(stream(seed, "flip", step, repeat).random(batch) < 0.5)
        z, classes = self._draw("discriminator", step, repeat)
        changes = self._augmentations(2, step, repeat)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(3, device=self.group.device)
        for micro, last in self._micro_batches():
            real, real_labels = self.read_images(self._share(index, micro))
            if mirrored is not None:
                turned = self._share(mirrored, micro).to(real.device)[:, None, None, None]
                real = torch.where(turned, real.flip(-1), real)
            fake_labels = self._on_device(classes, micro)
            with torch.no_grad(), self._autocast():
                fake = self.generator(self._on_device(z, micro), fake_labels)
            # One pass over both halves: the discriminator has no batch statistics, so its logits are the same, and
            # the spectral norms are computed once.
            halves = [self._augmented(real, changes[0], micro), self._augmented(fake.to(real.dtype), changes[1], micro)]
            images = torch.cat(halves).contiguous(memory_format=self.layout)
            network = self._parallel_discriminator
            with _without_exchange(network, last):
                with self._autocast():
                    logits = network(images, self._known_labels(torch.cat([real_labels, fake_labels])))
                real_logits, fake_logits = logits.float().chunk(2)
                loss = discriminator_hinge_loss(real_logits, fake_logits)
                (loss / config.training.accumulation).backward()
            total += torch.stack([loss.detach(), real_logits.detach().mean(), fake_logits.detach().mean()])
        self.discriminator_optimizer.step()
        return total / config.training.accumulation

    def _update_generator(self, step: int) -> Tensor:
        z, classes = self._draw("generator", step)
        (changes,) = self._augmentations(1, step, self.config.recipe.discriminator_steps)
        self.generator_optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.group.device)
        # Frozen, the discriminator passes the gradient on to the images without computing its own.
        _set_requires_grad(self._discriminator_parameters, False)
        for micro, last in self._micro_batches():
            shown = self._on_device(classes, micro)
            network = self._parallel_generator
            with _without_exchange(network, last):
                with self._autocast():
                    images = network(self._on_device(z, micro), shown)
                images = self._augmented(images, changes, micro).contiguous(memory_format=self.layout)
                with self._autocast():
                    logits = self.discriminator(images, self._known_labels(shown))
                loss = generator_hinge_loss(logits.float())
                (loss / self.config.training.accumulation).backward()
            total += loss.detach()
        _set_requires_grad(self._discriminator_parameters, True)
        self.generator_optimizer.step()
        return total / self.config.training.accumulation

    def _draw(self, purpose: str, *counters: int) -> tuple[Tensor, Tensor]:
        source = stream(self.config.training.seed, purpose, *counters)
        batch, model = self.config.recipe.batch_size, self.config.model
        return latents(source, batch, model.latent_dim), labels(source, batch, model.num_classes)

    def _augmentations(self, count: int, *counters: int) -> Tensor:
        """Random numbers for ``count`` batches, [count, batch, NUM_DRAWS]."""
        shape = (count, self.config.recipe.batch_size, NUM_DRAWS)
        if not self.config.recipe.augment:
            return torch.empty(shape)  # not read
        return torch.from_numpy(stream(self.config.training.seed, "augment", *counters).random(shape, np.float32))

    def _augmented(self, images: Tensor, changes: Tensor, micro: int) -> Tensor:
        names = self.config.recipe.augment
        return augment(images, self._on_device(changes, micro), names) if names else images

    def _micro_batches(self) -> list[tuple[int, bool]]:
        count = self.config.training.accumulation
        return [(micro, micro == count - 1) for micro in range(count)]

    def _share(self, batch: Tensor, micro: int) -> Tensor:
        """This process's part of a micro-batch of the global batch."""
        return self.group.part(batch.chunk(self.config.training.accumulation)[micro])

    def _on_device(self, batch: Tensor, micro: int) -> Tensor:
        share = self._share(batch, micro)
        if self.group.device.type == "cuda":
            share = share.pin_memory()
        return share.to(self.group.device, non_blocking=True)

    def _known_labels(self, classes: Tensor) -> Tensor | None:
        """An unconditional network is shown no labels, even where the data has some."""
        return classes if self.config.model.num_classes > 1 else None

    def _autocast(self) -> torch.autocast:
        enabled = self.config.training.precision == "bfloat16"
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=enabled)

    def is_finite(self) -> bool:
        """Whether every weight is a number; reads one value from the device."""
        weights = [p.detach() for network in (self.generator, self.discriminator) for p in network.parameters()]
        return bool(torch.stack(torch._foreach_norm(weights)).isfinite().all())

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by the names of the checkpoint."""
        return {
            **named_part("generator", self.generator.state_dict()),
            **named_part("ema", self.ema.module.state_dict()),
            **named_part("discriminator", self.discriminator.state_dict()),
            **named_part("generator_optimizer", _optimizer_state(self.generator, self.generator_optimizer)),
            **named_part("discriminator_optimizer", _optimizer_state(self.discriminator, self.discriminator_optimizer)),
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint of the same run."""
        fill_network(self.generator, checkpoint, "generator")
        fill_network(self.ema.module, checkpoint, "ema")
        fill_network(self.discriminator, checkpoint, "discriminator")
        for name, network, optimizer in (
            ("generator_optimizer", self.generator, self.generator_optimizer),
            ("discriminator_optimizer", self.discriminator, self.discriminator_optimizer),
        ):
            _load_optimizer_state(network, optimizer, checkpoint.part(name))

    def start_from(self, start: Start) -> str:
        """Begin with the weights of another run; returns what was taken, for a person. ValueError where none fit."""
        taken = start.fill(self.generator, "generator", ("generator", "ema"))
        start.fill(self.ema.module, "generator", ("ema",))
        return f"{taken}\n{start.fill(self.discriminator, 'discriminator', ('discriminator',))}"

    def gains(self) -> dict[str, Tensor]:
        """The residual gain of each attention layer, by its name."""
        return {
            f"gain/{network_name}.{name}": layer.gain.detach()
            for network_name, network in (("generator", self.generator), ("discriminator", self.discriminator))
            for name, layer in network.attention_layers().items()
        }


def slow_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is imitated there, many times slower than float32: on a CPU without AVX512_BF16 or the like."""
    return device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _adam(network: nn.Module, learning_rate: float, config: RunConfig) -> torch.optim.Adam:
    recipe = config.recipe
    temperatures = [p for name, p in network.named_parameters() if name.endswith("log_temperature")]
    others = [p for name, p in network.named_parameters() if not name.endswith("log_temperature")]
    groups = [{"params": others}, {"params": temperatures, "lr": learning_rate * recipe.temperature_lr_factor}]
    return torch.optim.Adam(
        [group for group in groups if group["params"]], learning_rate, recipe.betas, recipe.adam_epsilon, fused=True
    )


def _parallel(network: nn.Module, group: Processes) -> nn.Module:
    if group.count == 1:
        return network
    # Buffers are not exchanged: power-iteration vectors are equal in all processes, because the weights are; the
    # moving statistics, which training never reads, are process 0's.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # new, deprecated name
    device_ids = [group.device] if group.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=device_ids, **{name: False})


def _without_exchange(network: nn.Module, last: bool) -> nullcontext:
    """Gradients are averaged over the processes once an update, in its last micro-batch."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()


def _set_requires_grad(parameters: list[nn.Parameter], enabled: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(enabled)


def _optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _load_optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            stored = tensors[f"{key}.{name}"]
            # The fused kernel walks weights and moments in memory order, so their layouts must agree.
            like = torch.empty_like(parameter) if key != "step" else torch.empty_like(stored, device=parameter.device)
            optimizer.state[parameter][key] = like.detach().copy_(stored)

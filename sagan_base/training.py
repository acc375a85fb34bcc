"""The training loop: updates, logs, samples, evaluation and checkpoints, resumable at any moment.

``train`` is the interface; a command line that wants mistakes apart from failures makes a ``TrainingRun`` itself. What
a step computes is in updates.py, what a checkpoint file is in checkpoint.py. The order of events after a step is: log,
evaluate, sheet of samples, checkpoint. So a checkpoint vouches for everything of its step, and what a killed run wrote
after its last checkpoint is dropped and written again. Only where evaluation or sheet fail, their step is saved without
them; the next call makes up whatever the folder lacks of the step that it goes on from.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sagan_base.attention_health import real_batches, sample_batches, watch
from sagan_base.batch_norm import measure_statistics
from sagan_base.checkpoint import (
    Checkpoint,
    checkpoint_path,
    export_model,
    read_checkpoint,
    remove_old_checkpoints,
    useless_files,
    write_checkpoint,
)
from sagan_base.config import RunConfig
from sagan_base.data import ImageData
from sagan_base.distributed import Processes, processes
from sagan_base.draws import labels, latents, stream
from sagan_base.files import atomic_write, save_image
from sagan_base.generator import Generator
from sagan_base.init_from import Start
from sagan_base.metrics.names import leading
from sagan_base.output import unfailing_output
from sagan_base.provenance import provenance
from sagan_base.run_folder import (
    BEST_FILE,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    MAPS_SUFFIX,
    MODEL_FILE,
    SAMPLES_FILE,
    SAMPLES_FOLDER,
    RunLog,
    log_lines,
    read_metrics,
    write_record,
)
from sagan_base.run_state import alone_in, read_run
from sagan_base.sampling import preview, preview_maps
from sagan_base.stopping import Health, StopRequest, TrainingInterrupted, TrainingStopped, stop_requests
from sagan_base.updates import LOSSES, Updates, slow_bfloat16

__all__ = [
    "TrainResult",
    "TrainingInterrupted",
    "TrainingRun",
    "TrainingStopped",
    "check_data",
    "train",
]

LOGGED_IMAGES = 32  # whose maps are measured for the log

Evaluate = Callable[[Generator, int], dict[str, float]]


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        steps: generator updates in all.
        seconds: spent training, over all sessions, without evaluation, samples and checkpoints.
        images_per_second: images per second of that, counting one global batch a step.
        metrics: the last logged losses, gains and evaluation.
        generator: its EMA, in evaluation mode, on the device of the run.
        out, checkpoint, model: the run's folder, its last checkpoint and the slim export.
        resumed_from: the step that this call started at.
    """

    steps: int
    seconds: float
    images_per_second: float
    metrics: dict[str, float]
    generator: Generator
    out: Path
    checkpoint: Path
    model: Path
    resumed_from: int


def train(
    config: RunConfig,
    data: ImageData,
    out: str | Path,
    evaluate: Evaluate | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    evaluated_as: str | None = None,
    start: Start | None = None,
) -> TrainResult:
    """Train until ``config.training.steps``, from the newest good checkpoint in ``out`` where there is one.

    Args:
        config: the run; everything but its length and ``OPERATIONAL_FIELDS`` must be that of the run in ``out``.
        data: the real images; their size, channels and classes must be the network's.
        out: the run's folder, made where missing.
        evaluate: called with the EMA generator (evaluation mode) and the step, every ``metrics_every`` steps and at
            the end; what it returns is logged, and the networks of the lowest Fréchet distance among these
            measurements are kept as ``best.safetensors``. Under torchrun it is called in process 0 only.
        progress: show a bar with rate and time left.
        device: a GPU where there is one by default.
        evaluated_as: the value of ``evaluate`` whose presence in the log tells that a step was evaluated; by default
            any line beside that of the losses. A finished run that lacks it is evaluated now.
        start: the weights that a new run starts from, those that ``config.init_from`` names.
    Raises:
        ValueError: data or folder do not fit the configuration; raised before any work.
        TrainingStopped: the losses are not finite or the discriminator collapsed; the last good checkpoint is kept.
        TrainingInterrupted: (a KeyboardInterrupt) SIGINT or SIGTERM arrived; a checkpoint was written.
    """
    with processes(device) as group:
        return TrainingRun(config, data, Path(out), group, evaluate, progress, evaluated_as, start).train()


def check_data(config: RunConfig, data: ImageData) -> None:
    """Refuse data that the network cannot be trained on.

    Raises:
        ValueError: sizes, channels or classes differ.
    """
    model = config.model
    if (model.resolution, model.image_channels) != (data.resolution, data.channels):
        raise ValueError(
            f"the network makes {model.image_channels}-channel images of side {model.resolution}, but {data.name!r} "
            f"has {data.channels} channels and side {data.resolution}; load the data with the network's resolution "
            "and channels, or change the network's"
        )
    if model.num_classes not in (1, data.num_classes):
        raise ValueError(
            f"num_classes={model.num_classes}, but {data.name!r} has {data.num_classes} classes; "
            f"use {data.num_classes}, or 1 for an unconditional network"
        )


def _exported_step(model: Path) -> int | None:
    """The step of an exported model; None where there is none, or no whole one."""
    try:
        return read_checkpoint(model, ()).info["step"]
    except (OSError, ValueError):
        return None


class TrainingRun:
    """A run at the step where its folder left it, in one of its processes.

    Making one checks all that a caller can get wrong, and writes nothing; ``train`` does the work. Arguments and
    errors are those of the function ``train``; ``group`` is this process among all.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        out: Path,
        group: Processes,
        evaluate: Evaluate | None = None,
        progress: bool = True,
        evaluated_as: str | None = None,
        start: Start | None = None,
    ) -> None:
        check_data(config, data)
        if config.init_from != (start and str(start)):
            raise ValueError(f"init_from={config.init_from!r}, but the weights given as start are {start}; give both")
        self.config, self.data, self.out, self.group = config, data, out, group
        self.evaluate, self.progress, self.evaluated_as = evaluate, progress and group.is_first, evaluated_as
        self.folder = out / CHECKPOINT_FOLDER
        # Process 0 reads for all: the processes cannot disagree, and need not share a file system.
        problem, newest = group.from_first(read_run(out, config, data) if group.is_first else None)
        if problem is not None:
            raise ValueError(problem)
        self.updates = Updates(config, group, self._reader(), len(data))
        self.step, self.seconds = 0, 0.0
        self.health, self.last_good = Health(), None
        self.best: dict[str, float] | None = None  # step and Fréchet distance of best.safetensors
        self.window = torch.zeros(len(LOSSES), device=group.device)  # sums since the last log line
        self.window_start, self.window_seconds = 0, 0.0
        self.started = ""
        if newest is not None:
            self._resume(newest)
        elif start is not None:
            self.started = self.updates.start_from(start)
        self.resumed_from = self.saved_step = self.step

    def _reader(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        data, device = self.data, self.group.device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if data.images.nbytes < free / 4:  # the rest is for the networks
                data = replace(data, images=data.images.to(device), labels=data.labels.to(device))
        return lambda index: data.batch(index, device)

    def _resume(self, checkpoint: Checkpoint) -> None:
        info = checkpoint.info
        try:
            self.updates.load(checkpoint)
            self.window.copy_(checkpoint.tensors["window.sums"])
        except (KeyError, RuntimeError) as error:
            newest = f"the newest checkpoint in {self.folder}"
            raise ValueError(f"{newest} lacks part of the run ({error}); delete it") from None
        self.step, self.seconds = info["step"], info["seconds"]
        self.health = Health(**info["health"])
        self.last_good = self.folder / info["last_good"] if info["last_good"] else None
        self.best = info.get("best")
        self.window_start, self.window_seconds = info["window_start"], info["window_seconds"]

    def train(self) -> TrainResult:
        """Do what is missing, steps and work on them; a finished run returns at once."""
        lacking = self.group.from_first(self._lacking() if self.group.is_first else None)
        if self.step < self.config.training.steps or any(lacking.values()):
            alone = alone_in(self.out) if self.group.is_first else nullcontext()
            with alone, unfailing_output(), stop_requests() as stop:
                self._train(stop, lacking)
        return self._result()

    def _lacking(self) -> dict[str, bool]:
        """Which work on the step that the run goes on from its folder lacks."""
        if not self.step:
            return {}
        due = self._work_due()
        lines = [line for line in log_lines(self.out) if line["step"] == self.step and LOSSES[0] not in line]
        evaluated = any(self.evaluated_as in (None, *line) for line in lines)
        sheets = [path.is_file() for path in self._sheets()]
        return {
            "evaluation": due["evaluation"] and not evaluated,
            "sheet": due["sheet"] and not all(sheets),
            "record": not (self.out / CONFIG_FILE).is_file(),  # every session begins with writing it
        }

    def _train(self, stop: StopRequest, lacking: dict[str, bool]) -> None:
        steps = self.config.training.steps
        log = None
        if self.group.is_first:
            self.provenance = {"processes": self.group.count, **provenance(self.config.training.seed)}
            write_record(self.out / CONFIG_FILE, self.config, self.data, {"from_step": self.step, **self.provenance})
            for useless in useless_files(self.folder, self.step):
                useless.unlink(missing_ok=True)
            log = RunLog(self.out, self.step)
            if self.config.training.precision == "bfloat16" and slow_bfloat16(self.group.device):
                print("warning: this processor has no bfloat16 arithmetic, so --precision float32 would be many times "
                      "quicker (in a run of its own)", flush=True)  # fmt: skip
            start_left = self.config.model.numerics.batch_norm_decay**steps
            if start_left > 0.05 and not self.config.training.standing_statistics:
                print(f"warning: after {steps} steps the moving statistics are still {start_left:.0%} their initial "
                      "values, and samples look flat; give --standing-statistics 16, a smaller --batch-norm-decay "
                      "(in a run of its own) or more steps", flush=True)  # fmt: skip
        bar = tqdm(total=steps, initial=self.step, unit="step", disable=not self.progress, mininterval=0.5)
        try:
            if any(lacking.values()):
                self._make_up(log, lacking)
            while self.step < steps:
                started = time.perf_counter()
                self.window += self.updates.step(self.step + 1)
                self.step += 1
                self._count_time(started)
                bar.update()
                self._after_step(log, bar)
                if self.group.any(stop.signal_number is not None) and self.step < steps:
                    self._interrupted(stop.signal_number)
        finally:
            bar.close()
            if log is not None:
                log.close()

    def _count_time(self, started: float) -> None:
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        self.window_seconds += elapsed

    def _due(self, every: int) -> bool:
        return self.step == self.config.training.steps or (every > 0 and self.step % every == 0)

    def _after_step(self, log: RunLog | None, bar: tqdm) -> None:
        training = self.config.training
        if self._due(training.log_every):
            self._log(log, bar)
        uses_of_the_average = (training.metrics_every, training.sample_every, training.checkpoint_every)
        if any(self._due(every) for every in uses_of_the_average):
            self._measure_statistics()
        self._work(log, **self._work_due())
        if self._due(training.checkpoint_every):
            self._save()

    def _work_due(self) -> dict[str, bool]:
        training = self.config.training
        evaluation = self.evaluate is not None and self._due(training.metrics_every)
        return {"evaluation": evaluation, "sheet": self._due(training.sample_every)}

    def _work(self, log: RunLog | None, evaluation: bool, sheet: bool) -> None:
        """Process 0 evaluates and draws; where it fails, all save the steps, which are good all the same."""
        if not (evaluation or sheet):
            return
        failure = None
        if log is not None:
            try:
                if evaluation:
                    values = self.evaluate(self.updates.ema.module, self.step)
                    if self.config.training.metrics_every:
                        self._keep_best(values)
                    log.write(self.step, values)
                if sheet:
                    self._draw()
            except Exception as error:
                failure = error
        if self.group.any(failure is not None):
            self._save()
            raise failure or RuntimeError(f"process 0 failed at the evaluation or the samples of step {self.step}")

    def _draw(self) -> None:
        """The sheet of samples, and beside the step's own where the generator's attention looks on its first column."""
        generator, seed = self.updates.ema.module, self.config.training.seed
        kept, newest = self._sheets()
        if generator.attention:
            with atomic_write(kept.with_name(kept.stem + MAPS_SUFFIX)) as path:
                np.savez_compressed(path, middle=preview_maps(generator, seed))
        image = preview(generator, seed)
        for path in (kept, newest):
            save_image(path, image)

    def _sheets(self) -> tuple[Path, Path]:
        return self.out / SAMPLES_FOLDER / f"step_{self.step:08d}.png", self.out / SAMPLES_FILE

    def _make_up(self, log: RunLog | None, lacking: dict[str, bool]) -> None:
        """Do what the folder lacks of this step, so that it ends as a run that nothing disturbed."""
        if log is not None:
            missing = " and ".join(name for name, is_lacking in lacking.items() if is_lacking)
            print(f"making up for step {self.step}: {missing}", flush=True)
        self._work(log, lacking["evaluation"], lacking["sheet"])
        if lacking["evaluation"] and self.config.training.metrics_every:  # checkpoint and export tell the best step
            self.saved_step = None
            self._save()
            if log is not None:
                (self.out / MODEL_FILE).unlink(missing_ok=True)

    def _measure_statistics(self) -> None:
        """Standing statistics of the averaged generator, until its next update: always on the same samples."""
        training, model, ema = self.config.training, self.config.model, self.updates.ema.module
        source, size = stream(training.seed, "statistics"), self.config.recipe.batch_size
        batches = [
            (latents(source, size, model.latent_dim), labels(source, size, model.num_classes))
            for _ in range(training.standing_statistics)
        ]
        device = self.group.device
        measure_statistics(ema, ((z.to(device), classes.to(device)) for z, classes in batches))

    def _keep_best(self, values: dict[str, float]) -> None:
        distance = values.get(leading(values, "FD"), math.inf)
        if distance < (self.best["distance"] if self.best else math.inf):
            best = {"step": self.step, "distance": distance}
            export_model(
                self.out / BEST_FILE, Checkpoint(self.updates.state(), self.config, {**self._info(), "best": best})
            )
            self.best = best

    def _log(self, log: RunLog | None, bar: tqdm) -> None:
        started = time.perf_counter()
        count = self.step - self.window_start
        averages = self.group.mean(self.window / count).tolist()  # waits for the device
        self._count_time(started)
        losses = dict(zip(LOSSES, averages, strict=True))
        if problem := self.health.problem(self.window_start, self.step, losses):
            self._stop(problem)
        batch = self.config.recipe.batch_size
        rate = count * batch / max(self.window_seconds, 1e-9)
        if log is not None:
            gains = {name: gain.item() for name, gain in self.updates.gains().items()}
            epoch = self.step * batch * self.config.recipe.discriminator_steps / len(self.data)
            values = {"epoch": epoch, "images_per_second": rate, "seconds": self.seconds}
            log.write(self.step, losses | gains | self._map_health() | values)
        bar.set_postfix_str(f"D {averages[0]:.3f}, G {averages[1]:+.3f}, {rate:.0f} images/s", refresh=False)
        self.window.zero_()
        self.window_start, self.window_seconds = self.step, 0.0

    def _map_health(self) -> dict[str, float]:
        """Each attention layer's measures, means over its heads, on the same few images and samples every time."""
        device = self.updates.group.device
        samples = sample_batches(self.updates.ema.module, self.data, LOGGED_IMAGES, device=device)
        networks = {
            "generator": (self.updates.ema.module, samples),
            "discriminator": (self.updates.discriminator, real_batches(self.data, LOGGED_IMAGES, device)),
        }
        return {
            f"{measure}/{part}.{name}": value
            for part, (network, batches) in networks.items()
            for name, maps in watch(network, batches).items()
            for measure, value in maps.health().means().items()
        }

    def _save(self) -> Path:
        """Write a checkpoint, of finite weights only; the newest from before a collapse stays too."""
        path = checkpoint_path(self.folder, self.step)
        if not self.updates.is_finite():
            self._stop(
                f"weights are no longer finite at step {self.step}. Lower the learning rates (--generator-lr, "
                "--discriminator-lr) or use --precision float32, with another --out"
            )
        if self.health.collapsed_since is None:
            self.last_good = path
        window = self.group.mean(self.window)
        if self.group.is_first and self.saved_step != self.step:
            write_checkpoint(path, {**self.updates.state(), "window.sums": window}, self.config, self._info())
            remove_old_checkpoints(self.folder, self.config.training.keep_checkpoints, self.last_good)
        self.saved_step = self.step
        return path

    def _info(self) -> dict[str, Any]:
        """What a checkpoint of this step says beside its tensors."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "window_start": self.window_start,
            "window_seconds": self.window_seconds,
            "health": self.health.state(),
            "last_good": self.last_good.name if self.last_good else None,
            "best": self.best,
            "class_names": list(self.data.class_names),
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "provenance": self.provenance,
        }

    def _stop(self, problem: str) -> None:
        left = f"The last good checkpoint is {self.last_good}." if self.last_good else "No good checkpoint was written."
        raise TrainingStopped(f"training stopped at step {self.step}: {problem}. {left}")

    def _interrupted(self, signal_number: int | None) -> None:
        self._measure_statistics()
        path = self._save()
        self.group.wait()
        raise TrainingInterrupted(
            f"stopped at step {self.step} of {self.config.training.steps}; the state is in {path}. "
            "The same command goes on from there.",
            signal_number,
        )

    def _result(self) -> TrainResult:
        checkpoint, model = checkpoint_path(self.folder, self.step), self.out / MODEL_FILE
        metrics: dict[str, Any] = {}
        if self.group.is_first:
            if _exported_step(model) != self.step:
                export_model(model, checkpoint)
            for line in read_metrics(self.out):
                metrics |= line
        self.group.wait()
        return TrainResult(
            steps=self.step,
            seconds=self.seconds,
            images_per_second=self.step * self.config.recipe.batch_size / max(self.seconds, 1e-9),
            metrics=self.group.from_first(metrics),
            generator=self.updates.ema.module,
            out=self.out,
            checkpoint=checkpoint,
            model=model,
            resumed_from=self.resumed_from,
        )

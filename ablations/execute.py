"""One run from start to result: train, measure, write the result last.

Everything lands in the run's folder, and every part can be repeated: training resumes by itself, and ``result.json`` is
written only when all else is there.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ablations.bootstrap import resampled_log_distances
from ablations.experiment import Experiment
from ablations.records import Record, read_record, write_record
from ablations.sizes import parameter_counts
from sagan_base.attention_health import attention_health
from sagan_base.checkpoint import build_networks, load_checkpoint
from sagan_base.data import ImageData
from sagan_base.distributed import Processes
from sagan_base.generator import Generator
from sagan_base.metrics.evaluate import Evaluation, evaluate, evaluate_images
from sagan_base.metrics.names import is_distance, leading
from sagan_base.network import attention_off
from sagan_base.provenance import Provenance, provenance
from sagan_base.run_folder import read_metrics
from sagan_base.training import TrainingStopped, TrainResult, train
from sagan_base.typed import from_dict

SAMPLE_SEED = 0  # the same z and labels for every run: differences between runs are paired sample by sample


@dataclass(frozen=True)
class Measurement:
    """How samples are measured.

    Attributes:
        features: extractors of ``evaluate``; the first one's figures lead the table and make the curves.
        samples: how many are drawn.
        weights: extractor -> file, where its weights do not come by themselves.
        cache: folder for classifiers and real statistics; None is the usual one.
    """

    features: tuple[str, ...]
    samples: int
    weights: dict[str, Path] = field(default_factory=dict)
    cache: Path | None = None

    def __call__(self, generator: Generator, data: ImageData, features: str | None = None) -> Evaluation:
        """In the leading features unless others are asked for."""
        name = features or self.features[0]
        return evaluate(
            generator, data, name, self.samples, SAMPLE_SEED,
            cache=self.cache, weights=self.weights.get(name), progress=False,
        )  # fmt: skip

    def real(self, held_out: ImageData, data: ImageData) -> dict[str, float]:
        """What real images that were not trained on reach, in all features."""
        values: dict[str, float] = {"images": len(held_out)}
        for name in self.features:
            weights = self.weights.get(name)
            values |= evaluate_images(
                held_out, data, name, cache=self.cache, weights=weights, progress=False
            ).values
        return values


def run_experiment(
    experiment: Experiment,
    data: ImageData,
    held_out: ImageData | None,
    out: Path,
    measure: Measurement,
    group: Processes,
    progress: bool = True,
) -> Record | None:
    """Train and measure, and return the record in process 0; the others train along and return None.

    Args:
        held_out: real images that were not trained on, where the data has some.
    Raises:
        ValueError: the folder holds another run.
        TrainingStopped, TrainingInterrupted: as ``train``.
    """
    newest: dict[int, Evaluation] = {}  # of the last step, so that nothing is drawn and measured twice

    def evaluate_step(generator: Generator, step: int) -> dict[str, float]:
        newest.clear()
        newest[step] = measure(generator, data)
        return newest[step].values

    result = train(
        experiment.config(data),
        data,
        out / experiment.name,
        evaluate=evaluate_step,
        progress=progress,
        device=group.device,
    )
    if not group.is_first:
        return None
    last = newest.get(experiment.setting.steps) or measure(result.generator, data)
    real = measure.real(held_out, data) if held_out else {}
    record = _measured(experiment, data, out / experiment.name, measure, result, last, real)
    write_record(record)
    return record


def finished(experiment: Experiment, data: ImageData, out: Path, group: Processes) -> Record | None:
    """The record of this very run where it is finished, else None; the same in every process."""
    record = read_record(out / experiment.name) if group.is_first else None
    if record is not None and record.config.config_hash() != experiment.config(data).config_hash():
        record = None  # the same run with fewer steps: it goes on
    if record is not None and record.setting != experiment.setting.conditions(data):
        record = None  # trained, but measured otherwise: it is measured again
    return group.from_first(record)


def plateau(lines: list[dict[str, float]], steps: tuple[int, ...], names: list[str]) -> dict[str, float]:
    """The means over these steps of a log, of distances the geometric ones.

    Raises:
        TrainingStopped: the log lacks a measurement.
    """
    by_step = {int(line["step"]): line for line in lines}
    if lacking := [step for step in steps if not {*names} <= by_step.get(step, {}).keys()]:
        told = f"the log lacks the measurements of steps {lacking}; delete the run's folder to make it anew"
        raise TrainingStopped(told)
    values = {name: np.array([by_step[step][name] for step in steps]) for name in names}
    return {
        name: float(np.exp(np.log(part).mean()) if is_distance(name) else part.mean()) for name, part in values.items()
    }


def _measured(
    experiment: Experiment,
    data: ImageData,
    folder: Path,
    measure: Measurement,
    result: TrainResult,
    last: Evaluation,
    real: dict[str, float],
) -> Record:
    """What a trained run came to."""
    generator, row, config = result.generator, experiment.row, experiment.config(data)
    lines, device = read_metrics(folder), next(generator.parameters()).device
    metrics, untrained = plateau(lines, experiment.setting.measured, list(last.values)), build_networks(config)
    initial = {}
    for name in measure.features:
        initial |= measure(untrained[0].to(device), data, name).values
    for name in measure.features[1:]:
        metrics |= measure(generator, data, name).values
    distance = last.values[leading(last.values, "FD")]

    def times() -> float:
        """The distance of the same samples, over ``distance``, as what surrounds the call makes the generator draw."""
        values = measure(generator, data).values
        return values[leading(values, "FD")] / distance

    off = None
    if generator.attention_layers():
        with attention_off(generator):
            off = times()
    _, discriminator, _ = load_checkpoint(result.model)
    moved = resampled_log_distances(
        last.features.double().numpy(), last.labels.numpy(), last.real.mean.numpy(), last.real.covariance.numpy()
    )
    logged = {name: value for line in lines for name, value in line.items()}
    return Record(
        row=row.name,
        title=row.title,
        seed=experiment.seed,
        config=config,
        setting=experiment.setting.conditions(data),
        metrics=metrics,
        initial=initial,
        real=real,
        resampled=tuple(round(float(move), 5) for move in moved),
        parameters=dict(zip(("generator", "discriminator"), parameter_counts(config.model), strict=True)),
        file_bytes=result.model.stat().st_size,
        seconds=result.seconds,
        images_per_second=result.images_per_second,
        gains={key: value for key, value in logged.items() if key.startswith("gain/")},
        attention_off=off,
        attention_health=attention_health(generator, discriminator.to(device), untrained, data, times),
        provenance=from_dict(Provenance, provenance(experiment.seed)),
        folder=folder,
    )

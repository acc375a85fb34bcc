"""One run from start to result: train, measure, write the result last.

Everything lands in the run's folder, and every part can be repeated: training resumes by itself, the measurement at
initialisation is kept, and ``result.json`` is written only when all else is there.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from ablations.bootstrap import write_features
from ablations.experiment import Experiment
from ablations.records import Record, read_record, write_record
from ablations.sizes import parameter_counts
from sagan_base.attention_health import attention_health
from sagan_base.checkpoint import build_networks, load_checkpoint
from sagan_base.config import RunConfig, from_dict
from sagan_base.data import ImageData
from sagan_base.distributed import Processes
from sagan_base.files import write_json
from sagan_base.generator import Generator
from sagan_base.metrics.evaluate import Evaluation, evaluate
from sagan_base.metrics.names import leading
from sagan_base.network import attention_off
from sagan_base.provenance import Provenance, provenance
from sagan_base.run_folder import read_metrics
from sagan_base.training import TrainResult, train

SAMPLE_SEED = 0  # the same z and labels for every run: differences between runs are paired sample by sample
MOST_STORED_SAMPLES = 10_000
MOST_CLASSES_JUDGED = 100  # beyond it the support vector machine is not worth its time


@dataclass(frozen=True)
class Measurement:
    """How samples are measured.

    Attributes:
        features: extractors of ``evaluate``; the first one's figures lead the table and make the curves.
        weights: extractor -> file, where its weights do not come by themselves.
        cache: folder for classifiers and real statistics; None is the usual one.
    """

    features: tuple[str, ...]
    weights: dict[str, Path] = field(default_factory=dict)
    cache: Path | None = None

    def __call__(
        self, generator: Generator, data: ImageData, num_samples: int, progress: bool, first_only: bool = False
    ) -> Evaluation:
        """The values of all features, with the leading ones' own samples."""
        first, *others = (
            evaluate(
                generator, data, name, num_samples, SAMPLE_SEED,
                cache=self.cache, weights=self.weights.get(name), progress=progress,
            )
            for name in self.features[: 1 if first_only else None]
        )  # fmt: skip
        values = [evaluation.values for evaluation in (first, *others)]
        return replace(first, values={name: value for part in values for name, value in part.items()})


def run_experiment(
    experiment: Experiment, data: ImageData, out: Path, measure: Measurement, group: Processes, progress: bool = True
) -> Record | None:
    """Train and measure, and return the record in process 0; the others train along and return None.

    Raises:
        ValueError: the folder holds another run.
        TrainingStopped, TrainingInterrupted: as ``train``.
    """
    folder, config = out / experiment.name, experiment.config(data)
    preset = experiment.setting.preset
    initial = _initial_metrics(config, data, folder, measure, preset.final_samples, group, progress)
    result = train(
        config,
        data,
        folder,
        evaluate=lambda generator, step: measure(
            generator, data, preset.curve_samples, progress=False, first_only=True
        ).values,
        progress=progress,
        device=group.device,
    )
    if not group.is_first:
        return None
    record = _measured(experiment, config, data, folder, measure, result, initial, progress)
    write_record(record)
    return record


def finished(experiment: Experiment, data: ImageData, out: Path, group: Processes) -> Record | None:
    """The record of this very run where it is finished, else None; the same in every process."""
    record = read_record(out / experiment.name) if group.is_first else None
    if record is not None and record.config.config_hash() != experiment.config(data).config_hash():
        record = None  # the same run with fewer steps: it goes on
    if record is not None and record.setting != experiment.setting.conditions(data):
        record = None  # trained, but measured in other features: it is measured again
    return group.from_first(record)


def _initial_metrics(
    config: RunConfig,
    data: ImageData,
    folder: Path,
    measure: Measurement,
    num_samples: int,
    group: Processes,
    progress: bool,
) -> dict[str, float]:
    """Metrics of the generator before its first step, measured once in these features, kept in ``initial.json``."""
    path = folder / "initial.json"
    if not group.is_first:
        return {}
    if path.is_file():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["features"] == list(measure.features):
                return kept["metrics"]
        except (ValueError, KeyError, TypeError) as error:
            print(f"{path} is not whole ({error}): measured again")
    generator, _ = build_networks(config)
    metrics = measure(generator.to(group.device), data, num_samples, progress).values
    write_json(path, {"features": list(measure.features), "metrics": metrics})
    return metrics


def _measured(
    experiment: Experiment,
    config: RunConfig,
    data: ImageData,
    folder: Path,
    measure: Measurement,
    result: TrainResult,
    initial: dict[str, float],
    progress: bool,
) -> Record:
    """The final measurement of a trained run."""
    generator, row = result.generator, experiment.row
    num_samples = experiment.setting.preset.final_samples
    evaluation = measure(generator, data, num_samples, progress)
    write_features(
        folder,
        evaluation.features[:MOST_STORED_SAMPLES].numpy(),
        evaluation.real.mean.numpy(),
        evaluation.real.covariance.numpy(),
    )

    def again() -> dict[str, float]:
        """The leading figures of the same samples, as what surrounds the call makes the generator draw them."""
        return measure(generator, data, num_samples, progress, first_only=True).values

    off: dict[str, float] = {}
    if generator.attention_layers():
        with attention_off(generator):
            off = again()
    _, discriminator, _ = load_checkpoint(result.model)
    health = attention_health(
        generator,
        discriminator.to(next(generator.parameters()).device),
        build_networks(config),
        data,
        lambda: (values := again())[leading(values, "FD")],
    )
    from sagan_base.metrics.class_accuracy import class_accuracy  # takes as long to import as torch; --list needs none

    judged = 2 <= data.num_classes <= MOST_CLASSES_JUDGED
    logged: dict[str, float] = {}
    for line in read_metrics(folder):
        logged.update(line)
    return Record(
        row=row.name,
        title=row.title,
        seed=experiment.seed,
        config=config,
        setting=experiment.setting.conditions(data),
        metrics=evaluation.values,
        initial=initial,
        class_accuracy=class_accuracy(generator, data, seed=SAMPLE_SEED) if judged else None,
        parameters=dict(zip(("generator", "discriminator"), parameter_counts(config), strict=True)),
        file_bytes=result.model.stat().st_size,
        seconds=result.seconds,
        images_per_second=result.images_per_second,
        gains={key: value for key, value in logged.items() if key.startswith("gain/")},
        attention_off=off,
        attention_health=health,
        provenance=from_dict(Provenance, provenance(experiment.seed)),
        folder=folder,
    )

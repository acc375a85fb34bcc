"""Put the model of a finished run into the package: weights, card (JSON and Markdown) and sheet of samples.

    python ablations/ship.py runs/ablation/ylg-seed0 --name digits
    python ablations/ship.py runs/colour --best --name cifar10    a run that goes on, where it was best
    python ablations/ship.py --refresh            draw the sheets and write the pages of all shipped models again

The figures on the card are those that the run measured; nothing is typed in. Read next: sagan_base/models.py.
"""

import hashlib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sagan_base.cli import Parser, command, shared_option, usage_errors

from ablations.records import read_record
from ablations.sizes import described
from sagan_base.checkpoint import Checkpoint, export_model, load_checkpoint, read_checkpoint
from sagan_base.files import save_image, write_json, write_text
from sagan_base.metrics.names import BARE
from sagan_base.models import SHIPPED, ModelCard, model_card, model_names, resolve_model
from sagan_base.pages import render
from sagan_base.provenance import Provenance
from sagan_base.run_folder import BEST_FILE, MODEL_FILE, read_metrics
from sagan_base.sample import load_generator
from sagan_base.sampling import preview
from sagan_base.typed import from_dict


@dataclass(frozen=True)
class DataTerms:
    """What a card says about a data set: where it is from, and the terms of models trained on it."""

    source: str
    licence: str


TERMS = {
    "digits": DataTerms(
        "the handwritten digits of scikit-learn (test part of Alpaydin and Kaynak's Optical Recognition of "
        "Handwritten Digits, UCI; 8x8 grey images, enlarged)",
        "data CC BY 4.0 (UCI); weights MIT, as this package",
    ),
    "fashion-mnist": DataTerms(
        "Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017; 28x28 grey images, enlarged)",
        "data MIT (Zalando SE); weights MIT, as this package",
    ),
    "cifar10-jpeg": DataTerms(
        "CIFAR-10 (Krizhevsky, 2009; 32x32 colour images) as JPEG of quality 75, so slightly lossy",
        "data published for research without a licence; weights MIT, as this package",
    ),
    "cifar10": DataTerms(
        "CIFAR-10 (Krizhevsky, 2009; 32x32 colour images)",
        "data published for research without a licence; weights MIT, as this package",
    ),
}
INTENDED_USE = "demonstrations, tests and the study of sparse attention; trying inversion and attention maps at once"
LIMITS = "a small network trained briefly; it knows only the classes above and shows nothing about larger images"


def measured(run: Path, step: int | None = None) -> dict[str, float]:
    """The figures of a run: of the ablation's result where there is one, else of its last evaluation; or of one step.

    Raises:
        ValueError: it was never measured.
    """
    if step is None and (record := read_record(run)):
        return record.metrics
    for line in reversed([line for line in read_metrics(run) if step in (None, line["step"])]):
        if figures := {name: value for name, value in line.items() if name.endswith(")") or name in BARE.values()}:
            return figures
    raise ValueError(f"{run} was never measured; train it with --features, or finish it with ablations/run.py")


def terms_of(checkpoint: Checkpoint) -> DataTerms:
    """Raises ValueError where nothing is known of the terms of its data."""
    data = checkpoint.info["data"]["name"]
    if data not in TERMS:
        raise ValueError(f"nothing is known about the licence of {data!r}; add it to TERMS in {Path(__file__).name}")
    return TERMS[data]


def make_card(
    name: str, checkpoint: Checkpoint, terms: DataTerms, metrics: dict[str, float], weights: bytes
) -> ModelCard:
    """The card of a model; all that it says is in the checkpoint or was measured."""
    config, info = checkpoint.config, checkpoint.info
    recipe, model, origin = config.recipe, config.model, from_dict(Provenance, _known(info["provenance"]))
    augmented = f", augmented ({', '.join(recipe.augment)})" if recipe.augment else ""
    precision = "" if config.training.precision == "float32" else f", {config.training.precision}"
    start = f", from the weights of {config.init_from}" if config.init_from else ""
    machine = origin.machine
    return ModelCard(
        name=name,
        sha256=hashlib.sha256(weights).hexdigest(),
        bytes=len(weights),
        data=terms.source,
        licence=terms.licence,
        resolution=model.resolution,
        image_channels=model.image_channels,
        classes=tuple(info["class_names"]),
        recipe=f"{recipe.name}, batch {recipe.batch_size}, lr {recipe.generator_lr:g} / {recipe.discriminator_lr:g}, "
        f"Adam {recipe.betas}, EMA {recipe.ema_decay:g}{augmented}{precision}{start}",
        network=described(model),
        seed=config.training.seed,
        steps=info["step"],
        seconds=info["seconds"],
        hardware=machine.gpu or f"{machine.threading} of {machine.cpu}",
        metrics=metrics,
        command=origin.command,
        revision=origin.git.revision or "unknown",
        intended_use=INTENDED_USE,
        limits=LIMITS,
    )


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's provenance without what only a training says of itself, such as the number of processes."""
    return {name: value for name, value in values.items() if name in {f.name for f in fields(Provenance)}}


def card_page(card: ModelCard) -> str:
    """The card as Markdown."""
    return render("ablations", "card.md", card=card)


def ship(
    run: Path, name: str, data: str | None = None, destination: Path = SHIPPED, best: bool = False
) -> ModelCard:
    """Put the run's model into ``destination`` with its card and samples.

    Args:
        data: how users of the model load its data, where that is not how the run did: no path may go along.
        best: the networks of the lowest distance instead of the last ones; the run need not be finished.
    Raises:
        ValueError, OSError: the folder holds no whole model, or no figures.
    """
    checkpoint = read_checkpoint(run / (BEST_FILE if best else MODEL_FILE))
    checkpoint = replace(checkpoint, config=replace(checkpoint.config, data=data or checkpoint.config.data))
    if Path(checkpoint.config.data.partition(":")[2]).is_absolute():
        raise ValueError(f"the model would carry the path {checkpoint.config.data}; say with --data how users load it")
    terms, metrics = terms_of(checkpoint), measured(run, checkpoint.info["step"] if best else None)
    # The card goes last: without it the model does not exist, so a crash leaves no card without its weights.
    weights = export_model(destination / f"{name}.safetensors", checkpoint)
    card = make_card(name, checkpoint, terms, metrics, weights.read_bytes())
    save_image(destination / f"{name}.png", preview(load_checkpoint(weights)[0], card.seed))
    write_text(destination / f"{name}.md", card_page(card))
    write_json(destination / f"{name}.json", asdict(card))
    return card


def refresh(destination: Path = SHIPPED) -> list[Path]:
    """Write page and sheet of every shipped model again, from its card and its weights; returns the files."""
    written = []
    for name in model_names():
        card = model_card(name)
        generator, _ = load_generator(resolve_model(name))
        sheet, page = destination / f"{name}.png", destination / f"{name}.md"
        save_image(sheet, preview(generator, card.seed))
        write_text(page, card_page(card))
        written += [sheet, page]
    return written


@command()
def main(argv: list[str] | None = None) -> None:
    options = Parser("python ablations/ship.py", __doc__)
    options.add_argument(
        "run", nargs="?", type=Path, metavar="RUN", help="folder of a finished run of training or of ablations/run.py"
    )
    options.add_argument("--best", action="store_true", help="its networks of the lowest distance; it may go on")
    options.add_argument("--name", metavar="NAME", help="what --model will call it")
    shared_option(options, "--data", "how users load its data, where the run had it from a folder")
    options.add_argument("--refresh", action="store_true", help="write pages and sheets again instead")
    shared_option(options, "--out", "where it goes (default: the package's own folder)", default=SHIPPED)
    arguments = options.parse_args(argv)
    with usage_errors():
        if arguments.refresh == bool(arguments.run) or bool(arguments.run) != bool(arguments.name) or (
            arguments.refresh and arguments.best
        ):
            raise ValueError("give a finished run and --name NAME, or --refresh alone")
        if arguments.refresh:
            print("\n".join(f"written: {path}" for path in refresh(arguments.out)))
            return
        card = ship(arguments.run, arguments.name, arguments.data, arguments.out, arguments.best)
    print(card.summary())


if __name__ == "__main__":
    main()

"""The trained models that ship with the package: their cards, and loading them by name after checking a hash.

``python -m sagan_base.models`` lists them. A model is two files in ``sagan_base/shipped``: ``NAME.safetensors``
(EMA generator, discriminator, configuration) and ``NAME.json`` (its card); ship.py writes both from a finished run.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sagan_base.cli import Parser, command, usage_errors

from sagan_base.checkpoint import model_file
from sagan_base.typed import from_dict, read_json

SHIPPED = Path(__file__).resolve().parent / "shipped"
DEFAULT_MODEL = "digits"  # its data come with scikit-learn, so that every command works at once
BEST_MODEL = "cifar10"  # in colour


@dataclass(frozen=True)
class ModelCard:
    """What a person should know before using a shipped model.

    Attributes:
        sha256: of the weights file; ``resolve_model`` checks it.
        data, licence: what it was trained on, and the terms that data and weights come with.
        classes: names of the labels 0, 1, ...
        recipe, network: the configuration in one line each; the full one is inside the weights file.
        steps, seconds: length of the training, in generator updates and wall-clock seconds on ``hardware``.
        metrics: name (with the features it was measured in) -> value, as printed by ``command``.
    """

    name: str
    sha256: str
    bytes: int
    data: str
    licence: str
    resolution: int
    image_channels: int
    classes: tuple[str, ...]
    recipe: str
    network: str
    seed: int
    steps: int
    seconds: float
    hardware: str
    metrics: dict[str, float]
    command: str
    revision: str
    intended_use: str
    limits: str

    def summary(self) -> str:
        """A few lines for a terminal."""
        kind = "grey" if self.image_channels == 1 else "colour"
        lines = [
            f"{self.name}: {self.resolution}x{self.resolution} {kind}, {len(self.classes)} classes, "
            f"{self.bytes / 1e6:.2f} MB",
            f"  data      {self.data}",
            f"  classes   {', '.join(self.classes)}",
            f"  network   {self.network}",
            f"  training  {self.recipe}; {self.steps} steps, seed {self.seed}, {self.seconds / 60:.1f} min on "
            f"{self.hardware}",
        ]
        return "\n".join(lines + [f"  {value:9.4g}  {name}" for name, value in self.metrics.items()])


def model_names() -> tuple[str, ...]:
    """Names of the shipped models, the default one first."""
    names = sorted(path.stem for path in SHIPPED.glob("*.json"))
    return tuple(sorted(names, key=lambda name: name != DEFAULT_MODEL))


def model_card(name: str) -> ModelCard:
    """The card of a shipped model.

    Raises:
        ValueError: no shipped model has that name.
    """
    path = SHIPPED / f"{name}.json"
    if name not in model_names():
        raise ValueError(f"no shipped model is called {name!r}; use one of {', '.join(model_names())}")
    return from_dict(ModelCard, read_json(path))


def resolve_model(name: str | None = None) -> Path:
    """Path of a shipped model's weights, for ``sagan_base.load_checkpoint``; None means the default model.

    Raises:
        ValueError: the name is unknown, or the file is missing or is not the one its card describes.
    """
    card = model_card(name or DEFAULT_MODEL)
    path = SHIPPED / f"{card.name}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} is missing; reinstall the package")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != card.sha256:
        raise ValueError(
            f"{path} has SHA-256 {digest[:12]}..., its card says {card.sha256[:12]}...; reinstall the package"
        )
    return path


def find_model(given: str | Path) -> Path:
    """A file or a run's folder, or the name of a shipped model where there is no such path.

    Raises:
        FileNotFoundError: it is neither, or a folder without a model.
        ValueError: as ``resolve_model``.
    """
    return resolve_model(str(given)) if str(given) in model_names() and not Path(given).exists() else model_file(given)


@command()
def main(argv: list[str] | None = None) -> None:
    parser = Parser("python -m sagan_base.models", "List the models that ship with the package, with their cards.")
    parser.add_argument("name", nargs="*", help="show only these models")
    parser.add_argument("--path", action="store_true", help="print the checked path of the weights and nothing else")
    arguments = parser.parse_args(argv)
    with usage_errors():
        names = arguments.name or model_names()
        text = [str(resolve_model(name)) if arguments.path else model_card(name).summary() for name in names]
    print("\n".join(text) if arguments.path else "\n\n".join(text))


if __name__ == "__main__":
    main()

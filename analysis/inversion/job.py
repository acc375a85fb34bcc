"""One inversion to do: recognised where it was done before, else done with a bar, written and told on the console."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.inversion.config import InversionConfig
from analysis.inversion.distances import Distance
from analysis.inversion.report import METRICS, TUNED, class_line, shorten, summary, write_inversion
from analysis.inversion.search import invert
from analysis.inversion.table import rows_of
from analysis.inversion.targets import Target
from analysis.loading import Model
from sagan_base.checkpoint import model_file
from sagan_base.provenance import provenance
from sagan_base.typed import read_json, reading


@dataclass(frozen=True, eq=False)
class Job:
    """One inversion to do, and where its files go.

    Attributes:
        other: whose saliency weighs, for the method "other-image": the next target, or a generated image.
        label: the class that is given; None searches it.
        warnings: of a picture that hardly fits the model.
    """

    model: Model
    distance: Distance
    target: Target
    other: Target
    config: InversionConfig
    label: int | None
    out: Path
    warnings: Sequence[str] = ()

    def request(self) -> dict[str, Any]:
        """What decides the result, to recognise it again."""
        file = model_file(self.model.path)
        request = {
            "config": asdict(self.config),
            "label": self.label,
            "target": self.target.fingerprint,
            "weights": [file.name, file.stat().st_size, int(file.stat().st_mtime)],
            "chosen_by": self.distance.name,
        }
        if self.config.loss.method == "other-image":
            request["other"] = self.other.fingerprint
        return json.loads(json.dumps(request))

    def done_before(self) -> dict[str, Any] | None:
        """The numbers in the folder, where they are whole and of this very request."""
        path = self.out / METRICS
        try:
            with reading(path):
                numbers = read_json(path)
                rows_of(numbers), self.line(numbers), numbers[self.distance.name]  # what becomes of them
                same = numbers["request"] == self.request() and numbers["stopped"] != "interrupted"
                return numbers if same else None
        except ValueError:
            return None

    def run(self) -> dict[str, Any]:
        """Invert and write the folder; returns the numbers. ``stopped`` says whether Ctrl-C ended it.

        Raises:
            KeyboardInterrupt: before there was anything to keep.
        """
        model, config = self.model, self.config
        with Progress() as progress:
            inversion = invert(
                model.generator, model.discriminator, self.target.image, config, self.distance, self.label, progress,
                self.other.image,
            )  # fmt: skip
        numbers = summary(model, self.target, inversion, self.distance, class_given=self.label is not None)
        numbers |= {"request": self.request(), "provenance": provenance(config.seed)}
        size = write_inversion(model, self.target, inversion, numbers, self.out, self.warnings)
        print(
            f"  {config.loss.method}: class {class_line(model, inversion, numbers)}; {inversion.effort()}, "
            f"{inversion.seconds:.1f} s\n  {self.line(numbers)}"
        )
        if inversion.stopped == "losses not finite":
            print("warning: the codes ran away; a smaller --learning-rate is the remedy", file=sys.stderr)
        if TUNED in numbers:
            print(f"  {TUNED}: {self.line(numbers[TUNED])}")
        files = "reconstruction.png, comparison.png, latent.npz, metrics.json"
        print(f"  wrote {shorten(self.out / 'explorer.html')} ({size / 1e6:.1f} MB), {files}")
        return numbers

    def line(self, numbers: dict[str, Any]) -> str:
        parts = [f"PSNR {numbers['psnr']:.2f} dB", f"SSIM {numbers['ssim']:.3f}"]
        names = (self.distance.name, "feature distance", "latent error")
        return ", ".join(parts + [f"{name} {numbers[name]:.3f}" for name in names if name in numbers])


class Progress(tqdm):
    """One bar for the stages of an inversion in turn, with its rate, time left and the lowest loss."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self.stage = ""

    def __call__(self, stage: str, done: int, total: int, loss: float) -> None:
        if stage != self.stage:
            self.stage = stage
            self.set_description(f"  {stage}", refresh=False)
            self.reset(total)
        self.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self.update(done - self.n)

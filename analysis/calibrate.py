"""Measure how far held-out pictures are from what a model draws, so that invert.py can say it of any picture.

    python analysis/calibrate.py --checkpoint runs/mine --data folder:PATH      of a model of your own, into the cache
    python analysis/calibrate.py --model digits --out analysis/results          of one that ships
"""

import sys

from sagan_base.cli import Parser, command, shared_option, usage_errors, whole, writable_folder

from analysis.inversion.calibration import calibrate, write_calibration
from analysis.inversion.distances import choose_distance
from analysis.inversion.report import shorten
from analysis.loading import add_common_arguments, model_of


@command()
def main(argv: list[str] | None = None) -> int:
    parser = Parser("python analysis/calibrate.py", __doc__)
    held_out = "held-out pictures (default: 500, or all where there are fewer)"
    parser.add_argument("--pictures", type=whole(2), metavar="N", help=held_out)
    shared_option(parser, "--data", "whose test split (default: of the model's own data)")
    add_common_arguments(parser, None)
    arguments = parser.parse_args(argv)
    with usage_errors():
        model = model_of(arguments)
        data = model.training_data("test", arguments.data, labelled=False)
        pictures = arguments.pictures or min(500, len(data))
        if len(data) < pictures:
            raise ValueError(f"{data.name} has {len(data)} test images; ask for fewer --pictures")
        if arguments.out:
            writable_folder("--out", arguments.out)
    calibration = calibrate(model, choose_distance(), data, pictures)
    name = model.name if arguments.out else model.generator_fingerprint[:16]
    path = write_calibration(calibration, name, arguments.out)
    quartiles = [calibration.values[len(calibration.values) * i // 4] for i in (1, 2, 3)]
    print(model.describe())
    print(f"{calibration.distance} of {pictures} held-out pictures: quartiles {quartiles}")
    print(f"wrote {shorten(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

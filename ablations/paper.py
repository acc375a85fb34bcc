"""Figures that others published, to stand beside ours: the paper's Table 1 and the anchors around it.

All are Inception FID and IS on the data set named, each from a single training run. An asterisk marks a figure
that could not be confirmed from a source at hand; it is shown wherever the figure is.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        fid, inception_score: None where none was published.
        unconfirmed: which of "fid" and "inception_score" carry an asterisk.
        where: data set, resolution and length of training.
        source: who published it.
    """

    fid: float | None
    inception_score: float | None
    where: str
    source: str
    unconfirmed: tuple[str, ...] = ()

    def columns(self) -> dict[str, str]:
        """The two figures as columns of a table: "16.64*" where unconfirmed, "-" where there is none."""

        def shown(name: str) -> str:
            value = getattr(self, name)
            return "-" if value is None else f"{value:.2f}" + "*" * (name in self.unconfirmed)

        return {"FID": shown("fid"), "IS": shown("inception_score")}


IMAGENET = "ImageNet 128x128, best of 1.5M steps"
PAPER = "Daras et al., arXiv:1911.12287, Table 1"

# Keyed by the name of the row in rows.py that repeats the experiment.
PUBLISHED: dict[str, Published] = {
    "sagan": Published(18.65, 52.52, IMAGENET, PAPER),
    "sagan_8": Published(20.09, 46.01, IMAGENET, PAPER, unconfirmed=("fid",)),
    "ylg": Published(15.94, 57.22, IMAGENET, PAPER),
    "ylg_no_esa": Published(17.47, 51.09, IMAGENET, PAPER),
    "ylg_strided": Published(16.64, 55.21, IMAGENET, PAPER, unconfirmed=("fid", "inception_score")),
    "ylg_hilbert": Published(17.07, 48.55, "ImageNet 128x128, 1M steps", "the authors' repository, branch curves"),
    "sagan_biggan": Published(12.83, 69.5, "ImageNet 128x128, 826k steps", "open-mmlab/mmgeneration"),
}

# Further figures to keep beside the table; they belong to none of its rows.
ANCHORS: tuple[tuple[str, Published], ...] = (
    ("dense SAGAN, BigGAN's recipe", PUBLISHED["sagan_biggan"]),
    (
        "dense SAGAN, the same code without that recipe",
        Published(34.78, 28.49, "ImageNet 128x128, 1M steps", "open-mmlab/mmgeneration"),
    ),
    ("YLG in Hilbert order", PUBLISHED["ylg_hilbert"]),
    ("dense SAGAN", Published(9.43, 9.32, "CIFAR-10 32x32, 500k steps", "open-mmlab/mmgeneration")),
    ("dense SAGAN, replication", Published(32.52, None, "CelebA 32x32, 100k steps, one run", "dwro0121/Attention_GAN")),
    ("YLG, replication", Published(32.69, None, "CelebA 32x32, 100k steps, one run", "dwro0121/Attention_GAN")),
)

ASTERISK = "* not confirmed from a source at hand."
CAVEAT = (
    "The paper's FID and IS are of ImageNet at 128x128 in Inception's features, one training a row: another scale than "
    "any distance measured in other features or on other images."
)


def paper_columns(row: str) -> dict[str, str]:
    """What was published for a row, as columns to stand beside ours."""
    figures = PUBLISHED.get(row, Published(None, None, "", "")).columns()
    return {f"paper {name}": value for name, value in figures.items()}

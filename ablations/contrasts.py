"""The five questions that the ablation answers, fixed before its runs, with the number of seeds that answers them.

A contrast compares the log Fréchet distances of two rows; the five are tested together (Holm, 1979). Whatever else a
table shows is there to be looked at: it gets an interval and no verdict. ``python ablations/run.py --power`` is how the
number of seeds is chosen; differences.py has the arithmetic.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """One question: is the distance of ``row`` lower than that of ``other``?

    Attributes:
        row, other: names in rows.py.
        yes, no: the answer where the distance of ``row`` is lower, or higher, by more than chance.
        found: what was found before, and by whom.
    """

    question: str
    row: str
    other: str
    yes: str
    no: str
    found: str


# fmt: off
CONTRASTS: tuple[Contrast, ...] = (
    Contrast("Does sparse attention beat dense attention?", "ylg_attending", "sagan_attending",
             "yes, LTR + RTL is better than one dense head", "no, one dense head is better",
             "FID 15.94 against 18.65 (the paper, ImageNet); 32.69 against 32.52 (a replication, CelebA)"),
    Contrast("Is that the content, or pooling over a mask?", "ylg_attending", "ylg_uniform",
             "the content: scores that are learned beat scores fixed at 0",
             "fixed scores are better: pooling over the mask is what helps", "nothing"),
    Contrast("Does ESA help, where a query sees its own place?", "ylg_attending", "ylg_no_esa_attending",
             "yes, ESA is better than raster order", "no, raster order is better",
             "FID 15.94 with ESA, 17.47 without (the paper, ImageNet)"),
    Contrast("Do eight heads of orthogonal partitions beat LTR + RTL?", "interlaced8", "ylg_attending",
             "yes, interlaced8 is better", "no, LTR + RTL is better", "nothing"),
    Contrast("Does dense attention help at all?", "sagan_attending", "no_attention",
             "yes, it is better than none", "no, the network without attention is better",
             "FID 51.82 with, 28.39 without (StudioGAN, ImageNet)"),
)
# fmt: on
ROWS_OF_CONTRASTS = tuple(dict.fromkeys(name for contrast in CONTRASTS for name in (contrast.other, contrast.row)))

LEVEL, POWER = 0.05, 0.8
FIRST_SEED = 10  # seeds below have chosen defaults and the number of seeds: no verdict rests on them
# Of each row of a contrast, from FIRST_SEED on; chosen on 26 November 2026. 54 runs of version 0.1 spread by 0.20 in
# log FD after 1,000 steps (36 degrees of freedom, 95% interval 0.16 to 0.26): so 11 seeds show 35%, and are what ten
# hours of a core allow. A pilot of the very rows may choose more (run.py --power) before the first of them is run.
SEEDS = 11
OTHER_SEEDS = 3  # of every other row

"""What a reader asks of the ablation, as data: each question names the pairs of rows that answer it.

The differences themselves come from bootstrap.py. The table compares each row with its dense row only; a question may
compare any two.
"""

from dataclasses import dataclass

from ablations.bootstrap import Difference
from ablations.rows import ROWS


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        pairs: (row, the row it is compared with), most telling first.
        found: what was found before, and by whom.
    """

    text: str
    pairs: tuple[tuple[str, str], ...]
    found: str

    def __post_init__(self) -> None:
        unknown = {name for pair in self.pairs for name in pair} - set(ROWS)
        if unknown:
            raise ValueError(f"question {self.text!r} names rows that do not exist: {', '.join(sorted(unknown))}")


QUESTIONS: tuple[Question, ...] = (
    Question(
        "Does sparse attention beat dense attention?",
        (("ylg", "sagan"), ("ylg", "sagan_8"), ("ylg_strided", "sagan"), ("ylg_biggan", "sagan_biggan")),
        "the paper, single runs on ImageNet: FID 15.94 against 18.65; one replication on CelebA: 32.69 against 32.52",
    ),
    Question(
        "Does the order of the cells matter: does ESA help?",
        (("ylg", "ylg_no_esa"), ("ylg", "ylg_hilbert"), ("ylg", "ylg_morton"), ("ylg", "ylg_snake")),
        "the paper: FID 15.94 with ESA, 17.47 without; the authors' repository: 17.07 in Hilbert order",
    ),
    Question(
        "Queries on a finer grid than keys: is pool or tile better than rows?",
        (("ylg_pool", "ylg"), ("ylg_tile", "ylg")),
        "nothing; the paper's program has rows, its text describes tile",
    ),
    Question(
        "Does any attention help?",
        (("sagan", "no_attention"), ("ylg", "no_attention"), ("ylg_higher", "ylg")),
        "StudioGAN on ImageNet: FID 28.39 without attention, 51.82 with",
    ),
    Question(
        "Does the pattern matter: full information, capacity, steps in sequence?",
        (
            ("ylg_fixed", "ylg"),
            ("ylg_strided_repaired", "ylg_strided"),
            ("ylg_butterfly", "ylg"),
            ("ylg_sequential", "ylg"),
        ),
        "the paper: strided, which lacks full information, 16.64* against 15.94",
    ),
    Question(
        "How much is the recipe worth?",
        (("sagan_biggan", "sagan"), ("ylg_biggan", "ylg"), ("dcgan", "sagan")),
        "mmgeneration on ImageNet: FID 12.83 for dense attention with BigGAN's recipe, more than YLG's whole gain",
    ),
)


def answers(differences: dict[tuple[str, str], Difference], key: str) -> list[tuple[Question, list[str]]]:
    """Each question that was answered, with a sentence for each of its pairs; ``key`` names the distance."""
    found = []
    for question in QUESTIONS:
        pairs = [pair for pair in question.pairs if pair in differences]
        if pairs:
            sentences = [sentence(ROWS[a].title, ROWS[b].title, key, differences[a, b]) for a, b in pairs]
            found.append((question, sentences))
    return found


def sentence(row: str, other: str, distance_key: str, difference: Difference) -> str:
    """A difference in words; one whose interval holds zero is said to be none."""
    seeds = f"{difference.seeds} seeds"
    if difference.seeds == 1:
        seeds = "over the samples of one training each: another seed may differ by more"
    interval = f"{difference.estimate:+.3g}, 95% interval {difference.low:+.3g} to {difference.high:+.3g}; {seeds}"
    if difference.verdict == "no interval":
        return f"{row}: {difference.estimate:+.3g} to {other} in {distance_key} on one seed; no interval."
    if difference.verdict == "no difference shown":
        return f"{row}: no difference to {other} is shown in {distance_key} ({interval})."
    return f"{row}: {difference.verdict} {distance_key} than {other} ({interval})."

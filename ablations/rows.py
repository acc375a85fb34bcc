"""The rows of the ablation, as data: the question each answers, what it changes, what was found before.

A row changes only what it names: everything else comes from the preset (presets.py). experiment.py turns a row, a
preset and a seed into a run; paper.py has the published figures.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sagan_base.config import AttentionConfig
from ylg.heads import has_order, shown_order


def attention(pattern: str, order: str = "raster", num_heads: int = 8, **changes: Any) -> AttentionConfig:
    """An attention layer as the paper's program aligns it: mask rows repeated over the queries (``rows``).

    Dense attention has no order and no alignment, patterns native to the grid no order; they get the first of each, so
    that equal networks hash equally.
    """
    if not has_order(pattern):
        order = "raster"
    if pattern == "dense":
        order, changes = "raster", {name: value for name, value in changes.items() if name != "alignment"}
    return AttentionConfig(
        **{"pattern": pattern, "order": order, "num_heads": num_heads, "alignment": "rows"} | changes
    )


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: how commands and folders call it.
        title: how the table calls it.
        question: what the row is there to answer.
        kind: "paper", a line of the paper's Table 1; "attending", its partner whose attention can depend on the image;
            "extended", what the paper left open; "asked", a combination that a command line asked for and that no row
            here is.
        attention: None for a network without attention.
        attention_scale: the attention sits at this many times the preset's side, where such a map exists.
        recipe: name in ``sagan_base.config.RECIPES``; None takes the one the command asked for.
        dcgan: both networks have a DCGAN's plain blocks; the rest of the recipe stays, so only the network differs.
        same_size_as: the row whose parameter count must be equal, because the comparison claims so.
        dense_row: the row that differences are taken to.
        found: what was found before, and by whom.
    """

    name: str
    title: str
    question: str = "asked for on the command line"
    kind: Literal["paper", "attending", "extended", "asked"] = "extended"
    attention: AttentionConfig | None = field(default_factory=lambda: attention("ltr_rtl", "manhattan"))
    attention_scale: int = 1
    recipe: str | None = None
    dcgan: bool = False
    same_size_as: str | None = "sagan"
    dense_row: str = "sagan"
    found: str = "nothing published"


ALL: tuple[Row, ...] = (
    Row(
        "sagan",
        "SAGAN",
        "the baseline: one dense head",
        "paper",
        attention("dense", num_heads=1),
        same_size_as=None,
        found="FID 18.65 (Zhang et al.; repeated in the paper)",
    ),
    Row(
        "sagan_8",
        "SAGAN, 8 heads",
        "are several dense heads enough?",
        "paper",
        attention("dense"),
        found="no: worse than one head",
    ),
    Row(
        "ylg",
        "YLG-SAGAN",
        "do sparse two-step patterns, enumerated by distance, beat dense attention?",
        "paper",
        found="yes: 18.65 to 15.94; the one independent replication saw no gain",
    ),
    Row(
        "ylg_no_esa",
        "YLG, no ESA",
        "does the 2-D enumeration matter?",
        "paper",
        attention("ltr_rtl", "raster"),
        found="yes: 1.53 FID worse than with ESA, still better than dense",
    ),
    Row(
        "ylg_strided",
        "YLG, strided",
        "does the pattern matter?",
        "paper",
        attention("strided_original", "manhattan"),
        found="yes: a little worse than LTR + RTL",
    ),
    Row(
        "no_attention",
        "no attention",
        "does any attention help?",
        attention=None,
        same_size_as=None,
        found="StudioGAN: SNGAN 28.39 beats its own SAGAN 51.82 on ImageNet 128",
    ),
    Row(
        "dcgan",
        "DCGAN",
        "how far is the network SAGAN is usually compared with?",
        attention=None,
        dcgan=True,
        same_size_as=None,
        found="far behind residual networks, nothing at equal size",
    ),
    Row(
        "ylg_higher",
        "YLG, one resolution higher",
        "does sparse attention pay on larger maps, where dense is dear?",
        attention_scale=2,
        same_size_as=None,
        found="the authors tried 64x64 (branch `ylg-deep`) and reported nothing",
    ),
    Row(
        "ylg_pool",
        "YLG, alignment pool",
        "does it help that a query sees around its own place?",
        attention=attention("ltr_rtl", "manhattan", alignment="pool"),
    ),
    Row(
        "ylg_tile",
        "YLG, alignment tile",
        "the alignment that the paper's text describes",
        attention=attention("ltr_rtl", "manhattan", alignment="tile"),
    ),
    Row(
        "ylg_hilbert",
        "YLG, Hilbert order",
        "is a curve that keeps neighbours together better than ESA?",
        attention=attention("ltr_rtl", "hilbert"),
        found="no: the authors' repository has 17.07 after 1M steps",
    ),
    Row(
        "ylg_morton",
        "YLG, Morton order",
        "as Hilbert, with jumps",
        attention=attention("ltr_rtl", "morton"),
    ),
    Row(
        "ylg_snake",
        "YLG, snake order",
        "raster without the jump at each line's end",
        attention=attention("ltr_rtl", "snake"),
    ),
    Row(
        "ylg_sequential",
        "YLG, steps in sequence",
        "does full information within one layer help?",
        attention=attention("ltr_rtl", "manhattan", mode="sequential"),
    ),
    Row(
        "ylg_strided_repaired",
        "YLG, strided, repaired",
        "does it matter that the published strided pattern lacks full information?",
        attention=attention("strided", "manhattan"),
    ),
    Row(
        "ylg_fixed",
        "YLG, fixed",
        "is full information needed at all? (this pattern lacks it)",
        attention=attention("fixed", "manhattan"),
    ),
    Row(
        "ylg_butterfly",
        "YLG, butterfly",
        "does capacity matter? (between halves 128 against 8 at n = 256)",
        attention=attention("butterfly", "manhattan"),
    ),
    Row(
        "sagan_biggan",
        "SAGAN, BigGAN recipe",
        "how much is the recipe worth?",
        attention=attention("dense", num_heads=1),
        recipe="biggan",
        found="FID 12.83: more than YLG's whole gain (mmgeneration)",
    ),
    Row(
        "ylg_biggan",
        "YLG, BigGAN recipe",
        "does YLG's gain survive a better recipe?",
        recipe="biggan",
        dense_row="sagan_biggan",
    ),
)



def attending(pattern: str, order: str = "manhattan", num_heads: int = 8, **changes: Any) -> AttentionConfig:
    """An attention layer whose maps have range, and whose queries see around their own place (``pool``)."""
    return attention(pattern, order, num_heads, **{"alignment": "pool", "qk_norm": True} | changes)


def _partner(row: Row) -> Row:
    """The same attention with normalised queries and keys, aligned with the image."""
    published = row.attention
    return replace(
        row,
        name=f"{row.name}_attending",
        title=f"{row.title}, attending",
        question=f"{row.name} with attention that attends: {row.question}",
        kind="attending",
        attention=attending(published.pattern, published.order, published.num_heads),
        dense_row="sagan_attending",
        found="nothing published",
    )


ATTENDING_ROWS: tuple[Row, ...] = (
    *(_partner(row) for row in ALL if row.kind == "paper"),
    Row(
        "ylg_uniform",
        "LTR + RTL, uniform",
        "what is pooling over the mask worth? (scores fixed at 0, trained alike)",
        "attending",
        attending("ltr_rtl", scale=0.0),
        dense_row="sagan_attending",
    ),
    Row(
        "ylg_hilbert_attending",
        "YLG, Hilbert order, attending",
        "is a curve that keeps neighbours together better than ESA, where queries see their place?",
        "attending",
        attending("ltr_rtl", "hilbert"),
        dense_row="sagan_attending",
    ),
    Row(
        "rotated_blocks",
        "rotated blocks, attending",
        "does a pattern of more capacity and locality help?",
        "attending",
        attending("rotated_blocks"),
        dense_row="sagan_attending",
    ),
    Row(
        "interlaced8",
        "interlaced8, attending",
        "do eight heads of different orthogonal partitions help?",
        "attending",
        attending("interlaced8"),
        dense_row="sagan_attending",
    ),
)

PAPER_ROWS, EXTENDED_ROWS = (tuple(row for row in ALL if row.kind == kind) for kind in ("paper", "extended"))
ROWS: dict[str, Row] = {row.name: row for row in (*PAPER_ROWS, *ATTENDING_ROWS, *EXTENDED_ROWS)}


def partner_of(row: Row) -> Row | None:
    """The row of the same pattern whose attention can depend on the image; None where there is none."""
    return ROWS.get(f"{row.name}_attending")


def find_rows(names: list[str]) -> tuple[Row, ...]:
    """The rows of these names, in the order given.

    Raises:
        ValueError: a name is unknown.
    """
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise ValueError(f"no row is called {', '.join(map(repr, unknown))}; the rows are {', '.join(ROWS)}")
    return tuple(ROWS[name] for name in dict.fromkeys(names))


def row_of(config: AttentionConfig) -> Row:
    """The row that has exactly this attention and changes nothing else, or a new one named after its parts."""
    for row in ROWS.values():
        if row.attention == config and row.attention_scale == 1 and row.recipe is None and not row.dcgan:
            return row
    order = shown_order(config.pattern, config.order)
    parts = [config.pattern.replace("_", "-"), *([order] if order != "-" else [])]
    parts += [f"{config.num_heads}-heads", config.alignment]
    parts += [config.mode] * (config.mode != "parallel") + ["qk-norm"] * config.qk_norm
    if config.pattern == "dense":
        parts = ["dense", f"{config.num_heads}-heads"] + ["qk-norm"] * config.qk_norm
    plural = "head" if config.num_heads == 1 else "heads"
    title = f"{config.pattern}, {order}, {config.num_heads} {plural}, {config.alignment}"
    return Row(
        "_".join(parts),
        title + ", sequential" * (config.mode != "parallel") + ", attending" * config.qk_norm,
        kind="asked",
        attention=config,
        same_size_as=None,
    )

"""The rows of the ablation, as data: the question each answers, what it changes, what was found before.

A row changes only what it names: everything else comes from the preset (presets.py). experiment.py turns a row, a
preset and a seed into a run; contrasts.py says which rows are compared for a verdict; paper.py has the published
figures. Another row is another line below.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from sagan_base.config import AttentionConfig
from ylg.heads import has_order, shown_order


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: how commands and folders call it.
        title: how the table calls it.
        question: what the row is there to answer.
        attention: None for a network without attention.
        kind: "paper", a line of the paper's Table 1; "attending", a row whose attention can depend on the image;
            "control", a network without attention; "extended", what the paper left open, in its own form; "other", of
            a command line, and no row here.
        attention_scale: the attention sits at this many times the preset's side, where such a map exists.
        recipe: name in ``sagan_base.config.RECIPES``; None takes the one the command asked for.
        dcgan: both networks have a DCGAN's plain blocks and the residual networks' size; the recipe stays.
        found: what was found before, and by whom.
    """

    name: str
    title: str
    question: str
    attention: AttentionConfig | None
    kind: Literal["paper", "attending", "control", "extended", "other"]
    attention_scale: int = 1
    recipe: str | None = None
    dcgan: bool = False
    found: str = "nothing published"

    @property
    def dense_row(self) -> str:
        """The row that differences are taken to: one dense head, attending or as published, of the same recipe."""
        if self.kind in ("attending", "control"):
            return "sagan_attending"
        of_recipe = f"sagan_{self.recipe}"
        return "sagan" if self.recipe is None or self.name == of_recipe else of_recipe


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


def attending(pattern: str, order: str = "manhattan", num_heads: int = 8, **changes: Any) -> AttentionConfig:
    """An attention layer whose maps have range, and whose queries see around their own place (``pool``)."""
    return attention(pattern, order, num_heads, **{"alignment": "pool", "qk_norm": True} | changes)


ESA = "manhattan"
# fmt: off
PAPER_ROWS: tuple[Row, ...] = (
    Row("sagan", "SAGAN", "the baseline: one dense head", attention("dense", num_heads=1), "paper",
        found="FID 18.65 (Zhang et al.; repeated in the paper)"),
    Row("sagan_8", "SAGAN, 8 heads", "are several dense heads enough?", attention("dense"), "paper",
        found="no: worse than one head"),
    Row("ylg", "YLG-SAGAN", "do sparse two-step patterns, enumerated by distance, beat dense attention?",
        attention("ltr_rtl", ESA), "paper",
        found="yes: 18.65 to 15.94; the one independent replication saw no gain"),
    Row("ylg_no_esa", "YLG, no ESA", "does the 2-D enumeration matter?", attention("ltr_rtl", "raster"), "paper",
        found="yes: 1.53 FID worse than with ESA, still better than dense"),
    Row("ylg_strided", "YLG, strided", "does the pattern matter?", attention("strided_original", ESA), "paper",
        found="yes: a little worse than LTR + RTL"),
)


def _partner(row: Row) -> Row:
    """The same attention with normalised queries and keys, aligned with the image."""
    published = row.attention
    return replace(
        row,
        name=f"{row.name}_attending",
        title=f"{row.title}, attending",
        question=f"with attention that attends: {row.question}",
        kind="attending",
        attention=attending(published.pattern, published.order, published.num_heads, mode=published.mode),
        found="nothing published",
    )


CONTROLS = (
    Row("no_attention", "no attention", "does any attention help?", None, "control",
        found="StudioGAN: SNGAN 28.39 beats its own SAGAN 51.82 on ImageNet 128"),
    Row("dcgan", "DCGAN, equal size", "how far is the network SAGAN is usually compared with?", None, "control",
        dcgan=True, found="far behind residual networks, nothing at equal size"),
    Row("ylg_uniform", "LTR + RTL, uniform", "what is pooling over the mask worth? (scores fixed at 0, trained alike)",
        attending("ltr_rtl", scale=0.0), "attending"),
)
NATIVE = (
    Row("rotated_blocks", "rotated blocks, attending", "does a pattern of more capacity and locality help?",
        attending("rotated_blocks"), "attending"),
    Row("interlaced8", "interlaced8, attending", "do eight heads of different orthogonal partitions help?",
        attending("interlaced8"), "attending"),
)
EXTENDED_ROWS = (
    Row("ylg_higher", "YLG, one resolution higher",
        "does sparse attention pay on larger maps, where dense is dear?", attention("ltr_rtl", ESA), "extended",
        attention_scale=2, found="the authors tried 64x64 (branch `ylg-deep`) and reported nothing"),
    Row("ylg_pool", "YLG, alignment pool", "does it help that a query sees around its own place?",
        attention("ltr_rtl", ESA, alignment="pool"), "extended"),
    Row("ylg_tile", "YLG, alignment tile", "the alignment that the paper's text describes",
        attention("ltr_rtl", ESA, alignment="tile"), "extended"),
    Row("ylg_hilbert", "YLG, Hilbert order", "is a curve that keeps neighbours together better than ESA?",
        attention("ltr_rtl", "hilbert"), "extended",
        found="no: the authors' repository has 17.07 after 1M steps"),
    Row("ylg_morton", "YLG, Morton order", "as Hilbert, with jumps", attention("ltr_rtl", "morton"), "extended"),
    Row("ylg_snake", "YLG, snake order", "raster without the jump at each line's end", attention("ltr_rtl", "snake"),
        "extended"),
    Row("ylg_sequential", "YLG, steps in sequence", "does full information within one layer help?",
        attention("ltr_rtl", ESA, mode="sequential"), "extended"),
    Row("ylg_strided_repaired", "YLG, strided, repaired",
        "does it matter that the published strided pattern lacks full information?", attention("strided", ESA),
        "extended"),
    Row("ylg_fixed", "YLG, fixed", "is full information needed at all? (this pattern lacks it)",
        attention("fixed", ESA), "extended"),
    Row("ylg_butterfly", "YLG, butterfly", "does capacity matter? (between halves 128 against 8 at n = 256)",
        attention("butterfly", ESA), "extended"),
    Row("sagan_biggan", "SAGAN, BigGAN recipe", "how much is the recipe worth?", attention("dense", num_heads=1),
        "extended", recipe="biggan", found="FID 12.83: more than YLG's whole gain (mmgeneration)"),
    Row("ylg_biggan", "YLG, BigGAN recipe", "does YLG's gain survive a better recipe?", attention("ltr_rtl", ESA),
        "extended", recipe="biggan"),
)
# fmt: on
_partnered = (*PAPER_ROWS, *(row for row in EXTENDED_ROWS if row.name in ("ylg_hilbert", "ylg_sequential")))
TABLE_ROWS = (*PAPER_ROWS, *map(_partner, _partnered), *CONTROLS, *NATIVE)
ROWS: dict[str, Row] = {row.name: row for row in (*TABLE_ROWS, *EXTENDED_ROWS)}


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
    """The row that has exactly this attention, or a new one named after its parts."""
    for row in ROWS.values():
        if row.attention == config and row.attention_scale == 1 and row.recipe is None:
            return row
    heads = f"{config.num_heads}-heads"
    if config.pattern == "dense":
        parts = ["dense", heads]
    else:
        order = [shown_order(config.pattern, config.order)] * has_order(config.pattern)
        parts = [config.pattern.replace("_", "-"), *order, heads, config.alignment]
    parts += [config.mode] * (config.mode != "parallel") + ["qk-norm"] * config.qk_norm
    kind = "attending" if config.qk_norm else "other"
    return Row("_".join(parts), ", ".join(parts), "asked for on the command line", config, kind)

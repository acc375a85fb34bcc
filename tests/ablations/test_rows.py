"""The rows are the paper's, differ only in what they name, and are of equal size where the paper says so."""

from dataclasses import replace

import pytest

from ablations.contrasts import CONTRASTS
from ablations.experiment import Experiment, Setting
from ablations.paper import PUBLISHED, paper_columns
from ablations.presets import PRESETS, find_preset
from ablations.rows import EXTENDED_ROWS, PAPER_ROWS, ROWS, attending, attention, find_rows, partner_of, row_of
from ablations.sizes import parameter_counts
from sagan_base.checkpoint import build_networks
from sagan_base.config import RECIPES
from ylg import head_masks

SETTING = Setting(PRESETS["digits"], "paper", "digits", 100, ("classifier",))


def test_the_five_rows_are_those_of_the_papers_table():
    table = [
        (row.attention.num_heads, row.attention.pattern, row.attention.order, PUBLISHED[row.name].fid)
        for row in PAPER_ROWS
    ]
    assert table == [
        (1, "dense", "raster", 18.65),
        (8, "dense", "raster", 20.09),
        (8, "ltr_rtl", "manhattan", 15.94),
        (8, "ltr_rtl", "raster", 17.47),
        (8, "strided_original", "manhattan", 16.64),
    ]
    assert all(row.attention.alignment == "rows" and row.attention.mode == "parallel" for row in PAPER_ROWS)


def test_unconfirmed_figures_carry_their_asterisk():
    assert PUBLISHED["sagan_8"].columns() == {"FID": "20.09*", "IS": "46.01"}
    assert PUBLISHED["ylg_strided"].columns() == {"FID": "16.64*", "IS": "55.21*"}
    assert PUBLISHED["ylg"].columns() == {"FID": "15.94", "IS": "57.22"}
    assert paper_columns("interlaced8") == {"paper FID": "-", "paper IS": "-"}


def sizes(preset: str = "digits") -> dict[str, tuple[int, int]]:
    setting = replace(SETTING, preset=PRESETS[preset])
    return {row.name: parameter_counts(Experiment(row, setting, 0).model()) for row in ROWS.values()}


def test_every_published_figure_and_every_contrast_has_its_rows():
    assert set(PUBLISHED) <= set(ROWS)
    assert {name for contrast in CONTRASTS for name in (contrast.row, contrast.other)} <= set(ROWS)
    assert all(row.dense_row in ROWS for row in ROWS.values())
    assert {ROWS[row.name].dense_row for row in EXTENDED_ROWS} == {"sagan", "sagan_biggan"}
    assert all(name == row.name for name, row in ROWS.items())
    assert len({row.title for row in ROWS.values()}) == len(ROWS)


def test_the_five_contrasts_are_those_that_were_fixed():
    assert [(contrast.row, contrast.other) for contrast in CONTRASTS] == [
        ("ylg_attending", "sagan_attending"),
        ("ylg_attending", "ylg_uniform"),
        ("ylg_attending", "ylg_no_esa_attending"),
        ("interlaced8", "ylg_attending"),
        ("sagan_attending", "no_attention"),
    ]
    for name in ("ylg_attending", "ylg_no_esa_attending", "ylg_uniform", "interlaced8"):
        assert ROWS[name].attention.alignment == "pool" and ROWS[name].attention.qk_norm


@pytest.mark.parametrize("name", list(ROWS))
def test_every_row_is_another_network_or_another_recipe(name):
    configs = {n: Experiment(row, SETTING, 0).config().identity() for n, row in ROWS.items()}
    same = [other for other in configs if other != name and configs[other] == configs[name]]
    assert not same


def test_the_masks_of_every_row_are_built_and_differ_from_the_paper_row_where_they_should():
    ylg = head_masks("ltr_rtl", (16, 16), (8, 8), 8, "manhattan", "rows")
    for row in ROWS.values():
        if row.attention is None or row.attention.num_heads != 8:
            continue
        a = row.attention
        masks = head_masks(a.pattern, (16, 16), (8, 8), a.num_heads, a.order, a.alignment)
        same = (masks == ylg).all().item()
        assert same == (row.name in ("ylg", "ylg_higher", "ylg_sequential", "ylg_biggan")), row.name


@pytest.mark.parametrize("name", ["sagan", "ylg", "ylg_attending", "interlaced8", "ylg_sequential", "ylg_higher"])
def test_counts_are_those_of_the_networks_that_are_built(name):
    run = Experiment(ROWS[name], SETTING, 0)
    trained = [dict(network.named_parameters()) for network in build_networks(run.config())]
    counted = [sum(p.numel() for n, p in part.items() if not n.endswith("log_temperature")) for part in trained]
    assert tuple(counted) == parameter_counts(run.model())


def test_rows_with_attention_have_equal_parameter_counts_but_for_temperatures():
    counts = sizes()
    equal = {name: size for name, size in counts.items() if ROWS[name].attention and ROWS[name].attention_scale == 1}
    assert len(set(equal.values())) == 1 and len(equal) > 20
    assert all(0.95 < a / b < 1 for a, b in zip(counts["no_attention"], counts["sagan"], strict=True))


@pytest.mark.parametrize("preset", ["digits", "cifar10-small"])
def test_the_dcgan_is_as_large_as_the_network_without_attention(preset):
    counts = sizes(preset)
    assert [a / b for a, b in zip(counts["dcgan"], counts["no_attention"], strict=True)] == pytest.approx([1, 1], 0.06)
    assert sum(counts["dcgan"]) == pytest.approx(sum(counts["no_attention"]), rel=0.03)


def test_a_command_that_names_the_papers_choices_is_the_papers_row():
    assert row_of(attention("ltr_rtl", "manhattan")) is ROWS["ylg"]
    assert row_of(attention("dense", "manhattan", 1)) is ROWS["sagan"]  # dense attention has no order
    assert row_of(attention("dense")) is ROWS["sagan_8"]
    assert row_of(attention("strided_original", "manhattan")) is ROWS["ylg_strided"]
    assert row_of(attention("strided", "manhattan")) is ROWS["ylg_strided_repaired"]
    assert row_of(attending("ltr_rtl")) is ROWS["ylg_attending"]


def test_any_other_combination_is_a_row_of_its_own_without_published_figures():
    row = row_of(attention("ltr", "hilbert", 4, alignment="tile"))
    assert row.name == "ltr_hilbert_4-heads_tile" and row.kind == "other"
    assert row_of(attention("ltr_rtl", "manhattan", mode="sequential", num_heads=4)).name.endswith("sequential")


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no row is called 'ylgg'; the rows are sagan, "):
        find_rows(["ylg", "ylgg"])
    with pytest.raises(ValueError, match=r"preset 'digit' is unknown; use one of digits, "):
        find_preset("digit")
    with pytest.raises(ValueError, match=r"recipe 'gan' is unknown; use one of paper, biggan"):
        find_preset("digits").recipe("gan")


def test_imagenet128_is_the_papers_setting():
    run = Experiment(ROWS["ylg"], Setting(PRESETS["imagenet128"], "paper", "imagenet", 1_500_000, ("inception",)), 0)
    config = run.config()
    assert config.recipe == RECIPES["paper"]
    assert (config.model.resolution, config.model.generator_width, config.model.num_classes) == (128, 64, 1000)
    assert config.model.generator_attention == config.model.discriminator_attention == (32,)


def test_a_preset_changes_of_a_recipe_only_what_it_says():
    recipe = PRESETS["digits"].recipe("biggan")
    assert recipe.betas == (0.0, 0.999) and not recipe.numerics.bounded_spectral_norm
    assert recipe.ema_start < PRESETS["digits"].steps


def test_one_resolution_higher_moves_attention_where_such_a_map_exists():
    model = Experiment(ROWS["ylg_higher"], SETTING, 0).model()
    assert (model.generator_attention, model.discriminator_attention) == ((32,), (16,))
    generator, discriminator = build_networks(Experiment(ROWS["ylg_higher"], SETTING, 0).config())
    assert list(generator.attention) == ["32"] and list(discriminator.attention) == ["16"]


def test_the_dcgan_has_plain_blocks_without_attention():
    generator, discriminator = build_networks(Experiment(ROWS["dcgan"], SETTING, 0).config())
    names = {type(module).__name__ for network in (generator, discriminator) for module in network.modules()}
    assert {"PlainGeneratorBlock", "PlainDiscriminatorBlock", "ConvTranspose2d"} <= names
    assert not names & {"GeneratorBlock", "DiscriminatorBlock", "SparseAttention2d"}


def test_a_preset_gives_heads_room_and_one_head_that_of_all_eight():
    made = {name: Experiment(ROWS[name], SETTING, 0).model().attention for name in ("sagan", "sagan_8", "ylg")}
    assert [made[name].head_dim_qk for name in made] == [32, 4, 4]
    assert [made[name].head_dim_v for name in made] == [32, 4, 4]
    published = replace(SETTING, preset=PRESETS["imagenet128"])
    assert Experiment(ROWS["ylg"], published, 0).model().attention.head_dim_qk is None


def test_every_row_of_the_paper_has_a_partner_that_differs_by_the_norm_and_the_alignment_alone():
    for row in PAPER_ROWS:
        partner = partner_of(row)
        same = replace(partner.attention, qk_norm=False, alignment=row.attention.alignment)
        assert same == row.attention and partner.attention.qk_norm
        assert partner.attention.alignment == ("rows" if row.attention.pattern == "dense" else "pool")
    assert partner_of(ROWS["no_attention"]) is None


def test_the_control_of_uniform_attention_differs_from_its_row_by_the_scale_alone():
    assert replace(ROWS["ylg_uniform"].attention, scale=1.0) == ROWS["ylg_attending"].attention


def test_a_result_averages_the_last_measurements():
    preset = replace(PRESETS["digits"], metrics_every=30, plateau=3)
    assert Setting(preset, "paper", "digits", 100, ()).measured == (60, 90, 100)
    assert Setting(preset, "paper", "digits", 20, ()).measured == (20,)
    assert Setting(replace(preset, metrics_every=0), "paper", "digits", 100, ()).measured == (100,)

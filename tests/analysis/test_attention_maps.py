"""Statistics of heads against slow definitions; the command writes maps that are the networks' own."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import attention_maps as command
from analysis.explorer import View
from analysis.head_statistics import head_statistics, relay_cells, told, without_attention
from analysis.inversion.targets import generated
from analysis.loading import load_model
from sagan_base.attention_health import MapHealth, Maps
from sagan_base.data import load_data
from sagan_base.network import attention_off
from ylg.heads import head_masks
from ylg.layer import SparseAttention2d


def layer(**options):
    torch.manual_seed(0)
    return SparseAttention2d(8, (8, 8), **options)


@torch.no_grad()
def statistics_of(attend, attention):
    maps = Maps(attend)
    maps.add(attention)
    return head_statistics(attend, maps)


def test_statistics_equal_their_definitions_in_loops():
    attend = layer(alignment="rows")
    _, attention = attend(torch.randn(2, 8, 8, 8), return_attention=True)
    statistics = statistics_of(attend, attention)
    # The 4x4 grid by Manhattan distance: positions 3, 7, 11, 15 end the blocks of 4.
    enumeration = sorted(range(16), key=lambda cell: (cell // 4 + cell % 4, cell))
    relays = {enumeration[position] for position in (3, 7, 11, 15)}
    assert set(relay_cells(attend, "ltr", (4, 4)).tolist()) == relays
    head, distances, shares = 5, [], []
    for image in range(2):
        for query in range(64):
            p = attention[image, head, query].tolist()
            row, col = (query // 8 + 0.5) / 2, (query % 8 + 0.5) / 2
            away = [math.hypot(key // 4 + 0.5 - row, key % 4 + 0.5 - col) for key in range(16)]
            distances.append(sum(x * d for x, d in zip(p, away, strict=True)))
            shares.append(sum(p[key] for key in relays))
    row = statistics.iloc[head]
    assert row["pattern"] == "ltr step 2"
    assert row["distance"] == pytest.approx(np.mean(distances), rel=1e-5)
    assert row["on relays"] == pytest.approx(np.mean(shares), rel=1e-5)
    maps = Maps(attend.requires_grad_(False))
    maps.add(attention.detach())
    assert (row["entropy"], row["variation"], row["between"]) == tuple(
        values[head] for values in (maps.health().entropy, maps.health().variation, maps.health().between)
    )


def test_relays_of_ltr_are_the_ends_of_its_blocks_along_the_order():
    cells = relay_cells(layer(order="raster"), "ltr", (4, 4))
    assert cells.tolist() == [3, 7, 11, 15]
    assert relay_cells(layer(order="raster"), "rtl", (4, 4)).tolist() == [0, 4, 8, 12]
    assert relay_cells(layer(), "dense", (4, 4)) is None


def test_uniform_attention_has_the_uniform_distance_and_no_relays_where_all_keys_are_allowed():
    statistics = statistics_of(layer(pattern="dense", num_heads=2), torch.full((1, 2, 64, 16), 1 / 16))
    assert statistics["distance"].tolist() == pytest.approx(statistics["uniform distance"].tolist())
    assert statistics["on relays"].isna().all()


@pytest.mark.parametrize(("options", "relays"), [({"alignment": "rows"}, [3, 7, 11, 15]), ({"stride": 8}, [7, 15])])
def test_uniform_attention_is_that_over_the_allowed_keys_of_each_query(options, relays):
    attend = layer(order="raster", **options)
    assert relay_cells(attend, "ltr", (4, 4)).tolist() == relays
    masks = head_masks("ltr_rtl", (8, 8), (4, 4), 8, "raster", attend.alignment, stride=attend.stride).numpy()
    statistics = statistics_of(attend, torch.full((1, 8, 64, 16), 1 / 16))
    for head in (4, 5, 6, 7):  # ltr
        shares = masks[head][:, relays].sum(1) / masks[head].sum(1)
        assert statistics["uniform on relays"][head] == pytest.approx(shares.mean())
        assert statistics["on relays"][head] == pytest.approx(len(relays) / 16)


def test_a_line_about_a_head_tells_its_health_and_calls_it_uniform_below_a_twentieth():
    health = MapHealth((0.98, 0.5), (0.049, 0.05), (0.011, 0.5))
    assert told(health, 0) == "entropy 98%, 0.05 from uniform (uniform), 1% of it between images"
    assert told(health, 1) == "entropy 50%, 0.05 from uniform, 50% of it between images"


def test_with_attention_off_a_network_is_as_if_its_gains_were_0_and_gets_them_back(checkpoint):
    generator = load_model(checkpoint=checkpoint).generator
    z, labels = torch.randn(2, 8), torch.tensor([1, 2])
    with torch.no_grad():
        before = generator(z, labels)
        with attention_off(generator):
            inside = generator(z, labels)
        after = generator(z, labels)
    assert torch.equal(before, after)
    assert (before - inside).abs().max() > 1e-4
    assert [p.gain.item() for p in generator.attention_layers().values()] == [0.5]


def test_the_comparison_is_0_where_the_gains_are_0(checkpoint):
    model = load_model(checkpoint=checkpoint)
    z, labels = torch.randn(3, 8), torch.tensor([0, 1, 2])
    *_, numbers = without_attention(model.generator, model.discriminator, z, labels)
    assert numbers["mean pixel difference without the generator's attention"] > 0
    assert numbers["generator gains"] == {"attention.8": 0.5}
    for network in (model.generator, model.discriminator):
        torch.nn.init.zeros_(network.attention_layers()["attention.8"].gain)
    images, off, numbers = without_attention(model.generator, model.discriminator, z, labels)
    assert torch.equal(images, off)
    assert numbers["mean pixel difference without the generator's attention"] == 0
    assert numbers["PSNR between with and without (dB)"] == 99.0
    assert numbers["mean logit"] == numbers["mean logit without the discriminator's attention"]


def test_the_comparison_is_by_each_networks_own_attention_on_the_images_with_it(checkpoint):
    model, bare = load_model(checkpoint=checkpoint), load_model(checkpoint=checkpoint)
    for network in (bare.generator, bare.discriminator):
        torch.nn.init.zeros_(network.attention_layers()["attention.8"].gain)
    z, labels = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    *_, numbers = without_attention(model.generator, model.discriminator, z, labels)
    with torch.no_grad():
        images, off = model.generator(z, labels), bare.generator(z, labels)
        logits, logits_off = model.discriminator(images, labels), bare.discriminator(images, labels)
    difference = (images.double() / 2 - off.double() / 2).abs().mean().item()
    assert numbers["mean pixel difference without the generator's attention"] == pytest.approx(difference, rel=1e-4)
    assert numbers["mean logit"] == pytest.approx(logits.mean().item(), rel=1e-5)
    assert numbers["mean logit without the discriminator's attention"] == pytest.approx(
        logits_off.mean().item(), rel=1e-5
    )
    assert numbers["mean logit"] != pytest.approx(logits_off.mean().item(), rel=1e-5)


# ---- attention_maps.png ----


def brightest_cell(panel):
    """(row, column) of the 4x4 key cells."""
    means = np.asarray(panel, dtype=float).reshape(4, 28, 4, 28, 3).mean((1, 3, 4))
    return np.unravel_index(means.argmax(), means.shape)


def marked_cell(panel):
    """(row, column) of the 8x8 queries whose outline is drawn."""
    rows, cols = np.nonzero((np.asarray(panel) == (86, 180, 233)).all(-1))
    return round(rows.min() / 14), round(cols.min() / 14)


def panel_of(sheet, column, line, columns=2):
    left = sheet.width - (columns - column) * (112 + 8)
    below = (sheet.height - 8) // 2  # of the first of two rows
    top = below * (line + 1) - 112
    return sheet.crop((left, top, left + 112, top + 112))


def test_the_picture_shows_the_mean_over_queries_and_the_row_of_the_one_that_is_marked():
    attention = torch.zeros(1, 64, 16)
    attention[0, :, [5, 12, 9]] = torch.tensor([0.60, 0.35, 0.05])
    attention[0, 1 * 8 + 6] = torch.eye(16)[9]  # one query looks at the cell (2, 1) only
    attend = layer(pattern="dense", num_heads=1, alignment="rows")
    view = View("D", attend, torch.zeros(1, 16, 16), attention)
    sheet = command.picture_of([view], [1, 6])
    assert brightest_cell(panel_of(sheet, 1, 0)) == (1, 1)
    assert brightest_cell(panel_of(sheet, 1, 1)) == (2, 1)
    assert marked_cell(panel_of(sheet, 0, 1)) == marked_cell(panel_of(sheet, 1, 1)) == (1, 6)
    assert brightest_cell(panel_of(command.picture_of([view], [6, 1]), 1, 1)) == (1, 1)


def test_class_seed_and_query_are_those_asked_for(checkpoint, tmp_path, monkeypatch):
    shown, counted = [], []
    generator_views = command.generator_views
    monkeypatch.setattr(command, "generator_views", lambda *given: shown.append(given[1:3]) or generator_views(*given))
    watch = command.watch
    monkeypatch.setattr(command, "watch", lambda net, batches: watch(net, counted.append(list(batches)) or counted[-1]))
    asked = ["--generated", "2", "--class", "4", "--seed", "3", "--query", "1", "6"]
    command.main([*asked, "--checkpoint", str(checkpoint), "--out", str(tmp_path)])
    model = load_model(checkpoint=checkpoint)
    drawn = list(generated(model, 64, 3, 4))
    for (z, label), target in zip(shown, drawn[:2], strict=True):
        assert torch.equal(z, target.latent)
        assert label == 4
    with Image.open(tmp_path / "attention_maps.png") as sheet:
        assert marked_cell(panel_of(sheet.convert("RGB"), 0, 1, columns=9)) == (1, 6)
    z, labels = (torch.cat(parts) for parts in zip(*counted[0], strict=True))
    assert torch.equal(z[:64], torch.stack([target.latent for target in drawn])) and set(labels.tolist()) == {4}
    real = torch.cat([images for images, _ in counted[1]])
    assert len(z) == len(real) == 512
    assert torch.equal(real[0], load_data("digits", 16).batch(torch.tensor([0]))[0][0])


def test_the_command_writes_page_pictures_maps_and_statistics(checkpoint, tmp_path, capsys):
    Image.new("RGB", (20, 14), (10, 200, 30)).save(tmp_path / "green.png")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "green.png"), "--generated", "1", "--held-out", "1", "--checkpoint", str(checkpoint)]
    assert command.main([*arguments, "--query", "1", "6", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        "attention_maps.html", "attention_maps.png", "attention_off.png", "attention_maps.npz", "head_statistics.json",
    }  # fmt: skip
    stored = np.load(out / "attention_maps.npz")
    names = [str(stored[f"{i}_name"]) for i in range(4)]
    shown = ("Discriminator · green", "Discriminator · digits_test_00001", "Generator · generated_000")
    assert names == [*shown, "Discriminator · generated_000"]
    model = load_model(checkpoint=checkpoint)
    with torch.no_grad():
        for index in (0, 1, 3):
            _, expected = model.discriminator.attention_features(torch.from_numpy(stored[f"{index}_image"])[None])
            torch.testing.assert_close(torch.from_numpy(stored[f"{index}_attention"]), expected[0])
    record = json.loads((out / "head_statistics.json").read_text())
    rows = record["heads"]["discriminator on real images of digits at 8x8"]
    assert len(rows) == len(record["heads"]["generator at 8x8"]) == 8
    page = (out / "attention_maps.html").read_text()
    health = MapHealth(*(tuple(row[name] for row in rows) for name in ("entropy", "variation", "between")))
    assert page.count(f'"health":"{told(health, 3)}"') >= 3  # under each map of the discriminator
    said = capsys.readouterr().out
    assert re.search("generator gains +0.5000 at 8x8", said)
    with Image.open(out / "attention_maps.png") as sheet:
        assert sheet.height > 4 * 2 * 112


def test_the_page_shows_the_stored_maps(checkpoint, tmp_path, chromium):
    command.main(["--generated", "1", "--checkpoint", str(checkpoint), "--out", str(tmp_path)])
    chromium.open(tmp_path / "attention_maps.html")
    stored = np.load(tmp_path / "attention_maps.npz")
    chromium.run("explorer.setView(1); explorer.setQuery(13)")
    assert np.array_equal(np.float32(chromium.run("return explorer.current()")), stored["1_attention"][:, 13])
    assert "entropy" in chromium.run("return document.body.innerText")
    assert chromium.messages() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--query", "8", "0"], "--query 8 0 is outside the 8x8 grid"),
        (["--generated", "13"], "13 images to show; choose 1 to 12"),
        (["--generated", "0"], "0 images to show"),
        (["absent.png"], "absent.png does not exist"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(checkpoint, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        command.main([*arguments, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1

"""Statistics of heads against slow definitions; the command writes maps that are the networks' own."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import attention_maps as command
from analysis.head_statistics import head_statistics, relay_cells, without_attention
from analysis.loading import load_model
from sagan_base.network import attention_off
from ylg.layer import SparseAttention2d


def layer(**options):
    torch.manual_seed(0)
    return SparseAttention2d(8, (8, 8), **options)


def test_statistics_equal_their_definitions_in_loops():
    attend = layer(alignment="rows")
    _, attention = attend(torch.randn(2, 8, 8, 8), return_attention=True)
    attention = attention.detach()
    statistics = head_statistics(attend, attention)
    # The 4x4 grid by Manhattan distance: positions 3, 7, 11, 15 end the blocks of 4.
    enumeration = sorted(range(16), key=lambda cell: (cell // 4 + cell % 4, cell))
    relays = {enumeration[position] for position in (3, 7, 11, 15)}
    assert set(relay_cells(attend, "ltr", (4, 4)).tolist()) == relays
    head, entropies, distances, shares = 5, [], [], []
    for image in range(2):
        for query in range(64):
            p = attention[image, head, query].tolist()
            entropies.append(-sum(x * math.log2(x) for x in p if x > 0))
            row, col = (query // 8 + 0.5) / 2, (query % 8 + 0.5) / 2
            away = [math.hypot(key // 4 + 0.5 - row, key % 4 + 0.5 - col) for key in range(16)]
            distances.append(sum(x * d for x, d in zip(p, away, strict=True)))
            shares.append(sum(p[key] for key in relays))
    assert statistics[head]["pattern"] == "ltr step 2"
    assert statistics[head]["entropy"] == pytest.approx(np.mean(entropies), rel=1e-5)
    assert statistics[head]["distance"] == pytest.approx(np.mean(distances), rel=1e-5)
    assert statistics[head]["on relays"] == pytest.approx(np.mean(shares), rel=1e-5)


def test_relays_of_ltr_are_the_ends_of_its_blocks_along_the_order():
    cells = relay_cells(layer(order="raster"), "ltr", (4, 4))
    assert cells.tolist() == [3, 7, 11, 15]
    assert relay_cells(layer(order="raster"), "rtl", (4, 4)).tolist() == [0, 4, 8, 12]
    assert relay_cells(layer(), "dense", (4, 4)) is None


def test_uniform_attention_has_the_most_entropy_and_the_uniform_distance():
    attend = layer(pattern="dense", num_heads=2)
    statistics = head_statistics(attend, torch.full((1, 2, 64, 16), 1 / 16))
    for row in statistics:
        assert row["entropy"] == pytest.approx(4.0)
        assert row["most entropy"] == pytest.approx(4.0)
        assert row["distance"] == pytest.approx(row["uniform distance"])
        assert row["on relays"] is None


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


def test_the_command_writes_page_pictures_maps_and_statistics(checkpoint, tmp_path, capsys):
    Image.new("RGB", (20, 14), (10, 200, 30)).save(tmp_path / "green.png")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "green.png"), "--generated", "1", "--held-out", "1", "--checkpoint", str(checkpoint)]
    assert command.main([*arguments, "--query", "1", "6", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        "attention_maps.html", "attention_maps.png", "attention_off.png", "attention_maps.npz", "head_statistics.csv",
        "head_statistics.json",
    }  # fmt: skip
    stored = np.load(out / "attention_maps.npz")
    names = [str(stored[f"{i}_name"]) for i in range(4)]
    assert names == ["D · green", "D · digits_test_00001", "G · generated_000", "D · generated_000"]
    model = load_model(checkpoint=checkpoint)
    with torch.no_grad():
        for index in (0, 1, 3):
            _, expected = model.discriminator.attention_features(torch.from_numpy(stored[f"{index}_image"])[None])
            torch.testing.assert_close(torch.from_numpy(stored[f"{index}_attention"]), expected[0])
    record = json.loads((out / "head_statistics.json").read_text())
    with (out / "head_statistics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert record["heads"]["generator at 8x8"][3]["entropy"] == pytest.approx(float(rows[3]["entropy"]))
    said = capsys.readouterr().out
    assert "generator gains: attention.8 0.5000" in said
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

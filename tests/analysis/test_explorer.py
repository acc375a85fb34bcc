"""The page shows the very probabilities: in a real browser, pointer and keys lead to the right query and maps."""

import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import explorer
from analysis.explorer import Curve, Page, View, discriminator_views, generator_views, render, write_page
from sagan_base.discriminator import Discriminator
from sagan_base.generator import Generator
from ylg import SparseAttention2d, head_masks


def view(name="Generator", pattern="ltr_rtl", side=16, alignment="rows", seed=0, heads=8, resolution=32):
    random = torch.Generator().manual_seed(seed)
    layer = SparseAttention2d(8, (side, side), pattern, heads, alignment=alignment)
    allowed = head_masks(pattern, (side, side), (side // 2, side // 2), heads, "manhattan", alignment)
    attention = torch.rand(allowed.shape, generator=random).masked_fill(~allowed, 0)
    attention = attention / attention.sum(-1, keepdim=True)
    return View(name, layer, torch.rand(3, resolution, resolution, generator=random) * 2 - 1, attention)


def full_page(views, side=32):
    frames = [(step, torch.full((3, side, side), 10 * step, dtype=torch.uint8)) for step in range(5)]
    curve = Curve("loss", np.linspace(3, 1, 1801)[:, None].repeat(3, 1), 1)
    table = {"numbers": pd.DataFrame({"": ["z alone", "none"], "PSNR": [12.5, None]})}
    return Page(
        "A <page> & \"its\" </script> title", "subtitle", ["a note"], ["a warning"],
        [("real", Image.new("L", (side, side)))], table, frames, [curve], views, table, {"seed": 0},
    )  # fmt: skip


VIEWS = [view(), view("Discriminator", "dense", 8, "pool", 1, 2)]


@pytest.fixture
def shown(chromium, tmp_path):
    write_page(full_page(VIEWS), tmp_path / "page.html")
    chromium.open(tmp_path / "page.html")
    yield chromium
    assert chromium.messages() == []  # nothing was fetched that is not there, no script failed


def assert_shows(chromium, expected: View, query: int) -> None:
    heads = chromium.run("return explorer.current()")
    assert len(heads) == len(expected.uniform)
    assert np.array_equal(np.float32(heads), expected.attention[:, query].numpy())


def box(chromium, selector):
    return chromium.run(
        "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'});"
        "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]",
        selector,
    )


@pytest.mark.parametrize(("row", "col"), [(0, 0), (3, 12), (15, 15)])
@pytest.mark.parametrize("selector", ["#stage", "#heads button:nth-child(3) canvas"])
def test_pointing_at_a_cell_shows_that_querys_probabilities_to_the_last_bit(shown, selector, row, col):
    left, top, width, height = box(shown, selector)
    shown.point(left + (col + 0.5) / 16 * width, top + (row + 0.5) / 16 * height)
    assert shown.run("return explorer.state.query") == row * 16 + col
    assert_shows(shown, VIEWS[0], row * 16 + col)
    assert f"Query ({row}, {col})" in shown.run("return document.getElementById('reading').textContent")


def test_the_brightest_cell_of_a_heads_picture_is_its_most_attended_key(chromium, tmp_path):
    plain = replace(VIEWS[0], image=torch.zeros(3, 32, 32))
    write_page(full_page([plain]), tmp_path / "page.html")
    chromium.open(tmp_path / "page.html")
    chromium.run("['outline', 'against'].forEach(id => document.getElementById(id).click()); explorer.setQuery(37)")
    script = """
      const canvas = document.querySelectorAll('#heads canvas')[arguments[0]], n = 8, cell = canvas.width / n;
      const data = canvas.getContext('2d'), out = [];
      for (let k = 0; k < n * n; k++) {
        const p = data.getImageData((k % n + .8) * cell, (Math.floor(k / n) + .8) * cell, 1, 1).data;
        out.push(p[0] + p[1] + p[2]);
      }
      return out;"""
    for head in (0, 1, 4, 5):
        probabilities = VIEWS[0].attention[head, 37]
        brightness = torch.tensor(chromium.run(script, head))
        assert brightness.argmax() == probabilities.argmax()
        assert brightness[probabilities > 0].float().mean() > 1.5 * brightness[probabilities == 0].float().mean()


def test_colours_compare_with_uniform_attention_and_uniform_attention_has_none(chromium, tmp_path):
    flat = [replace(VIEWS[0], image=torch.zeros(3, 32, 32), attention=VIEWS[0].uniform)]
    one = flat[0].attention.clone()
    query, keys = 37, torch.nonzero(one[1, 37]).flatten()
    one[1, query, keys[0]] *= 2
    one[1, query, keys[1]] /= 2
    write_page(full_page([*flat, replace(flat[0], attention=one)]), tmp_path / "page.html")
    chromium.open(tmp_path / "page.html")
    chromium.run("document.getElementById('outline').click()")
    script = """
      explorer.setView(arguments[0]); explorer.setQuery(arguments[1]);
      const canvas = document.querySelectorAll('#heads canvas')[1], w = canvas.width / 8;
      return arguments[2].map(k => Array.from(canvas.getContext('2d').getImageData(
        (k % 8 + .8) * w, (Math.floor(k / 8) + .8) * w, 1, 1).data.slice(0, 3)));"""
    shown = [*keys[:3].tolist(), int(torch.nonzero(one[1, query] == 0)[0])]
    plain = chromium.run(script, 0, query, shown)
    assert all(colour == plain[0] for colour in plain)
    more, less, uniform, masked = chromium.run(script, 1, query, shown)
    assert uniform == masked == plain[0]
    assert more[0] > more[2] and less[2] > less[0]  # orange, blue
    assert "100.0% of the largest entropy" in chromium.run("return document.getElementById('heads').textContent")
    assert chromium.messages() == []


def test_arrow_keys_move_the_query_and_stop_at_the_border(shown):
    shown.run("explorer.setQuery(17); document.getElementById('stage').focus()")
    shown.press("ArrowRight", "ArrowDown", "ArrowDown")
    assert_shows(shown, VIEWS[0], 17 + 1 + 32)
    shown.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp")
    assert_shows(shown, VIEWS[0], 0)


def test_keys_choose_the_head_shown_large_and_the_view(shown):
    shown.run("document.getElementById('stage').focus()")
    shown.press("5")
    assert shown.run("return explorer.state.head") == 5
    assert "head 5" in shown.run("return document.getElementById('reading').textContent")
    shown.press("a", "v")
    assert shown.run("return [explorer.state.head, explorer.state.view]") == [None, 1]
    shown.press("ArrowLeft")
    assert_shows(shown, VIEWS[1], 4 * 8 + 3)  # another grid: it begins in the middle
    assert shown.run("return document.getElementById('layer').textContent") == VIEWS[1].text
    shown.press("v")
    assert shown.run("return explorer.state.view") == 0


def test_a_click_holds_the_query_until_escape(shown):
    left, top, width, height = box(shown, "#stage")
    shown.point(left + 0.5 / 16 * width, top + 0.5 / 16 * height, click=True)
    shown.point(left + 8.5 / 16 * width, top + 8.5 / 16 * height)
    assert shown.run("return explorer.state.query") == 0
    shown.press("Escape")
    shown.point(left + 4.5 / 16 * width, top + 2.5 / 16 * height)
    assert shown.run("return explorer.state.query") == 36


def test_every_control_can_be_reached_by_the_tab_key(shown):
    names = shown.run(
        "return [...document.querySelectorAll('button, input, canvas[tabindex]')].filter(e => e.tabIndex >= 0)"
        ".map(e => e.getAttribute('aria-label') || e.textContent || e.id)"
    )
    assert "Generator" in names
    assert any("Arrow keys" in name for name in names)
    assert sum(" step " in name for name in names) == 8


def test_the_page_says_which_mask_row_the_alignment_uses_and_shows_everything_it_was_given(shown):
    shown.run("explorer.setQuery(70)")
    assert "“rows”: it uses the mask row of key cell (0, 6) of 8×8" in shown.run(
        "return document.getElementById('reading').textContent"
    )
    assert shown.run("return document.title") == 'A <page> & "its" </script> title'
    text = shown.run("return document.body.innerText")
    for part in ("subtitle", "a note", "a warning", "z alone", "12.5", "step 5 of 5", "ltr step 2", "loss"):
        assert part in text
    assert shown.run("return document.querySelectorAll('polyline').length") == 3
    ticks = shown.run("return [...document.querySelectorAll('svg text')].map(t => t.textContent)")
    assert {"0", "500", "1500", "step"} <= set(ticks)  # a value every 4 steps
    assert shown.run("return document.documentElement.scrollWidth <= innerWidth")


def test_the_animation_plays_to_its_last_frame(shown):
    shown.run("const s = document.querySelector('input[type=range]'); s.value = 2; s.oninput()")
    grey = "return document.querySelector('#pictures canvas').getContext('2d').getImageData(3, 3, 1, 1).data[0]"
    assert shown.run(grey) == 20
    assert "step 3 of 5" in shown.run("return document.getElementById('pictures').innerText")
    shown.run("[...document.querySelectorAll('button')].find(b => b.textContent === 'Play').click()")
    deadline = time.monotonic() + 20
    while shown.run(grey) != 40:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_large_pages_hold_float16_and_say_so(chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "FULL_PRECISION_BYTES", 1000)
    write_page(full_page(VIEWS), tmp_path / "page.html")
    chromium.open(tmp_path / "page.html")
    chromium.run("explorer.setQuery(99)")
    heads = np.float32(chromium.run("return explorer.current()"))
    assert np.array_equal(heads, VIEWS[0].attention[:, 99].numpy().astype(np.float16).astype(np.float32))
    assert "rounded to float16" in chromium.run("return document.body.innerText")


def test_a_page_without_attention_or_pictures_still_opens(chromium, tmp_path):
    text = render(Page("only a title"))
    (tmp_path / "page.html").write_text(text)
    chromium._call("POST", "/url", {"url": (tmp_path / "page.html").as_uri()})
    assert chromium.run("return document.querySelector('h1').textContent") == "only a title"
    assert chromium.run("return document.getElementById('stage')") is None
    assert chromium.messages() == []


def test_a_page_refers_to_nothing_outside_itself():
    text = render(full_page(VIEWS))
    addresses = set(re.findall(r"https?://[^\"'\s<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address: nothing is fetched from it
    assert not re.search(r"<(link|script|img|iframe)[^>]*(src|href)=[\"'](?!data:)", text)
    assert text.count("</script>") == 2


@pytest.mark.parametrize(("side", "resolution", "limit"), [(16, 32, 5e6), (32, 128, 20e6)])
@pytest.mark.parametrize("pattern", ["ltr_rtl", "dense"])
def test_pages_stay_small_even_for_dense_attention(side, resolution, limit, pattern):
    views = [view(name, pattern, side, "pool", i, 8, resolution) for i, name in enumerate("abc")]
    page = full_page(views, resolution)
    page.frames = [(i, torch.randint(0, 256, (3, resolution, resolution), dtype=torch.uint8)) for i in range(24)]
    assert len(render(page).encode()) < limit


def test_equal_masks_are_stored_once():
    page = render(full_page([view(), view(seed=1)]))
    data = page.split('type="application/json">')[1].split("</script>")[0]
    assert data.count('"indptr"') == 4  # two steps each of rtl and ltr, shared by heads and views


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_views_of_networks_hold_their_attention_and_their_masks(mode):
    torch.manual_seed(0)
    options = dict(resolution=32, image_channels=1, num_classes=3, latent_dim=8, generator_width=8, mode=mode,
                   discriminator_width=8, generator_attention=(8, 16), discriminator_attention=(16,))  # fmt: skip
    generator, discriminator = Generator(**options).eval(), Discriminator(**options).eval()
    z = torch.randn(8)
    views = generator_views(generator, z, 2)
    assert [v.name for v in views] == ["Generator, 8×8", "Generator, 16×16"]
    with torch.no_grad():
        image, maps = generator(z[None], torch.tensor([2]), return_attention=True)
        _, attention = discriminator.attention_features(image)
    views += discriminator_views(discriminator, image[0], weighs=(1,))
    for seen, expected in zip(views, (*maps, attention), strict=True):
        assert torch.equal(seen.attention, expected[0])
        assert torch.equal(seen.image, image[0])
        assert (seen.attention[seen.uniform == 0] == 0).all()
    assert views[2].weighs == (1,)
    assert "zero: this layer changes nothing" in views[2].text


def test_the_heads_that_weigh_are_marked_in_the_first_layer_only():
    options = dict(resolution=32, image_channels=1, num_classes=3, latent_dim=8, generator_width=8)
    discriminator = Discriminator(**options, discriminator_width=8, discriminator_attention=(8, 16)).eval()
    views = discriminator_views(discriminator, torch.zeros(1, 32, 32), weighs=(1, 2))
    first = next(iter(discriminator.attention_layers().values()))
    assert [view.weighs for view in views] == [(1, 2), ()]
    assert views[0].layer is first

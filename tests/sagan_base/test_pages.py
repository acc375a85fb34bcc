"""What all pages share: nothing is taken for markup, nothing missing goes unnoticed, tables are reached by keyboard."""

import re
import sys

import pandas as pd
import pytest
from jinja2 import UndefinedError

from sagan_base.pages import data_uri, render

TEMPLATE = """{% extends "base.html" %}
{% from "parts.html" import table %}
{% block content %}
<p>{{ words }}</p>
{{ table(frame, "Our figures", {"verdict": {"lower": "yes"}}) }}
{% endblock %}
{% block script %}<script>const data = {{ data | tojson }};</script>{% endblock %}
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """An importable package with one template."""
    folder = tmp_path / "showing"
    (folder / "templates").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "templates" / "page.html").write_text(TEMPLATE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "showing"
    sys.modules.pop("showing", None)


@pytest.fixture
def values() -> dict:
    frame = pd.DataFrame({"row": ["<b>", "x"], "n": [1, 2000], "verdict": ["lower", "higher"]})
    return {"title": "<i>T</i>", "words": "a & <script>", "frame": frame, "data": {"z": "</script>", "a": 1}}


def test_values_are_escaped_wherever_they_stand(package, values):
    page = render(package, "page.html", **values)
    assert "<title>&lt;i&gt;T&lt;/i&gt;</title>" in page and "<p>a &amp; &lt;script&gt;</p>" in page
    assert page.count("</script>") == page.count("<script>") == 1
    assert '<th scope="row">&lt;b&gt;</th>' in page
    assert '{"z":"\\u003c/script\\u003e","a":1}' in page  # compact, in the order given


def test_a_value_that_nobody_gave_is_an_error(package, values):
    values.pop("words")
    with pytest.raises(UndefinedError, match="words"):
        render(package, "page.html", **values)


def test_a_table_scrolls_in_a_box_that_takes_the_keyboards_focus_and_names_its_cells(package, values):
    page = render(package, "page.html", **values)
    assert '<div class="scroll" tabindex="0" role="region" aria-label="Our figures">' in page
    assert '<td class="number">2,000</td>' in page and '<th scope="col" class="number">n</th>' in page
    assert '<td class="yes">lower</td>' in page and "<td>higher</td>" in page


def test_a_page_needs_nothing_from_elsewhere_and_serves_light_dark_print_and_small_screens(package, values):
    page = render(package, "page.html", **values)
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", page)
    assert "prefers-color-scheme: dark" in page and "@media print" in page and "width=device-width" in page


def test_a_picture_is_part_of_the_page():
    assert data_uri(b"abc") == "data:image/png;base64,YWJj"
    assert data_uri(b"<svg/>", "image/svg+xml").startswith("data:image/svg+xml;base64,")

"""Pages and other texts from templates: HTML that needs no network and no file beside it, Markdown, scripts.

templates/base.html is what all pages share: light and dark, print, small screens. A page's own template lies in
``templates/`` of its package and begins with ``{% extends "base.html" %}``; parts.html holds what pages draw alike. In
HTML all values are escaped; a name that a template asks for and nobody gave is an error everywhere, and data for a
script goes through the filter ``tojson``.
"""

import base64
from typing import Any

import pandas as pd
from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from sagan_base.tables import cell, markdown, right_aligned


def render(package: str, template: str, **values: Any) -> str:
    """A page or another text from a package's template.

    Args:
        package: importable name of the package whose ``templates/`` holds ``template``, such as "ablations".
        values: what the template shows; of a page ``title`` always.
    Raises:
        jinja2.UndefinedError: the template needs a value that was not given.
    """
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("sagan_base")])
    return environment(loader).get_template(template).render(**values) + "\n"


def environment(loader: BaseLoader) -> Environment:
    """What templates can use: ``cell``, ``markdown`` and ``table``, which makes a Markdown table of rows."""
    made = Environment(
        loader=loader, autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "cell": cell,
        "markdown": markdown,
        "table": lambda rows, columns: markdown(pd.DataFrame(rows, columns=columns)),
    }
    made.globals["right_aligned"] = right_aligned
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return made


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A picture inside the page: what ``src`` takes in place of an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

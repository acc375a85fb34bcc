"""Pages: HTML that needs no network and no file beside it, made from the templates of the package that shows something.

templates/base.html is what all pages share: light and dark, print, small screens. A page's own template lies in
``templates/`` of its package and begins with ``{% extends "base.html" %}``; parts.html holds what pages draw alike. All
values are escaped, a name that a template asks for and nobody gave is an error, and data for a script goes through the
filter ``tojson``.
"""

import base64
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from sagan_base.tables import cell, right_aligned


def render(package: str, template: str, **values: Any) -> str:
    """A page from a package's template.

    Args:
        package: importable name of the package whose ``templates/`` holds ``template``, such as "ablations".
        values: what the template shows; ``title`` always.
    Raises:
        jinja2.UndefinedError: the template needs a value that was not given.
    """
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("sagan_base")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = cell
    environment.globals["right_aligned"] = right_aligned
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template(template).render(**values) + "\n"


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A picture inside the page: what ``src`` takes in place of an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

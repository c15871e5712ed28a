"""The template engine: everything is escaped, and an undefined name is an error."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from icekeeper.pages import views
from icekeeper.pages.filters import FILTERS


def environment() -> Environment:
    """The templates with their filters, loaded."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters.update(FILTERS, by_table=views.by_table)
    # All at once, because a package upgraded under a running daemon brings templates for newer code.
    for name in templates.list_templates():
        templates.get_template(name)
    return templates

"""Pages for a browser, each one file made from a template of equisep/templates."""

from pathlib import Path
from typing import Any

import jinja2

from equisep.config import not_writable
from equisep.files import write_atomically


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write a page, whole or not at all, and return its path; raises ConfigError where it cannot be written.

    template: its file name. values: of its variables; text is escaped.
    """
    loader = jinja2.PackageLoader("equisep", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.get_template(template).render(**values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())
    except OSError as error:
        raise not_writable(path.parent, error) from None
    return path

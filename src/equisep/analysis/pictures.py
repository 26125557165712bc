"""Pictures for a page: figures as SVG in the page itself, whose points name their networks, and thumbnails."""

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

from equisep.config import ConfigError

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
THUMBNAIL_WIDTH = 300  # pixels
# What a group shows, as equisep.plots.tag stores it in its name: look, points per network, networks.
TAG = re.compile(r"([^;]*);(\d+);(.*)")


def inline_svg(path: Path, label: str) -> str:
    """Return a figure's SVG for a page, without what only a file of its own needs; '' if there is none.

    Groups that :func:`equisep.plots.tag` named get the attributes data-look, data-each and data-runs. label: its text
    for those who do not see it. Raises ConfigError for a file that cannot be read.
    """
    if not path.exists():
        return ""
    ElementTree.register_namespace("", SVG)
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise ConfigError(f"{path} cannot be read ({error}): remove it and draw it again") from None
    text = path.read_text()
    referenced = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
    kept = {name for pair in referenced for name in pair if name}
    for parent in root.iter():
        for child in list(parent):
            if child.tag.removeprefix(f"{{{SVG}}}") in ("metadata", "script", "style", "title", "foreignObject"):
                parent.remove(child)
        for name in [name for name in parent.attrib if name.startswith("on")]:
            del parent.attrib[name]
        target = parent.attrib.pop(f"{{{XLINK}}}href", None)
        if target is not None and target.startswith(("#", "data:image/png;base64,")):
            parent.set("href", target)
        identity = parent.get("id", "")
        if identity and identity not in kept:
            del parent.attrib["id"]
        if match := TAG.fullmatch(identity):
            look, each, runs = match.groups()
            parent.set("data-look", look)
            if runs:
                parent.set("data-each", each)
                parent.set("data-runs", runs)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def png_uri(path: Path) -> str:
    """Return a PNG file as a data URI; '' if there is none."""
    return _as_uri(path.read_bytes()) if path.exists() else ""


def thumbnail_uri(path: Path) -> str:
    """Return a small copy of a PNG file as a data URI, '' if there is none; raises ConfigError for another file."""
    # It takes a while to load.
    from PIL import Image

    if not path.exists():
        return ""
    try:
        with Image.open(path) as image:
            height = round(image.height * THUMBNAIL_WIDTH / image.width)
            small = image.convert("RGB").resize((THUMBNAIL_WIDTH, height), Image.Resampling.LANCZOS).quantize(24)
    except OSError:
        raise ConfigError(f"{path} is no picture: remove it and draw it again") from None
    stream = io.BytesIO()
    small.save(stream, "PNG", optimize=True)
    return _as_uri(stream.getvalue())


def _as_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"

"""Pages from templates: everything inside one file, every text escaped, no request leaves it.

All pages share ``document.html`` (head, policy, footer), ``document.css`` and ``parts.html``. A
page that needs a script carries one, and its content-security policy names that script's hash:
nothing else can run, whatever a file name holds.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

import comics
from comics.inference.draw import COLOURS, UNCLEAR
from comics.structures import FAKE, REAL

OWN_PACKAGE = "comics.pages"
# Styles are inline: matplotlib's SVG carries style attributes, which no hash can name
POLICY = {
    "default-src": "'none'",
    "img-src": "data:",
    "style-src": "'unsafe-inline'",
    "base-uri": "'none'",
    "form-action": "'none'",
}
VERDICTS = {
    "no_face_found": "No face found",
    "no_forgery_found": "No forgery found",
    "unclear": "Unclear",
    "forged_face_found": "Forged face found",
}


def render(
    template: str,
    *,
    package: str = OWN_PACKAGE,
    script: str | None = None,
    policy: Mapping[str, str] | None = None,
    **content: object,
) -> str:
    """A page from a template; all text in ``content`` is escaped, but for ``Markup``.

    Args:
        template: name of it in ``package``, or among the shared ones of ``comics.inference``.
        package: where it is looked for first.
        script: the page's only script, as ``read_template`` gives it; None: none can run.
        policy: directives that the page's content-security policy has besides ``POLICY``.
        content: what the template shows. It also gets ``version``, ``real_colour``,
            ``fake_colour``, ``unclear_colour``, ``policy`` and ``script``.

    Raises:
        ValueError: if the script would end before its end.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(OWN_PACKAGE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    if script is not None and "</" in script:
        raise ValueError("the script holds '</', which may end it: write '<\\/'")
    return environment.get_template(template).render(
        policy=content_policy(script, policy),
        script=None if script is None else Markup(script),
        version=comics.__version__,
        real_colour=css_colour(COLOURS[REAL]),
        fake_colour=css_colour(COLOURS[FAKE]),
        unclear_colour=css_colour(COLOURS[UNCLEAR]),
        **content,
    )


def content_policy(script: str | None = None, more: Mapping[str, str] | None = None) -> Markup:
    """The content-security policy of a page with that script; its text needs no escaping."""
    directives = POLICY | dict(more or {})
    if script is not None:
        digest = hashlib.sha256(script.encode("utf-8")).digest()
        directives["script-src"] = f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
    return Markup("; ".join(f"{name} {value}" for name, value in directives.items()))


def read_template(name: str, package: str = OWN_PACKAGE) -> str:
    """The text of a file of a package's templates, as it is."""
    return (files(package) / "templates" / name).read_text(encoding="utf-8")


def picture_uri(image: Image.Image, quality: int) -> str:
    """An RGB picture as a data URI (JPEG)."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def flat_pairs(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted name, text) pairs."""
    pairs = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += flat_pairs(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + str(name), str(value)))
    return pairs


def css_colour(colour: tuple[int, int, int]) -> str:
    """``#rrggbb`` of 8-bit RGB."""
    return "#{:02x}{:02x}{:02x}".format(*colour)

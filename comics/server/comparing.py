"""Two uploads laid over each other: what ``comics compare`` does, within the server's limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comics.data.images import ImageError
from comics.pages.comparison import comparison_page
from comics.server.detection import PICTURE, identify, shown_name
from comics.server.errors import ApiError
from comics.server.limits import ServerLimits


def compare_files(
    paths: Sequence[Path],
    names: Sequence[str | None],
    limits: ServerLimits,
    max_pixels: int,
) -> dict[str, Any]:
    """What the API answers: whether the two match, what was found, and its page.

    Args:
        paths: of the picture and the original.
        names: what the client calls them; None: nothing.
        limits: see ``ServerLimits``.
        max_pixels: larger pictures are refused, also where the limits allow them.

    Raises:
        ApiError: naming the file, if it is no picture, broken, or beyond the limits.
    """
    called = (shown_name(names[0]), shown_name(names[1]))
    for path, name in zip(paths, called, strict=True):
        try:
            content = identify(path, limits, min(limits.pixels, max_pixels))
        except ApiError as error:
            raise ApiError(error.code, f"{name}: {error.message}") from None
        if content.kind != PICTURE:
            message = f"{name} is no single picture: only pictures are compared"
            raise ApiError("unsupported_media_type", message)
    try:
        html, found = comparison_page(paths[0], paths[1], names=called)
    except ImageError as error:
        name = called[0] if Path(error.path) == paths[0] else called[1]
        raise ApiError("unreadable_file", f"{name}: {error.reason}") from None
    page = html.encode("utf-8", "backslashreplace").decode("utf-8")
    return {"matches": found.matches, "sentence": found.sentence(), "page": page}

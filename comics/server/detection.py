"""From an uploaded file to its results: what it is, whether it is within the limits, what it shows.

The kind of a file is told by its content; its name is only displayed.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, cast

import av

from comics.data.animation_length import animation_length
from comics.data.content import VIDEO_EXTENSIONS, content_kind
from comics.data.custody.credentials import TrustList
from comics.data.file_kinds import ANIMATION as ANIMATED
from comics.data.file_kinds import VIDEO as MOVING
from comics.data.file_kinds import picture_format, read_head
from comics.data.images import ImageError, NoImageError, TooManyPixels, read_image_size
from comics.data.video_files import picture_streams
from comics.inference.contract import FacePredictor
from comics.inference.files import display_name, safe_name
from comics.inference.verdict import VideoRule
from comics.runs.inputs import ExpandedInputs, InputFile
from comics.runs.options import RunOptions
from comics.runs.outputs import FAILED, TOO_LITTLE_MEMORY
from comics.runs.records import RunRecord, results_document
from comics.runs.run import run_inference, write_results
from comics.runs.video import VideoOptions
from comics.server.errors import ApiError
from comics.server.limits import ServerLimits
from comics.video.frames import VideoError
from comics.video.source import open_source

logger = logging.getLogger(__name__)

PICTURE, ANIMATION, VIDEO = "picture", "animation", "video"
MAX_NAME = 200  # characters of an uploaded file's name
UNNAMED = "upload"
RESULTS_FOLDER = "results"
# Members of a file's entry that name files of the run, which no client can reach
OUTPUT_MEMBERS = ("output", "heat_map", "timeline", "tracks_file")
# What the server's file system says of its copy of an upload
COPY_MEMBERS = ("modified",)
# Of the run: how the server was started, and on what machine it runs, is not the client's
RUN_MEMBERS = ("started", "ended", "weights_sha256", "trust_list_sha256", "parts")
VERSIONS = ("comics", "torch", "torchvision")
ANIMATED_EXTENSIONS = {"GIF": ".gif", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif"}
BATCH_SIZE = 4  # frames, where they are small
FRAMES_HELD, BYTES_PER_PIXEL = 3, 3  # for each frame of a batch; RGB
OVERRUN_S = 1.0  # a video is followed so far beyond the limit, to see that it goes on


@dataclass(frozen=True)
class Content:
    """What an upload is.

    Attributes:
        kind: "picture", "animation" or "video".
        extension: that its name must have for the run to see the same.
        pixels: of a picture, or of a frame.
    """

    kind: str
    extension: str
    pixels: int


class LimitedPredictor:
    """A predictor whose limit of pixels is also the server's."""

    def __init__(self, predictor: FacePredictor, max_pixels: int) -> None:
        self._predictor = predictor
        self.max_pixels = min(max_pixels, predictor.max_pixels)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)


def detect_file(
    predictor: FacePredictor,
    path: Path,
    client_name: str | None,
    limits: ServerLimits,
    *,
    keep: bool = False,
    heat_maps: bool = False,
    stability: bool = False,
    trust: TrustList | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The results document of one file, as ``comics detect`` would write it.

    Args:
        predictor: forms the verdicts.
        path: of the file, alone in its folder; it is renamed, results are written beside it.
        client_name: what the client calls it; None: nothing.
        limits: see ``ServerLimits``.
        keep: also write annotated media, as for a folder that stays.
        heat_maps: of each face of a picture, where its method sees forgery.
        stability: of each face of a picture, P(fake) after treatments of it.
        trust: certificates of whose signers' Content Credentials are trusted; None: of nobody.
        stop: asked between batches whether the work has become useless.

    Raises:
        ApiError: if it is no picture or video, broken, or beyond the limits, or if the model has no
            heat maps and they were asked for.
        OSError: if its folder cannot be written.
    """
    if heat_maps and not offers_heat_maps(predictor):
        raise ApiError("invalid_request", "this server's model has no heat maps")
    predictor = cast(FacePredictor, LimitedPredictor(predictor, limits.pixels))
    content = identify(path, limits, predictor.max_pixels)
    path = path.rename(path.with_name(stored_name(client_name, content)))
    deadline = time.monotonic() + limits.processing_s
    options = RunOptions(
        output=path.parent / RESULTS_FOLDER,
        batch_size=frames_at_once(content.pixels, limits),
        write_media=keep,
        heat_in_results=heat_maps,
        stability=stability,
        trust=trust,
        video=_video_options(predictor, limits),
    )
    document = _run(predictor, path, options, lambda: stop() or time.monotonic() > deadline)
    _check(document, limits)
    return _for_client(document, shown_name(client_name))


def _run(
    predictor: FacePredictor, path: Path, options: RunOptions, stop: Callable[[], bool]
) -> dict[str, Any]:
    """The results document of a run over one file; results are written where media are."""
    documents: list[dict[str, Any]] = []

    def write(record: RunRecord) -> None:
        documents.append(results_document(record))
        if options.write_media:
            write_results(options.output, record)

    run_inference(
        predictor,
        ExpandedInputs([InputFile(path, PurePath(path.name))]),
        options,
        report=lambda line: None,
        stop=stop,
        write=write,
    )
    (document,) = documents
    return document


def _video_options(predictor: FacePredictor, limits: ServerLimits) -> VideoOptions:
    return VideoOptions(
        max_fps=limits.video_fps,
        end_s=limits.video_s + OVERRUN_S,
        rule=getattr(predictor, "video_rule", None) or VideoRule(),
    )


def offers_heat_maps(predictor: FacePredictor) -> bool:
    """Whether a predictor has ``heat_maps``."""
    return bool(getattr(predictor, "has_heat_maps", False))


def identify(path: Path, limits: ServerLimits, max_pixels: int) -> Content:
    """What a file is, by its content, from its headers.

    Raises:
        ApiError: if it is nothing known, empty, or too large once decoded.
    """
    if not path.stat().st_size:
        raise ApiError("unreadable_file", "the file is empty")
    kind = content_kind(path)
    try:
        height, width = read_image_size(path, sys.maxsize)
    except TooManyPixels as error:  # Pillow's own limit
        raise ApiError("too_many_pixels", f"{error.reason}; {_most(max_pixels)}") from None
    except ImageError as error:
        return _identify_video(path, limits, max_pixels, error)
    if kind == MOVING:  # JPEG after JPEG
        return _identify_video(path, limits, max_pixels, None)
    _check_pixels(width, height, max_pixels)
    if kind == ANIMATED:
        if animation_length(path, limits.video_s).seconds > limits.video_s:
            raise _too_long(limits)
        extension = ANIMATED_EXTENSIONS.get(picture_format(read_head(path)) or "", ".gif")
        return Content(ANIMATION, extension, width * height)
    return Content(PICTURE, ".jpg", width * height)


def frames_at_once(pixels: int, limits: ServerLimits) -> int:
    """Frames that go through the model together, so that those held stay within the limits.

    Beside the frames of a batch, as many wait decoded on either side of it.
    """
    held = limits.decoded_bytes // (FRAMES_HELD * BYTES_PER_PIXEL * pixels)
    return max(1, min(BATCH_SIZE, held))


def stored_name(client_name: str | None, content: Content) -> str:
    """A safe name for the file, whose extension says what it is."""
    name = safe_name(PurePath(shown_name(client_name).replace("\\", "/")).name)
    suffix = PurePath(name).suffix.lower()
    fits = {
        PICTURE: bool(suffix) and suffix not in VIDEO_EXTENSIONS,
        ANIMATION: suffix == content.extension,
        VIDEO: suffix in VIDEO_EXTENSIONS,
    }
    return name if fits[content.kind] else f"{name}{content.extension}"


def shown_name(client_name: str | None) -> str:
    """What results call it: printable, not too long."""
    return display_name(client_name or UNNAMED)[-MAX_NAME:]


def _identify_video(
    path: Path, limits: ServerLimits, max_pixels: int, no_picture: ImageError | None
) -> Content:
    with contextlib.ExitStack() as resources:
        try:
            container, _ = open_source(path, resources)
        except VideoError as error:
            no_picture = no_picture or ImageError(path, error.reason)
            unknown = isinstance(no_picture, NoImageError)
            code = "unsupported_media_type" if unknown else "unreadable_file"
            reason = f"{no_picture.reason}; nor a readable video" if unknown else no_picture.reason
            raise ApiError(code, reason) from None
        streams = picture_streams(container)
        if not streams:
            raise ApiError("unsupported_media_type", "a file without pictures that can be decoded")
        context = streams[0].codec_context
        _check_pixels(context.width, context.height, max_pixels)
        if (container.duration or 0) / av.time_base > limits.video_s:
            raise _too_long(limits)
    return Content(VIDEO, ".mp4", context.width * context.height)


def _check(document: dict, limits: ServerLimits) -> None:
    """Raise what the run found wrong."""
    if not document["summary"]["complete"]:
        raise ApiError(
            "processing_too_long", f"it was not done within {limits.processing_s:g} seconds"
        )
    (file,) = document["files"]
    if file["status"] == FAILED:
        if not file["reason"].startswith(TOO_LITTLE_MEMORY):
            raise ApiError("unreadable_file", file["reason"])
        logger.error("a file could not be looked at: %s", file["reason"])
        text = "the server has too little memory for it now; try again later, or a smaller one"
        raise ApiError("out_of_memory", text, {"Retry-After": "60"})
    if any(image.get("time_s", 0) > limits.video_s for image in document["images"]):
        raise _too_long(limits)


def _for_client(document: dict, name: str) -> dict[str, object]:
    """The document with the client's name of the file, and without files of the server's."""
    for member in ("files", "images", "results"):
        for entry in document[member]:
            entry["file_name"] = name
    for entry in document["files"]:
        for member in OUTPUT_MEMBERS + COPY_MEMBERS:
            entry.pop(member, None)
    run = document["run"]
    document["run"] = {member: run[member] for member in RUN_MEMBERS if member in run}
    document["run"]["versions"] = {
        name: version for name, version in run["versions"].items() if name in VERSIONS
    }
    return document


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ApiError(
            "too_many_pixels",
            f"{width}x{height} is {width * height} pixels; {_most(max_pixels)}",
        )


def _most(max_pixels: int) -> str:
    return f"at most {max_pixels} are taken"


def _too_long(limits: ServerLimits) -> ApiError:
    return ApiError("video_too_long", f"videos may be {limits.video_s:g} seconds long at most")

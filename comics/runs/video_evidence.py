"""A second look at the frames that are shown for the persons in a video.

Which frame that is, is known once the last one has been judged. So heat maps and stability, which
cost a look of the model each, are measured in a second reading of the file, on those frames alone.

Shape letters: H, W height and width of a frame; N faces.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from comics.inference.contract import HeatPredictor
from comics.inference.files import FileOutputs
from comics.inference.heat_grids import HeatGrid, heat_grids
from comics.inference.heat_maps import draw_heat_maps
from comics.inference.stability import Stability, measure_stability
from comics.runs.inputs import InputFile
from comics.runs.pictures import MEDIA_FOLDER, write_picture
from comics.structures import Faces, NotFiniteError
from comics.video.frames import Frame, Selection, VideoError
from comics.video.pixel_shape import as_shown, predict_frames
from comics.video.stream import Stopped, open_reader
from comics.video.tracks_file import Track, TrackRecorder

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
FRAMES_AHEAD = 2  # decoded while the model looks at one


@dataclass(frozen=True)
class EvidenceOptions:
    """What is measured of each person besides P(fake).

    Attributes:
        heat_maps: where the face method sees forgery.
        stability: P(fake) after treatments of the frame.
        pictures: where the frames with their heat maps are written; None: they are not.
        most_pictures: of persons, in their order.
    """

    heat_maps: bool = False
    stability: bool = False
    pictures: FileOutputs | None = None
    most_pictures: int = 1_000

    @property
    def is_asked(self) -> bool:
        """Whether anything is."""
        return self.heat_maps or self.stability


@dataclass(frozen=True)
class _Seen:
    """What was measured in one frame, of each of its N faces."""

    stability: Sequence[Stability] | None
    heat: Sequence[HeatGrid] | None
    picture: str | None


def add_evidence(
    file: InputFile,
    predictor: HeatPredictor,
    recorder: TrackRecorder,
    tracks: Sequence[Track],
    options: EvidenceOptions,
    selection: Selection,
    stop: Callable[[], bool],
) -> tuple[list[Track], str | None]:
    """The tracks with heat maps and stability in their evidence, and what was left out, and why.

    Args:
        file: the video.
        predictor: that formed the verdicts.
        recorder: knows the faces of every frame.
        tracks: of the video.
        options: see ``EvidenceOptions``.
        selection: with which the video was analysed.
        stop: asked before each frame.

    Raises:
        Stopped: if ``stop`` said True.
        OSError: if a picture cannot be written.
    """
    if file.live is not None:
        return list(tracks), "a live source cannot be read twice: no heat maps, no stability"
    frames = {track.evidence.frame for track in tracks if track.evidence is not None}
    told = tracks[: options.most_pictures]
    drawn = {track.evidence.frame for track in told if track.evidence is not None}
    known = {track.track_id: track for track in tracks}
    found: dict[int, Track] = {}
    notes: dict[str, None] = {}  # an ordered set
    try:
        for frame in _wanted(file, predictor.max_pixels, selection, frames, stop):
            asked = options if frame.index in drawn else replace(options, pictures=None)
            size = (frame.image.shape[0], frame.image.shape[1])
            faces, numbers = recorder.faces(frame.index, size, known)
            seen, fault = _look(frame, faces, predictor, asked)
            notes |= {} if fault is None else {fault: None}
            found |= _told(frame.index, numbers, known, seen)
            frames.discard(frame.index)
    except VideoError as error:  # it was read a moment ago
        notes[f"it cannot be read again, for heat maps and stability: {error.reason}"] = None
    else:
        if frames:
            notes["it cannot be read again to its end, for heat maps and stability"] = None
    return [found.get(track.track_id, track) for track in tracks], "; ".join(notes) or None


def _wanted(
    file: InputFile,
    max_pixels: int,
    selection: Selection,
    frames: Collection[int],
    stop: Callable[[], bool],
) -> Iterator[Frame]:
    """Those of the video's frames, by their index; it is read no further than the last of them."""
    if not frames:
        return
    last = max(frames)
    with open_reader(file.path, max_pixels, FRAMES_AHEAD, selection, writing=False) as reader:
        for frame in reader:
            if stop():
                raise Stopped
            if isinstance(frame, Frame) and frame.index in frames:
                yield frame
            if isinstance(frame, Frame) and frame.index >= last:
                return


def _told(
    frame: int, numbers: Sequence[int], known: Mapping[int, Track], seen: _Seen
) -> dict[int, Track]:
    """The tracks whose evidence this frame is, with what was seen in it."""
    found = {}
    for position, number in enumerate(numbers):
        track = known[number]
        if track.evidence is None or track.evidence.frame != frame:
            continue
        evidence = replace(
            track.evidence,
            stability=None if seen.stability is None else seen.stability[position],
            heat_map=None if seen.heat is None else seen.heat[position],
            picture=seen.picture,
        )
        found[number] = replace(track, evidence=evidence)
    return found


def _look(
    frame: Frame, faces: Faces, predictor: HeatPredictor, options: EvidenceOptions
) -> tuple[_Seen, str | None]:
    """What a picture of this frame would be told, and what could not be measured."""
    stability = heat = picture = None
    try:
        if options.heat_maps:
            heat, picture = _heat(frame, faces, predictor, options.pictures)
        if options.stability:
            stability = measure_stability(
                lambda images: predict_frames(
                    predictor.predict, [frame._replace(image=image) for image in images]
                ),
                frame.image,
                faces,
            )
    except OUT_OF_MEMORY:
        what = "heat maps" if options.heat_maps and heat is None else "stability"
        return _Seen(stability, heat, picture), f"no {what} of some frames: too little memory"
    except NotFiniteError as error:
        return _Seen(stability, heat, picture), f"no stability of some frames: {error}"
    return _Seen(stability, heat, picture), None


def _heat(
    frame: Frame, faces: Faces, predictor: HeatPredictor, pictures: FileOutputs | None
) -> tuple[list[HeatGrid], str | None]:
    """The heat map of each face, in the pixels of the file, and the name of their picture."""
    image, shown = as_shown(frame, faces)
    heat, windows = predictor.heat_maps(image, shown)
    height, width = frame.image.shape[:2]
    if (height, width) != image.shape[:2]:
        scale = torch.tensor([width / image.shape[1], height / image.shape[0]] * 2)
        windows = (windows * scale).round().long()
        windows[:, 2:] = torch.maximum(windows[:, 2:], windows[:, :2] + 1)
    picture = None
    if pictures is not None:
        drawn = draw_heat_maps(frame.image, faces, heat, windows)
        picture = write_picture(pictures, MEDIA_FOLDER, f".{frame.index}.heat", drawn)
    return heat_grids(heat, windows), picture

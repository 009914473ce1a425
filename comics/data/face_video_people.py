"""People whose faces move a little for some frames: drawn here, or cut out of photos.

Both kinds give a face at a steady place, so that one box holds it in a whole clip.
Shape letters: T frames of a clip; S side of a frame in pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from comics.data.forgery import SourceFace, describe_face
from comics.data.generate_sources import PhotoSource
from comics.data.images import read_image
from comics.data.synthetic import draw_background, photograph
from comics.data.synthetic_face import draw_person
from comics.data.synthetic_person import Light, Person, muted_colour, sample_person

IDENTITY, CLIP, CAMERA = 10, 11, 12  # streams of random numbers that one seed gives
FACE_SHARE = 0.5  # height of a face over the side of its frame
DRIFT = 0.008  # largest motion per frame, as a share of the side
ZOOM = 0.006  # largest change of scale per frame, of photos
TURN = 1.5  # largest change of yaw and pitch per frame, degrees
MIN_PHOTO_SHARE = 0.7  # photographed faces must be this high over what is drawn, or more
KEYPOINTS = "keypoints5"


class People(Protocol):
    """Where the faces of a set come from."""

    @property
    def names(self) -> Sequence[str]:
        """Of the identities."""
        ...

    @property
    def arguments(self) -> dict:
        """What the faces depend on, for JSON."""
        ...

    def clip(self, identity: int, number: int, frames: int) -> list[SourceFace]:
        """The frames of clip ``number`` of an identity; each image is [S, S, 3] uint8."""
        ...

    def donor(self, source: int, identity: int, number: int, frames: int) -> list[SourceFace]:
        """Frames of the identity ``source`` to swap into that clip."""
        ...


class DrawnPeople:
    """Procedural identities: look fixed per identity; pose, light, scene per clip.

    Args:
        count: identities.
        side: S.
        seed: of everything.
    """

    def __init__(self, count: int, side: int, seed: int) -> None:
        self.names = [f"p{number:04d}" for number in range(count)]
        self.arguments = {"people": "drawn", "count": count, "side": side, "seed": seed}
        self._side, self._seed = side, seed

    def clip(self, identity: int, number: int, frames: int) -> list[SourceFace]:
        """See ``People``."""
        return self._shoot(identity, identity, number, frames)

    def donor(self, source: int, identity: int, number: int, frames: int) -> list[SourceFace]:
        """The source's look in the pose and light of the target's clip."""
        return self._shoot(source, identity, number, frames)

    def _shoot(self, look: int, identity: int, number: int, frames: int) -> list[SourceFace]:
        rng = np.random.default_rng((self._seed, CLIP, identity, number))
        person, light = self._pose(self._person(look), rng), _draw_light(rng)
        background = draw_background(rng, (self._side, self._side)) * np.array(
            light.colour, np.float32
        )
        motion = rng.uniform(-1, 1, 4) * (DRIFT * self._side, DRIFT * self._side, TURN, TURN)
        faces = []
        for frame in range(frames):
            x, y, yaw, pitch = motion * (frame - (frames - 1) / 2)
            moved = replace(
                person,
                centre=(person.centre[0] + x, person.centre[1] + y),
                yaw=person.yaw + yaw,
                pitch=person.pitch + pitch,
            )
            # One stream for all frames: hair and skin keep their texture, noise is new
            canvas, texture = background.copy(), np.random.default_rng((self._seed, look, number))
            drawing = draw_person(canvas, moved, light, texture)
            camera = np.random.default_rng((self._seed, CAMERA, look, identity, number, frame))
            image = photograph(camera, canvas)
            box = _bounds(drawing.face)
            faces.append(describe_face(image, box, keypoints=drawing.keypoints, mask=drawing.face))
        return faces

    def _person(self, look: int) -> Person:
        rng = np.random.default_rng((self._seed, IDENTITY, look))
        centre = (self._side / 2, self._side / 2)
        person = sample_person(rng, centre, FACE_SHARE * self._side)
        return replace(person, occluder="none")

    @staticmethod
    def _pose(person: Person, rng: np.random.Generator) -> Person:
        return replace(
            person,
            yaw=float(rng.uniform(-20, 20)),
            pitch=float(rng.uniform(-8, 8)),
            roll=float(rng.uniform(-8, 8)),
            clothes=tuple(muted_colour(rng)),
            smile=float(rng.uniform(-0.2, 0.6)),
            mouth_open=max(0.0, float(rng.uniform(-0.06, 0.06))),
            eye_open=float(rng.uniform(0.75, 1.1)),
            gaze=float(rng.uniform(-0.03, 0.03)),
        )


class PhotoPeople:
    """Faces of real photos, panned and zoomed slowly: clips of a still.

    Args:
        path: COCO file (or folder with annotations.json) of real faces; ``identity`` of a photo,
            or else its file name, says who is in it; ``keypoints5`` are needed.
        count: identities to take at most; 0 = all that are large enough.
        side: S.
        seed: which photos, and how they move.

    Raises:
        ValueError: if the file is not usable, or fewer than two identities are.
    """

    def __init__(self, path: Path, count: int, side: int, seed: int) -> None:
        source = PhotoSource(path)
        self._folder, self._side, self._seed = source.folder, side, seed
        people: dict[str, list[tuple[str, dict]]] = defaultdict(list)
        for name, record in source.photos.items():
            faces = [a for a in source.faces[name] if not a.get("iscrowd") and KEYPOINTS in a]
            tall = [a for a in faces if _box(a)[3] - _box(a)[1] >= self._least_height]
            if len(tall) == 1:  # of several faces it is not known whose identity is meant
                people[str(record.get("identity") or name)].append((name, tall[0]))
        chosen = sorted(people)
        np.random.default_rng((seed, IDENTITY)).shuffle(chosen)
        self.names = chosen[: count or None]
        if len(self.names) < 2:
            raise ValueError(f"{path}: {len(self.names)} identities with a face large enough")
        self._photos = [people[name] for name in self.names]
        self.arguments = {**source.arguments, "people": path.name, "count": count}
        self.arguments |= {"side": side, "seed": seed}

    @property
    def _least_height(self) -> float:
        return MIN_PHOTO_SHARE * FACE_SHARE * self._side

    def clip(self, identity: int, number: int, frames: int) -> list[SourceFace]:
        """See ``People``; clips beyond the photos of an identity show one again.

        Raises:
            ValueError: naming the photo that cannot be used.
        """
        name, annotation = self._photos[identity][number % len(self._photos[identity])]
        image, box = read_image(self._folder / name), _box(annotation)
        rng = np.random.default_rng((self._seed, CLIP, identity, number))
        drift, zoom = rng.uniform(-1, 1, 2) * DRIFT * self._side, rng.uniform(-1, 1) * ZOOM
        points = np.asarray(annotation[KEYPOINTS], np.float64)
        faces = []
        for frame in range(frames):
            step = frame - (frames - 1) / 2
            scale = FACE_SHARE * self._side / (box[3] - box[1]) * (1 + zoom * step)
            centre = (box[:2] + box[2:]) / 2
            shift = self._side / 2 + drift * step - scale * centre
            # OpenCV has pixel centres at whole numbers, boxes at halves
            at_pixels = shift + 0.5 * scale - 0.5
            matrix = np.array([[scale, 0, at_pixels[0]], [0, scale, at_pixels[1]]])
            picture = cv2.warpAffine(
                image,
                matrix,
                (self._side, self._side),
                flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REPLICATE,
            )
            moved = box * scale + np.tile(shift, 2)
            try:
                faces.append(describe_face(picture, moved, keypoints=points * scale + shift))
            except ValueError as error:
                raise ValueError(f"{name}: annotation {annotation.get('id')}: {error}") from error
        return faces

    def donor(self, source: int, identity: int, number: int, frames: int) -> list[SourceFace]:
        """A clip of the source, whatever its pose."""
        return self.clip(source, number, frames)


def _box(annotation: dict) -> np.ndarray:
    x, y, width, height = annotation.get("bbox_uniform") or annotation["bbox"]
    return np.array([x, y, x + width, y + height], np.float64)


def _draw_light(rng: np.random.Generator) -> Light:
    direction = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.1), rng.uniform(0.6, 1)])
    warm = rng.uniform(-0.06, 0.06)
    return Light(
        direction=tuple(direction / np.linalg.norm(direction)),
        ambient=rng.uniform(0.38, 0.6),
        diffuse=rng.uniform(0.4, 0.62),
        colour=(1 + warm, 1.0, 1 - warm),
    )


def _bounds(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)

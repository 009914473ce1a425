"""Photo-like scenes with several procedural faces, for tests and the demo.

A scene is drawn in light (float), then goes through one camera: shot and read noise, a pixel
response pattern, a Bayer mosaic and its interpolation, and the camera's JPEG. So noise is
correlated as in a photo, and a face that was altered afterwards differs from its surroundings by
its traces alone. Drawing knows nothing of forgery.

Shape letters: H, W image; N faces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from comics.data.forgery.history import jpeg_round_trip
from comics.data.synthetic_face import draw_person, fractal_noise
from comics.data.synthetic_person import Light, Person, muted_colour, sample_person

# Height of a face over the long side of the image: 48-140 pixels at 320
FACE_SHARE = (0.15, 0.44)
MAX_FACES = 5
# Placement gives up on a further face after so many tries; the scene then has fewer faces
PLACEMENT_TRIES = 25
MAX_HIDDEN = 0.2  # share of a face that a person in front may hide
MIN_FACE_PIXELS = 40  # a face with fewer visible pixels is not annotated


@dataclass(frozen=True)
class SceneFace:
    """One face: ``box`` (x0, y0, x1, y1) pixels, ``mask`` [H, W] bool, ``keypoints`` [5, 2].

    ``mask`` is the visible region of the face, ``box`` its bounds; keypoints may be hidden.
    ``person`` is what was drawn.
    """

    box: np.ndarray
    mask: np.ndarray
    keypoints: np.ndarray
    person: Person


@dataclass(frozen=True)
class Scene:
    """An image [H, W, 3] uint8 RGB as a camera saved it, its faces, and the light they are in."""

    image: np.ndarray
    faces: list[SceneFace]
    light: Light


def draw_scene(
    rng: np.random.Generator,
    size: tuple[int, int] = (240, 320),
    num_faces: int | None = None,
    face_share: tuple[float, float] = FACE_SHARE,
) -> Scene:
    """Draw a scene of ``size`` (H, W) pixels.

    Args:
        rng: source of everything random; the same state gives the same scene.
        size: (H, W), each at least 32.
        num_faces: faces to place (fewer where they do not fit); None draws 1 to 5.
        face_share: smallest and largest height of a face over the long side of the image.

    Raises:
        ValueError: for a size under 32 pixels, a negative count or an invalid share.
    """
    if min(size) < 32:
        raise ValueError(f"a scene needs 32 pixels or more per side, got {size} (height, width)")
    if not 0 < face_share[0] <= face_share[1] <= 1:
        raise ValueError(f"face_share must be 0 < low <= high <= 1, got {face_share}")
    if num_faces is not None and num_faces < 0:
        raise ValueError(f"num_faces must be 0 or more, got {num_faces}")
    count = int(rng.integers(1, MAX_FACES + 1)) if num_faces is None else num_faces
    light = _sample_light(rng)
    canvas = draw_background(rng, size) * np.array(light.colour, np.float32)
    people = _place(rng, size, count, face_share)
    return _shoot(rng, canvas, people, light)


def draw_portrait(rng: np.random.Generator, like: Person, light: Light, height: float) -> Scene:
    """One unhidden face in a small photo of its own: the donor of a swap.

    Another person, ``height`` pixels high, in about the pose and light of the person ``like``,
    with a skin near theirs: what somebody who forges a photo would look for.
    """
    side = max(32, round(1.6 * height))
    person = replace(
        sample_person(rng, (side / 2, side / 2), height),
        aspect=like.aspect,
        jaw=like.jaw,
        skin=tuple(np.array(like.skin, np.float32) * (1 + rng.normal(0, 0.06, 3)).clip(0.8, 1.2)),
        hairline=min(like.hairline, -0.6),
        yaw=like.yaw + rng.normal(0, 3),
        pitch=like.pitch + rng.normal(0, 2),
        roll=like.roll + rng.normal(0, 3),
        glasses=like.glasses,
        occluder="none",
    )
    canvas = draw_background(rng, (side, side)) * np.array(light.colour, np.float32)
    return _shoot(rng, canvas, [person], light)


def photograph(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """What a camera makes of ``light`` [H, W, 3] float (0-255): uint8 RGB, same size.

    Shot noise (variance proportional to the signal), read noise, pixel response non-uniformity,
    Bayer mosaic with bilinear interpolation, JPEG of quality 92-97.
    """
    height, width = light.shape[:2]
    even = (height + height % 2, width + width % 2)  # a Bayer cell is 2 x 2
    padded = np.pad(light, ((0, even[0] - height), (0, even[1] - width), (0, 0)), mode="edge")
    mosaic = np.empty(even, np.float32)
    for channel, (row, column) in ((0, (0, 0)), (1, (0, 1)), (1, (1, 0)), (2, (1, 1))):
        mosaic[row::2, column::2] = padded[row::2, column::2, channel]
    response = 1 + rng.uniform(0.006, 0.014) * rng.standard_normal(even, dtype=np.float32)
    gain = rng.uniform(0.12, 0.24)  # variance per grey level: sigma 4 to 5.6 at grey 128
    sigma = np.sqrt(gain * np.clip(mosaic, 0, 255) + rng.uniform(1, 4))
    noisy = mosaic * response + sigma * rng.standard_normal(even, dtype=np.float32)
    raw = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    image = cv2.cvtColor(raw, cv2.COLOR_BayerRGGB2RGB)[:height, :width]
    return jpeg_round_trip(image, int(rng.integers(92, 98)))


def draw_background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A textured background [H, W, 3] float32 (0-255): wall, room, foliage, or lights."""
    kind = rng.choice(["wall", "room", "foliage", "lights"])
    height, width = size
    top, bottom = muted_colour(rng), muted_colour(rng)
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    canvas = np.broadcast_to(top + ramp * (bottom - top), (height, width, 3)).copy()
    if kind == "room":
        _add_boxes(rng, canvas)
    elif kind == "foliage":
        _add_foliage(rng, canvas)
    elif kind == "lights":
        _add_lights(rng, canvas)
    cell = max(size) * rng.uniform(0.03, 0.25)
    grain = fractal_noise(rng, size, cell, 5)
    fine = rng.standard_normal(size, dtype=np.float32)
    canvas *= 1 + (rng.uniform(0.04, 0.14) * grain + rng.uniform(0.0, 0.03) * fine)[..., None]
    return np.clip(canvas, 0, 255)


def _shoot(
    rng: np.random.Generator, canvas: np.ndarray, people: list[Person], light: Light
) -> Scene:
    """Paint ``people`` in order over ``canvas``, find who hides what, and take the photo."""
    drawings = [draw_person(canvas, person, light, rng) for person in people]
    faces = []
    for index, (person, drawing) in enumerate(zip(people, drawings, strict=True)):
        visible = drawing.face
        for later in drawings[index + 1 :]:
            visible = visible & ~later.cover
        if visible.sum() >= MIN_FACE_PIXELS:
            faces.append(SceneFace(_bounds(visible), visible, drawing.keypoints, person))
    return Scene(image=photograph(rng, canvas), faces=faces, light=light)


def _add_boxes(rng: np.random.Generator, canvas: np.ndarray) -> None:
    height, width = canvas.shape[:2]
    for _ in range(rng.integers(4, 12)):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(width // 12, width // 3), rng.integers(height // 10, height // 2)
        colour = muted_colour(rng)
        cv2.rectangle(canvas, (int(x), int(y)), (int(x + w), int(y + h)), colour.tolist(), -1)
        for line in range(int(rng.integers(0, 6))):
            at = int(y + h * (line + 1) / 7)
            cv2.line(canvas, (int(x), at), (int(x + w), at), (colour * 0.6).tolist(), 1)


def _add_foliage(rng: np.random.Generator, canvas: np.ndarray) -> None:
    height, width = canvas.shape[:2]
    for _ in range(220):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(2, 3 + width // 22)), int(rng.integers(2, 3 + width // 40)))
        green = rng.uniform(30, 150)
        colour = (green * rng.uniform(0.4, 0.95), green, green * rng.uniform(0.2, 0.6))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(canvas, centre, axes, angle, 0, 360, colour, -1, cv2.LINE_AA)


def _add_lights(rng: np.random.Generator, canvas: np.ndarray) -> None:
    height, width = canvas.shape[:2]
    canvas *= 0.45
    glow = np.zeros_like(canvas)
    for _ in range(rng.integers(8, 26)):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        radius = int(rng.integers(2, max(4, width // 12)))
        cv2.circle(glow, centre, radius, rng.uniform(20, 150, 3).tolist(), -1, cv2.LINE_AA)
    canvas += cv2.GaussianBlur(glow, (0, 0), 1.5)


def _sample_light(rng: np.random.Generator) -> Light:
    direction = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.1), rng.uniform(0.6, 1)])
    warm = rng.uniform(-0.06, 0.06)
    return Light(
        direction=tuple(direction / np.linalg.norm(direction)),
        ambient=rng.uniform(0.38, 0.6),
        diffuse=rng.uniform(0.4, 0.62),
        colour=(1 + warm, 1.0, 1 - warm),
    )


def _place(
    rng: np.random.Generator, size: tuple[int, int], count: int, share: tuple[float, float]
) -> list[Person]:
    """People in the order of painting: the nearest (largest) last."""
    height, width = size
    low, high = (bound * max(size) for bound in share)
    heights = np.sort(np.exp(rng.uniform(np.log(low), np.log(high), count)))[::-1]
    taken: list[np.ndarray] = []  # what people in front cover: head and body boxes
    people = []
    for face_height in heights:
        for _ in range(PLACEMENT_TRIES):
            half = face_height / 2
            x = rng.uniform(0.35 * half, width - 0.35 * half)
            y = rng.uniform(0.7 * half, max(0.7 * half + 1, height - 0.7 * half))
            head = np.array([x - 0.8 * half, y - half, x + 0.8 * half, y + half])
            if all(_hidden_share(head, box) <= MAX_HIDDEN for box in taken):
                hair = np.array([x - 1.1 * half, y - 1.4 * half, x + 1.1 * half, y + 1.4 * half])
                body = np.array([x - 2.3 * half, y + 1.3 * half, x + 2.3 * half, height])
                taken += [hair, body]
                people.append(sample_person(rng, (x, y), float(face_height)))
                break
    return people[::-1]


def _hidden_share(box: np.ndarray, cover: np.ndarray) -> float:
    """Share of ``box`` inside ``cover``."""
    corner = np.minimum(box[2:], cover[2:]) - np.maximum(box[:2], cover[:2])
    overlap = np.prod(np.maximum(corner, 0))
    return float(overlap / np.prod(box[2:] - box[:2]))


def _bounds(mask: np.ndarray) -> np.ndarray:
    """Bounds (x0, y0, x1, y1) float32 of a mask that has at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)

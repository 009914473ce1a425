"""What fixes the look of one procedural person, and where its keypoints then are.

The head is an ellipsoid. Face coordinates (x, y) are those of its front, seen head-on, in head
units: half the height of the face, so chin = +1, top of the forehead = -1, y pointing down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Face coordinates (x, y) of what keypoints mark, for a frontal face
EYE = (0.36, -0.12)
NOSE_TIP = (0.0, 0.27)
MOUTH_CORNER = (0.23, 0.57)
# sRGB skin tones from light to dark; a face is drawn between two neighbours
SKIN_TONES = np.array(
    [
        [244, 214, 194],
        [229, 187, 158],
        [205, 155, 122],
        [172, 120, 86],
        [128, 84, 60],
        [88, 57, 43],
    ],
    np.float32,
)
HAIR_TONES = np.array(
    [[28, 24, 24], [60, 42, 32], [96, 66, 42], [150, 112, 66], [196, 162, 104], [150, 148, 146]],
    np.float32,
)
EYE_TONES = np.array([[62, 40, 26], [92, 66, 38], [80, 110, 120], [90, 112, 74]], np.float32)


@dataclass(frozen=True)
class Light:
    """Light of a scene: unit ``direction`` towards it (x, y, z to the viewer), shares, colour."""

    direction: tuple[float, float, float]
    ambient: float
    diffuse: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Person:
    """Everything that fixes one person's look; pixels for place, head units and degrees else."""

    centre: tuple[float, float]
    height: float  # of the face, chin to top of the forehead, pixels
    aspect: float  # width of the head over its height
    jaw: float  # how much the chin is narrower than the temples
    yaw: float
    pitch: float
    roll: float
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    hairline: float
    hair_length: float
    iris: tuple[float, float, float]
    clothes: tuple[float, float, float]
    eye_open: float
    gaze: float
    smile: float
    mouth_open: float
    brow: float
    beard: float
    glasses: bool
    occluder: str  # "none", "scarf", "hand", "mask"


def sample_person(rng: np.random.Generator, centre: tuple[float, float], height: float) -> Person:
    """Draw a person at ``centre`` (x, y) whose face is ``height`` pixels high."""
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    low = min(int(tone), len(SKIN_TONES) - 2)
    skin = SKIN_TONES[low] + (tone - low) * (SKIN_TONES[low + 1] - SKIN_TONES[low])
    occluder = rng.choice(["none", "scarf", "hand", "mask"], p=[0.82, 0.06, 0.07, 0.05])
    return Person(
        centre=centre,
        height=height,
        aspect=rng.uniform(0.72, 0.84),
        jaw=rng.uniform(0.08, 0.3),
        yaw=float(np.clip(rng.normal(0, 18), -42, 42)),
        pitch=float(np.clip(rng.normal(0, 7), -16, 16)),
        roll=float(np.clip(rng.normal(0, 8), -25, 25)),
        skin=tuple(skin + rng.normal(0, 5, 3)),
        hair=tuple(HAIR_TONES[rng.integers(len(HAIR_TONES))] + rng.normal(0, 8, 3)),
        hairline=rng.uniform(-0.72, -0.48),
        hair_length=rng.uniform(-0.3, 1.3),
        iris=tuple(EYE_TONES[rng.integers(len(EYE_TONES))]),
        clothes=tuple(muted_colour(rng)),
        eye_open=rng.uniform(0.7, 1.15),
        gaze=rng.uniform(-0.03, 0.03),
        smile=rng.uniform(-0.25, 0.7),
        mouth_open=max(0.0, rng.uniform(-0.09, 0.06)),
        brow=rng.uniform(0.6, 1.3),
        beard=max(0.0, rng.uniform(-0.8, 0.75)),
        glasses=bool(rng.random() < 0.22),
        occluder=str(occluder),
    )


def muted_colour(rng: np.random.Generator) -> np.ndarray:
    """A colour [3] float32 (0-255) of any brightness whose hue is weak, as in most photos."""
    grey = rng.uniform(25, 205)
    return np.clip(grey * (1 + rng.uniform(-0.3, 0.3, 3)), 5, 235).astype(np.float32)


def keypoints_of(person: Person) -> np.ndarray:
    """The five keypoints [5, 2] of a person in pixels of the canvas, hidden or not."""
    points = np.array(
        [
            (-EYE[0], EYE[1]),
            EYE,
            NOSE_TIP,
            (-MOUTH_CORNER[0], MOUTH_CORNER[1]),
            MOUTH_CORNER,
        ],
        np.float64,
    )
    depth = np.sqrt(1 - (points**2).sum(1, keepdims=True))
    depth[2] += 0.18  # the nose stands out
    u, v, _ = (np.hstack([points, depth]) @ pose_matrix(person).T).T
    x = u * person.aspect * jaw_factor(v, person.jaw)
    angle = np.deg2rad(person.roll)
    scale = person.height / 2
    along = np.stack([x * np.cos(angle) - v * np.sin(angle), x * np.sin(angle) + v * np.cos(angle)])
    return (along.T * scale + person.centre).astype(np.float32)


def pose_matrix(person: Person) -> np.ndarray:
    """[3, 3] rotation from face coordinates to the viewer's: yaw about y, then pitch about x."""
    yaw, pitch = np.deg2rad(person.yaw), np.deg2rad(person.pitch)
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]
    )
    return about_x @ about_y


def jaw_factor(v: np.ndarray, narrowing: float) -> np.ndarray:
    """Factor on the half width at height ``v``: 1 at the temples, less towards the chin."""
    return 1 - narrowing * np.clip(v, 0, 1) ** 1.5

"""Painting one procedural person: head with pose, skin, features, hair, glasses, clothes.

Each pixel of a window around the head gets a point on the ellipsoid of ``synthetic_person``;
turning it back by yaw and pitch gives face coordinates, in which every feature is an analytic
shape with a one-pixel soft edge. So features follow the pose, in a few array operations each.

Shape letters: H, W window or canvas in pixels. Other lengths are in head units.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from comics.data.synthetic_person import (
    EYE,
    MOUTH_CORNER,
    NOSE_TIP,
    Light,
    Person,
    jaw_factor,
    keypoints_of,
    pose_matrix,
)

# How far a head (with hair, hands and scarf) and a body reach: above, below, sideways
HEAD_REACH = (1.7, 1.9, 1.5)
BODY_REACH = (0.0, 12.0, 2.5)


@dataclass(frozen=True)
class PersonDrawing:
    """What ``draw_person`` leaves: visible face region, all that was covered, and keypoints.

    Attributes:
        face: [H, W] bool, skin of the face not hidden by hair or the person's own occluder.
        cover: [H, W] bool, every pixel that the person covers.
        keypoints: [5, 2] float32 pixels: left eye, right eye, nose, left and right mouth corner,
            as seen in the picture.
    """

    face: np.ndarray
    cover: np.ndarray
    keypoints: np.ndarray


def draw_person(
    canvas: np.ndarray, person: Person, light: Light, rng: np.random.Generator
) -> PersonDrawing:
    """Paint ``person`` over ``canvas`` (float32 [H, W, 3] RGB, 0-255, changed in place)."""
    shape = canvas.shape[:2]
    face, cover = np.zeros(shape, bool), np.zeros(shape, bool)
    for part, reach in (("body", BODY_REACH), ("head", HEAD_REACH)):
        window = rows, columns = _window(shape, person, reach)
        if rows.start < rows.stop and columns.start < columns.stop:
            painter = _Painter(canvas[window], (columns.start, rows.start), person, light, rng)
            getattr(painter, f"paint_{part}")()
            face[window] |= painter.face > 0.5
            cover[window] |= painter.cover > 0.5
    return PersonDrawing(face=face, cover=cover, keypoints=keypoints_of(person))


def fractal_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int, stretch: float = 1
) -> np.ndarray:
    """Noise [H, W] float32 of mean 0, standard deviation about 1, coarsest detail ``cell`` pixels.

    ``stretch`` makes the detail that many times longer downwards than across.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        grid = (max(2, round(height / step / stretch) + 2), max(2, round(width / step) + 2))
        coarse = rng.standard_normal(grid, dtype=np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        total += fine / 2**octave
    return total / np.sqrt(1.4)


def _window(
    shape: tuple[int, int], person: Person, reach: tuple[float, float, float]
) -> tuple[slice, slice]:
    """Rows and columns within ``reach`` (above, below, sideways; head units) of the person."""
    height, width = shape
    x, y = person.centre
    half = person.height / 2
    above, below, side = reach
    top, bottom = (int(np.clip(y + step * half, 0, height)) for step in (-above, below))
    left, right = (int(np.clip(x + step * half, 0, width)) for step in (-side, side))
    return slice(top, bottom), slice(left, right)


class _Painter:
    """Paints one person into a window of the canvas, back to front."""

    def __init__(
        self,
        canvas: np.ndarray,
        origin: tuple[int, int],
        person: Person,
        light: Light,
        rng: np.random.Generator,
    ) -> None:
        self.canvas, self.person, self.light, self.rng = canvas, person, light, rng
        self.unit = person.height / 2  # pixels per head unit
        height, width = canvas.shape[:2]
        x = (np.arange(width, dtype=np.float32) + 0.5 + origin[0] - person.centre[0]) / self.unit
        y = (np.arange(height, dtype=np.float32) + 0.5 + origin[1] - person.centre[1]) / self.unit
        self.x, self.y = np.meshgrid(x, y)  # head units, upright
        angle = np.float32(np.deg2rad(person.roll))
        self.p = self.x * np.cos(angle) + self.y * np.sin(angle)  # turned with the head
        self.q = self.y * np.cos(angle) - self.x * np.sin(angle)
        self.face = np.zeros((height, width), np.float32)
        self.cover = np.zeros((height, width), np.float32)

    def paint_body(self) -> None:
        """What is below the head; it is painted first."""
        self._body()

    def paint_head(self) -> None:
        """Everything above the shoulders, back to front."""
        self._hair_back()
        self._ears()
        self._head()
        self._hair_front()
        if self.person.glasses:
            self._glasses()
        self._occluder()

    # -- primitives ---------------------------------------------------------------------------
    def _edge(self, distance: np.ndarray) -> np.ndarray:
        """Coverage 0-1 of a shape from its signed distance (negative inside), in head units."""
        return np.clip(0.5 - distance * self.unit, 0, 1)

    def _ellipse(
        self,
        x: np.ndarray,
        y: np.ndarray,
        x0: float,
        y0: float,
        a: float,
        b: float,
        tilt: float = 0.0,
    ) -> np.ndarray:
        """Coverage of an ellipse at (x0, y0) with half axes a, b, in the coordinates (x, y)."""
        dx, dy = x - x0, y - y0
        if tilt:
            dx, dy = dx + dy * tilt, dy - dx * tilt
        return self._edge((np.sqrt((dx / a) ** 2 + (dy / b) ** 2) - 1) * min(a, b))

    def _mix(self, area: np.ndarray, colour: npt.ArrayLike) -> None:
        """Paint ``colour`` ([3], or [H, W, 3]) over the window where ``area`` (0-1) says."""
        self.canvas += area[..., None] * (np.array(colour, np.float32) - self.canvas)

    def _lit(
        self,
        colour: npt.ArrayLike,
        normal_x: np.ndarray,
        normal_y: np.ndarray,
        normal_z: np.ndarray | float,
    ) -> np.ndarray:
        """[H, W, 3]: ``colour`` lit by the scene's light on a surface with these normals."""
        x, y, z = self.light.direction
        diffuse = np.maximum(normal_x * x + normal_y * y + normal_z * z, 0)
        shade = self.light.ambient + self.light.diffuse * diffuse
        return shade[..., None] * (
            np.array(colour, np.float32) * np.array(self.light.colour, np.float32)
        )

    # -- parts --------------------------------------------------------------------------------
    def _body(self) -> None:
        person = self.person
        neck = self._edge(np.abs(self.x) - 0.42) * (self.y > 0.4) * (self.y < 1.7)
        self._mix(
            neck, self._lit(np.array(person.skin, np.float32) * 0.72, self.x, 0 * self.x, 0.8)
        )
        slope = 1.32 + 0.22 * np.abs(self.x) ** 2
        torso = self._edge(slope - self.y) * self._edge(np.abs(self.x) - 2.3)
        cloth = self._lit(person.clothes, self.x * 0.35, -0.3 * np.ones_like(self.x), 0.85)
        folds = fractal_noise(self.rng, self.x.shape, self.unit * 0.7, 4, stretch=2)
        self._mix(torso, cloth * (1 + 0.07 * folds[..., None]))
        self.cover = np.maximum(neck, torso)

    def _hair_back(self) -> None:
        person = self.person
        cap = self._ellipse(self.p, self.q, 0, -0.2, person.aspect + 0.13, 1.06)
        if person.hair_length > 0.2:
            side = self._edge(np.abs(self.p) - person.aspect - 0.1)
            side = side * self._edge(self.q - person.hair_length) * (self.q > -0.25)
            cap = np.maximum(cap, side)
        self._mix(cap, self._hair_colour() * 0.8)
        self.cover = np.maximum(self.cover, cap)

    def _hair_colour(self) -> np.ndarray:
        strands = fractal_noise(self.rng, self.p.shape, max(self.unit * 0.12, 2), 3, stretch=6)
        lit = self._lit(self.person.hair, self.p, self.q, 0.6 * np.ones_like(self.p))
        return lit * (1 + 0.22 * strands[..., None]) + 4

    def _ears(self) -> None:
        shift = 0.6 * np.sin(np.deg2rad(self.person.yaw))
        for side in (-1, 1):
            hidden = max(0.0, side * shift)  # the ear on the far side turns out of sight
            x0 = side * (self.person.aspect - 0.15 * hidden - 0.02)
            ear = self._ellipse(self.p, self.q, x0, 0.02, 0.1, 0.2)
            inner = self._ellipse(self.p, self.q, x0 + side * 0.02, 0.02, 0.05, 0.12)
            self._mix(ear, self._lit(self.person.skin, self.p, self.q, 0.5) * 0.92)
            self._mix(inner * 0.4, np.array(self.person.skin, np.float32) * 0.5)
            self.cover = np.maximum(self.cover, ear)

    def _head(self) -> None:
        person = self.person
        u = self.p / (person.aspect * jaw_factor(self.q, person.jaw))
        v = self.q
        radius = np.sqrt(u * u + v * v)
        z = np.sqrt(np.clip(1 - radius**2, 0, 1))
        self.face = self._edge((radius - 1) * person.aspect)
        turned = pose_matrix(person)  # transposed: from the viewer's to face coordinates
        self.fx = (u * turned[0, 0] + v * turned[1, 0] + z * turned[2, 0]).astype(np.float32)
        self.fy = (u * turned[0, 1] + v * turned[1, 1] + z * turned[2, 1]).astype(np.float32)
        skin = self._skin(u, v, z)
        self._mix(self.face, skin)
        self.cover = np.maximum(self.cover, self.face)
        self._brows()
        self._eyes()
        self._nose()
        self._mouth()

    def _skin(self, u: np.ndarray, v: np.ndarray, z: np.ndarray) -> np.ndarray:
        fx, fy, person = self.fx, self.fy, self.person
        nose = 0.9 * fx / 0.02 * np.exp(-(fx**2) / 0.02 - (fy - 0.12) ** 2 / 0.06) * 0.06
        sockets = np.exp(-((np.abs(fx) - EYE[0]) ** 2) / 0.03 - (fy - EYE[1] + 0.02) ** 2 / 0.015)
        colour = self._lit(person.skin, u + nose, v, z)
        blush = np.exp(-((np.abs(fx) - 0.42) ** 2) / 0.05 - (fy - 0.3) ** 2 / 0.05)
        colour *= 1 - blush[..., None] * np.array([0.0, 0.09, 0.08], np.float32)
        colour *= 1 - 0.16 * sockets[..., None]
        mottle = fractal_noise(self.rng, u.shape, self.unit * 0.3, 3)
        pores = self.rng.standard_normal(u.shape, dtype=np.float32)
        colour *= 1 + (0.02 * mottle + 0.022 * pores)[..., None]
        if person.beard > 0:
            low = np.clip((fy - 0.34 + 0.25 * np.abs(fx)) * 5, 0, 1)
            stubble = low * person.beard * (0.75 + 0.3 * pores)
            colour += stubble[..., None] * (np.array(person.hair, np.float32) * 0.7 - colour) * 0.7
        fold = np.abs(np.abs(fx) - 0.2 - 0.35 * (fy - 0.3)) / 0.03
        crease = np.exp(-(fold**2)) * (fy > 0.28) * (fy < 0.55) * 0.1
        return colour * (1 - crease[..., None])

    def _brows(self) -> None:
        colour = np.array(self.person.hair, np.float32) * 0.55
        for side in (-1, 1):
            arch = EYE[1] - 0.2 + 0.9 * (self.fx - side * EYE[0]) ** 2
            area = self._ellipse(
                self.fx, self.fy - arch, side * EYE[0], 0, 0.19, 0.034 * self.person.brow
            )
            self._mix(area * 0.8 * self.face, colour)

    def _eyes(self) -> None:
        person = self.person
        opening = 0.066 * person.eye_open
        skin_shadow = np.array(person.skin, np.float32) * 0.35
        for side in (-1, 1):
            x0 = side * EYE[0]
            bent = self.fy - 0.8 * (self.fx - x0) ** 2
            lid = self._ellipse(self.fx, bent, x0, EYE[1] - 0.012, 0.15, opening + 0.022)
            eye = self._ellipse(self.fx, bent, x0, EYE[1], 0.135, opening) * self.face
            iris_x, iris_y = x0 + person.gaze, EYE[1] - 0.005
            iris = self._ellipse(self.fx, self.fy, iris_x, iris_y, 0.068, 0.068)
            pupil = self._ellipse(self.fx, self.fy, iris_x, iris_y, 0.03, 0.03)
            glint = self._ellipse(self.fx, self.fy, iris_x + 0.02, iris_y - 0.025, 0.014, 0.014)
            self._mix(lid * 0.75 * self.face, skin_shadow)
            white = (self.light.ambient + 0.6 * self.light.diffuse) * 225
            self._mix(eye, np.full(3, min(white, 235.0)))
            self._mix(eye * iris, np.array(person.iris, np.float32))
            self._mix(eye * pupil, np.full(3, 12.0))
            self._mix(eye * glint, np.full(3, 245.0))

    def _nose(self) -> None:
        shadow = np.array(self.person.skin, np.float32) * 0.32
        for side in (-1, 1):
            below = self.fy - NOSE_TIP[1]
            nostril = self._ellipse(self.fx, below, side * 0.07, 0.075, 0.034, 0.02)
            aside = (self.fx - side * 0.125) ** 2 / 0.0012
            wing = np.exp(-aside - (below - 0.03) ** 2 / 0.005)
            self._mix(nostril * 0.8 * self.face, shadow)
            self._mix(wing * 0.35 * self.face, shadow)
        tip = np.exp(-(self.fx**2) / 0.004 - (self.fy - NOSE_TIP[1]) ** 2 / 0.006)
        self.canvas += (tip * 18 * self.light.diffuse * self.face)[..., None]

    def _mouth(self) -> None:
        person = self.person
        bent = self.fy - MOUTH_CORNER[1] + person.smile * (self.fx**2 - MOUTH_CORNER[0] ** 2)
        lip = np.array(person.skin, np.float32) * np.array([0.82, 0.52, 0.52], np.float32)
        shade = self.light.ambient + 0.6 * self.light.diffuse
        half, opening = MOUTH_CORNER[0], person.mouth_open
        upper = self._ellipse(self.fx, bent, 0, -0.008, half, 0.055) * (bent < 0.01)
        lower = self._ellipse(self.fx, bent, 0, 0, half * 0.9, 0.08 + opening)
        self._mix(np.maximum(upper, lower * (bent > -0.01)) * 0.85 * self.face, lip * shade)
        gap = self._ellipse(self.fx, bent, 0, opening / 2, half * 0.86, 0.012 + opening)
        self._mix(gap * 0.85 * self.face, lip * 0.22)
        if opening > 0.015:
            teeth = gap * self._edge(bent - opening * 0.5)
            self._mix(teeth * 0.9 * self.face, np.full(3, 205.0) * shade)

    def _hair_front(self) -> None:
        person = self.person
        wave = person.hairline + 0.35 * self.p**2 + 0.05 * np.sin(9 * self.p + person.yaw)
        cap = self._ellipse(self.p, self.q, 0, -0.2, person.aspect + 0.13, 1.06)
        fringe = cap * self._edge(self.q - wave)
        self._mix(fringe, self._hair_colour())
        self.face = self.face * (1 - fringe)

    def _glasses(self) -> None:
        frame = np.full(3, 25.0)
        for side in (-1, 1):
            outer = self._ellipse(self.fx, self.fy, side * EYE[0], EYE[1] + 0.02, 0.24, 0.17)
            inner = self._ellipse(self.fx, self.fy, side * EYE[0], EYE[1] + 0.02, 0.21, 0.14)
            self._mix(inner * 0.12 * self.face, np.full(3, 200.0))
            self._mix((outer - inner).clip(0, 1) * self.face, frame)
        bridge = self._edge(np.abs(self.fy - EYE[1]) - 0.018) * self._edge(np.abs(self.fx) - 0.13)
        self._mix(bridge * self.face, frame)

    def _occluder(self) -> None:
        kind = self.person.occluder
        if kind == "none":
            return
        if kind == "hand":
            area = np.zeros_like(self.p)
            for finger in range(4):
                x0 = 0.62 + 0.17 * finger
                area = np.maximum(
                    area, self._ellipse(self.p, self.q, x0, 0.75 + 0.06 * finger, 0.095, 0.5)
                )
            colour = self._lit(self.person.skin, self.p * 0.3, self.q * 0.2, 0.9) * 0.95
        else:
            top = 0.72 if kind == "scarf" else 0.18
            wide = self.person.aspect + (0.25 if kind == "scarf" else 0.02)
            area = self._edge(top + 0.12 * self.p**2 - self.q) * self._edge(np.abs(self.p) - wide)
            area = area * self._edge(self.q - 1.45 if kind == "scarf" else self.q - 1.02)
            base = self.person.clothes if kind == "scarf" else (205, 222, 232)
            colour = self._lit(base, self.p, self.q * 0.4, 0.8)
            if kind == "mask":
                area = area * self.face
        texture = fractal_noise(self.rng, self.p.shape, max(self.unit * 0.2, 2), 3)
        self._mix(area, colour * (1 + 0.05 * texture[..., None]))
        self.face = self.face * (1 - area)
        self.cover = np.maximum(self.cover, area)

"""Videos encoded on the spot, and a predictor that finds coloured patches."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from comics.structures import Faces

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encode_sound(container, stream, seconds):
    samples = np.sin(np.arange(int(16000 * seconds)) / 10).astype(np.float32)[None] / 2
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    container.mux(stream.encode(frame))


@pytest.fixture(scope="session")
def encode_video():
    """Function that writes a video of [H, W, 3] frames."""

    def encode(path, frames, *, times=None, rate=25, rotation=0, sound=None, codec="libx264",
               pixels="yuv420p", options=None, container_options=None):  # fmt: skip
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pixels
            time_base = Fraction(1, rate)
            if times is not None:
                time_base = stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
            if sound:
                audio = container.add_stream(sound, rate=16000)
                audio.layout, audio.bit_rate = "mono", 32000
                encode_sound(container, audio, len(frames) / rate)
            for number, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = number if times is None else times[number]
                frame.time_base = time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound:
                container.mux(audio.encode(None))
        return path

    return encode


def scene(height=48, width=64, patches=()):
    """Grey picture with (colour, x0, y0, x1, y1) patches."""
    image = np.full((height, width, 3), 128, np.uint8)
    for colour, x0, y0, x1, y1 in patches:
        image[y0:y1, x0:x1] = colour
    return image


@pytest.fixture(scope="session")
def make_scene():
    return scene


class PatchPredictor:
    """A red patch is a forged face, a blue one a real face."""

    max_pixels = 1_000_000
    provenance = {"model": "patches"}

    def __init__(self):
        self.batches = []

    def predict(self, images):
        self.batches.append(len(images))
        return [self._find(image) for image in images]

    def _find(self, image):
        boxes, labels = [], []
        for label, channel in ((0, 2), (1, 0)):
            others = [c for c in range(3) if c != channel]
            mask = (image[..., channel] > 180) & (image[..., others] < 90).all(-1)
            if mask.any():
                rows, columns = np.nonzero(mask)
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(label)
        count = len(labels)
        labels = torch.tensor(labels, dtype=torch.int64)
        return Faces(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
            image_size=image.shape[:2],
            labels=labels,
            scores=torch.full((count,), 0.9),
            fake_probability=torch.where(labels == 1, 0.8, 0.1),
        )


@pytest.fixture
def patch_predictor():
    return PatchPredictor()

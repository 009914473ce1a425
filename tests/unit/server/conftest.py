"""A predictor without a model, files to upload, and a server that really listens."""

import contextlib
import io
import threading
import time

import av
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra 'serve'")
pytest.importorskip("python_multipart", reason="needs the extra 'serve'")

from comics.server.connections import limited_protocol  # noqa: E402
from comics.server.limits import ServerLimits  # noqa: E402
from comics.structures import Faces  # noqa: E402

RED, BLUE, GREY = (220, 20, 20), (20, 20, 220), (128, 128, 128)


class ColourPredictor:
    """One face in the middle of every picture but grey ones: forged if red, not if blue or pink."""

    max_pixels = 4_000_000
    provenance = {"model": "colours", "weights_sha256": "0" * 64, "fake_threshold": 0.7}
    has_heat_maps = True

    def __init__(self):
        self.delay_s = 0.0
        self.at_once = self.most_at_once = 0
        self.pictures = 0
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def predict(self, images):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.entered.set()
        assert self.gate.wait(30)
        time.sleep(self.delay_s)
        self.pictures += len(images)
        self.at_once -= 1
        return [self._look(image) for image in images]

    def _look(self, image):
        height, width = image.shape[:2]
        red, _, blue = image.reshape(-1, 3).mean(0)
        if abs(red - blue) < 40:
            return Faces.empty((height, width), with_masks=False)
        p = torch.tensor([0.1 if red < blue else 0.9 if red > blue + 100 else 0.6])
        box = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
        return Faces(
            box,
            (height, width),
            (p >= 0.7).long(),
            torch.tensor([0.8]),
            self._mask(height, width),
            fake_probability=p,
        )

    def _mask(self, height, width):
        """A square with a hole, so that a wrong order of rows and columns shows."""
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        top, left = height // 4, width // 4
        mask[:, top + 5 : top + 30, left + 10 : left + 35] = True
        mask[:, top + 20 : top + 25, left + 15 : left + 20] = False
        return mask

    def heat_maps(self, image, faces):
        windows = faces.boxes.round().long() + torch.tensor([-3, -3, 3, 3])
        return torch.rand(len(faces), 4, 4), windows


@pytest.fixture
def predictor():
    return ColourPredictor()


def picture(colour=RED, size=(40, 60), form="PNG", **options):
    """The bytes of a picture of one colour."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.full((*size, 3), colour, np.uint8))
    image.save(buffer, form, **options)
    return buffer.getvalue()


def video(seconds=1.0, colour=RED, rate=10, size=(48, 64), form="mp4"):
    """The bytes of a video of one colour."""
    buffer = io.BytesIO()
    codec = "libvpx" if form == "webm" else "libx264"
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        image = np.full((*size, 3), colour, np.uint8)
        for _ in range(round(seconds * rate)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_picture():
    return picture


@pytest.fixture(scope="session")
def make_video():
    return video


@pytest.fixture(scope="session")
def listening():
    """Context manager that serves an application; yields its address."""

    @contextlib.contextmanager
    def serve(app, grace_s=10, limits=None):
        config = uvicorn.Config(
            app,
            port=0,
            log_config=None,
            http=limited_protocol(limits or ServerLimits()),
            timeout_graceful_shutdown=grace_s,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

    return serve

import os
import threading
import time
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from comics.data.images import ImageError
from comics.runs import decoding
from comics.runs.decoding import AHEAD_PER_WORKER, decode, decode_ahead, decoded_bytes
from comics.runs.inputs import InputFile

LIMIT = 10**6


def picture(path, size=(40, 30), seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return InputFile(path, PurePath(path.name))


def test_pictures_come_in_order_and_bad_ones_with_their_reason(tmp_path):
    files = [picture(tmp_path / f"{n}.png", (10 + n, 20)) for n in range(12)]
    files[5].path.write_bytes(b"")
    files[7].path.unlink()
    found = list(decode_ahead(files, LIMIT, workers=3))
    assert [file for file, _, _ in found] == files
    for number, (_, image, _) in enumerate(found):
        if number in (5, 7):
            assert isinstance(image, ImageError)
        else:
            assert image.shape == (20, 10 + number, 3)
    assert "empty" in found[5][1].reason and "no such file" in found[7][1].reason


def test_decoding_is_ahead_but_not_far(tmp_path, monkeypatch):
    files = [picture(tmp_path / f"{n}.png") for n in range(30)]
    begun, lock = [], threading.Lock()
    plain = decoding.read_image

    def counted(path, max_pixels):
        with lock:
            begun.append(path)
        return plain(path, max_pixels)

    monkeypatch.setattr(decoding, "read_image", counted)
    delivered = 0
    for _ in decode_ahead(files, LIMIT, workers=2):
        delivered += 1
        time.sleep(0.002)
        assert len(begun) <= delivered + 2 * AHEAD_PER_WORKER
    assert delivered == len(begun) == 30


def test_memory_is_bounded_by_bytes(tmp_path, monkeypatch):
    files = [picture(tmp_path / f"{n}.png", (100, 100)) for n in range(6)]
    begun = []
    plain = decoding.read_image
    monkeypatch.setattr(
        decoding, "read_image", lambda *args: (begun.append(args[0]), plain(*args))[1]
    )
    delivered = 0
    for _ in decode_ahead(files, LIMIT, workers=4, bytes_ahead=2 * 30_000):
        delivered += 1
        time.sleep(0.01)
        assert len(begun) <= delivered + 2
    assert delivered == 6


def test_leaving_early_ends_the_threads(tmp_path):
    files = [picture(tmp_path / f"{n}.png") for n in range(8)]
    decoded = decode_ahead(files, LIMIT, workers=2)
    next(decoded)
    decoded.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("decode-picture") for name in names)


def test_what_became_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    file = InputFile(tmp_path / "a.png", PurePath("a.png"))
    assert decode(file, LIMIT).reason == "not a regular file"
    assert decoded_bytes(file, LIMIT) == 0


def test_memory_that_runs_out_is_that_file_s_fault(tmp_path, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(decoding, "read_image", exhausted)
    assert "too little memory" in decode(picture(tmp_path / "a.png"), LIMIT).reason


FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "TGA", "PPM", "JPEG2000", "AVIF"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("whole"), {}
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    for kind in FORMATS:
        Image.fromarray(noise).save(folder / kind, kind)
        found[kind] = (folder / kind).read_bytes()
    return found


@settings(
    deadline=None,
    max_examples=250,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_mutated_pictures_give_a_picture_or_a_reason(whole, tmp_path, data):
    content = bytearray(whole[data.draw(st.sampled_from(FORMATS))])
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[position] = data.draw(st.integers(0, 255))
        else:
            length = data.draw(st.integers(0, 16))
            content[position : position + length] = data.draw(st.binary(max_size=16))
        if not content:
            break
    path = tmp_path / "mutated"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] or content)
    image = decode(InputFile(path, PurePath("mutated")), LIMIT)
    if isinstance(image, ImageError):
        assert image.reason
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        assert 0 < image.shape[0] * image.shape[1] <= LIMIT

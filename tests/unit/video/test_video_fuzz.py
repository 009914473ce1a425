"""Damaged files of all kinds: each is a ``VideoError``, or delivers what can be had."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from comics.video.frames import Selection, VideoError
from comics.video.stream import process_video

EXAMPLES = int(os.environ.get("COMICS_FUZZ_EXAMPLES", "25"))  # of each kind of file
MAX_PIXELS = 100_000
FUZZED = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
PLACES = st.integers(0, 2**32 - 1)
SPREAD = 2654435761  # odd, and without a pattern: small numbers too are spread over the file
# Byte changes, cuts, and pieces moved elsewhere: (what, where, what with)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), PLACES, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("set"), PLACES, st.binary(min_size=1, max_size=2)),
        st.tuples(st.just("zero"), PLACES, st.binary(min_size=1, max_size=64)),
        st.tuples(st.just("cut"), PLACES, st.just(b"")),
        st.tuples(st.just("remove"), PLACES, st.binary(min_size=1, max_size=64)),
        st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=64)),
        st.tuples(st.just("repeat"), PLACES, st.binary(min_size=1, max_size=64)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content, edits):
    content = bytearray(content)
    for what, number, piece in edits:
        place = number * SPREAD % max(1, len(content))
        if what == "set":
            content[place : place + len(piece)] = piece
        elif what == "zero":
            content[place : place + len(piece)] = bytes(len(piece))
        elif what == "cut":
            del content[place:]
        elif what == "remove":
            del content[place : place + len(piece)]
        elif what == "insert":
            content[place:place] = piece
        else:
            content[place:place] = content[place : place + len(piece)]
    return bytes(content)


@pytest.fixture(scope="module")
def samples(tmp_path_factory, encode_video):
    """Content of small sound files by extension, ten frames of noise and flat colour each."""
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (32, 48, 3), dtype=np.uint8) for _ in range(5)]
    frames += [np.full((32, 48, 3), 40 * i, np.uint8) for i in range(5)]
    options = {"g": "4"}
    paths = [
        encode_video(
            folder / "a.mp4", frames, options=options, sound="aac",
            container_options={"movflags": "faststart"},
        ),
        encode_video(
            folder / "a.webm", frames, codec="libvpx-vp9", sound="libopus",
            options=options | {"deadline": "realtime", "cpu-used": "8"},
        ),
        encode_video(folder / "a.ts", frames, options=options),
        encode_video(folder / "a.avi", frames, codec="mpeg4", options=options),
    ]  # fmt: skip
    images = [Image.fromarray(frame) for frame in frames]
    for name in ("a.gif", "a.webp"):
        images[0].save(folder / name, save_all=True, append_images=images[1:], duration=40)
        paths.append(folder / name)
    return {path.suffix[1:]: path.read_bytes() for path in paths}


def outcome(path, output, selection):
    """ "refused", "whole" or "partial"; anything else raises."""
    from comics.structures import Faces

    seen = []
    try:
        report = process_video(
            path,
            lambda images: [Faces.empty(image.shape[:2], with_masks=False) for image in images],
            lambda frame, _: seen.append(frame),
            max_pixels=MAX_PIXELS,
            selection=selection,
            output=output,
            annotate=lambda image, _: image,
        )
    except VideoError as error:
        assert error.reason
        assert output is None or not output.exists()
        return "refused"
    assert report.frames >= report.analysed_frames == len(seen) > 0
    assert all(frame.image.shape[0] * frame.image.shape[1] <= MAX_PIXELS for frame in seen)
    times = [frame.time_s for frame in seen]
    assert times == sorted(times)
    if output is not None and report.output_fault is None:
        assert output.stat().st_size > 0
    else:
        assert output is None or not output.exists()
    return "partial" if report.fault or report.output_fault else "whole"


@pytest.mark.parametrize("extension", ["mp4", "webm", "gif", "webp", "ts", "avi"])
@pytest.mark.parametrize("writing", [False, True], ids=["reading", "writing"])
def test_damaged_files(extension, writing, samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    counts = {"refused": 0, "partial": 0, "whole": 0}

    @FUZZED
    @given(edits=EDITS, start=st.sampled_from([0.0, 0.0, 0.2]))
    def check(edits, start):
        path, output = folder / f"a.{extension}", folder / "out.mp4"
        output.unlink(missing_ok=True)
        path.write_bytes(damaged(samples[extension], edits))
        result = outcome(path, output if writing else None, Selection(start_s=start))
        counts[result] += 1
        assert {p.name for p in folder.iterdir()} <= {path.name, output.name}

    check()
    print(extension, "writing" if writing else "reading", counts)  # pytest -s shows it


def test_undamaged_samples_are_whole(samples, tmp_path):
    for extension, content in samples.items():
        (tmp_path / f"a.{extension}").write_bytes(content)
        assert outcome(tmp_path / f"a.{extension}", None, Selection()) == "whole", extension


@FUZZED
@given(content=st.binary(max_size=300), extension=st.sampled_from(["mp4", "webm", "gif", "webp"]))
def test_any_bytes(tmp_path_factory, content, extension):
    path = tmp_path_factory.getbasetemp() / f"any.{extension}"
    path.write_bytes(content)
    assert outcome(path, None, Selection()) in ("refused", "partial")

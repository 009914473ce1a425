"""Videos that are not simply frame after frame of square pixels, the right way up, from 0 on."""

from fractions import Fraction

import av
import numpy as np
import pytest

from comics.data.video_frames import read_clip
from comics.video.frames import Selection, VideoError, VideoTooLarge
from comics.video.reader import QUEUE_BYTES, Frame, VideoReader, weigher
from comics.video.stream import process_video

UNIT = 65536
MATRICES = {  # ISO/IEC 14496-12: (a, b, c, d), and what a player then shows
    "identity": ((1, 0, 0, 1), lambda a: a),
    "mirrored": ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
    "flipped": ((1, 0, 0, -1), lambda a: a[::-1]),
    "half turn": ((-1, 0, 0, -1), lambda a: a[::-1, ::-1]),
    "clockwise": ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
    "anticlockwise": ((0, -1, 1, 0), lambda a: np.rot90(a, 1)),
    "transposed": ((0, 1, 1, 0), lambda a: a.transpose(1, 0, 2)),
    "transverse": ((0, -1, -1, 0), lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
    "zero": ((0, 0, 0, 0), lambda a: a),
    "a line": ((1, 0, 1, 0), lambda a: a),
}


def with_matrix(path, a, b, c, d):
    """Put a matrix into the header of an MP4's only track."""
    data = bytearray(path.read_bytes())

    def packed(values):
        return b"".join(int(value).to_bytes(4, "big", signed=True) for value in values)

    start = data.index(packed((UNIT, 0, 0, 0, UNIT, 0, 0, 0, 1 << 30)), data.index(b"tkhd"))
    values = [UNIT * value for value in (a, b, 0, c, d, 0, 0, 0)]
    data[start : start + 36] = packed([*values, 1 << 30 if any((a, b, c, d)) else 0])
    path.write_bytes(data)
    return path


def process(path, predictor, output=None, **options):
    seen = []
    report = process_video(
        path, predictor.predict, lambda *frame_and_faces: seen.append(frame_and_faces),
        max_pixels=1_000_000, output=output, annotate=lambda image, faces: image, **options,
    )  # fmt: skip
    return report, seen


@pytest.mark.parametrize("kind", MATRICES)
def test_frames_are_seen_as_their_matrix_says(
    tmp_path, encode_video, make_scene, patch_predictor, kind
):
    matrix, expected = MATRICES[kind]
    stored = make_scene(patches=[((255, 0, 0), 0, 0, 16, 24)])
    path = with_matrix(encode_video(tmp_path / "a.mp4", [stored] * 2), *matrix)
    shown = expected(stored)
    (frame, faces), *_ = process(path, patch_predictor, tmp_path / "out.mp4")[1]
    assert frame.image.shape == shown.shape
    assert np.abs(frame.image.astype(int) - shown).mean() < 6
    rows, columns = np.nonzero((shown == (255, 0, 0)).all(axis=2))
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert faces.boxes[0].tolist() == pytest.approx(box, abs=1)
    # The same frames are cut for training
    assert np.array_equal(read_clip(path, lambda count: [0])[0], frame.image)


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(64, 45)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_model_sees_square_pixels_and_results_are_in_the_files(
    tmp_path, make_scene, patch_predictor, aspect, turned
):
    stored = make_scene(64, 64, patches=[((255, 0, 0), 8, 16, 24, 40)])
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())
    if turned:
        with_matrix(path, 0, 1, -1, 0)
    sizes = []

    def predict(images):
        sizes.extend(image.shape[:2] for image in images)
        return patch_predictor.predict(images)

    seen = []
    process_video(
        path, predict, lambda frame, faces: seen.append((frame, faces)), max_pixels=10**6,
        output=tmp_path / "out.mp4", annotate=lambda image, faces: image,
    )  # fmt: skip
    height, width = sizes[0]
    assert width / height == pytest.approx(1 / aspect if turned else aspect, rel=0.02)
    frame, faces = seen[0]
    assert tuple(faces.image_size) == frame.image.shape[:2] == (64, 64)
    # A turn clockwise: what was at (x, y) is at (64 - y, x)
    expected = [64 - 40, 8, 64 - 16, 24] if turned else [8, 16, 24, 40]
    assert faces.boxes[0].tolist() == pytest.approx(expected, abs=1.5)
    with av.open(str(tmp_path / "out.mp4")) as container:
        written = container.streams.video[0]
        assert written.sample_aspect_ratio == (1 / aspect if turned else aspect)


def two_streams(path, default):
    """A black and a white stream; the one that is marked."""
    with av.open(str(path), "w", format="matroska") as container:
        streams = []
        for _ in range(2):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            streams.append(stream)
        for number, stream in enumerate(streams):
            mark = av.stream.Disposition.default if number == default else 0
            stream.disposition = mark or av.stream.Disposition(0)
        for stream, level in zip(streams, (0, 255), strict=True):
            image = np.full((48, 64, 3), level, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("default", [0, 1])
def test_of_several_streams_the_default_is_looked_at_and_the_rest_named(
    tmp_path, patch_predictor, default
):
    path = two_streams(tmp_path / "a.mkv", default)
    report, seen = process(path, patch_predictor)
    assert seen[0][0].image.mean() == pytest.approx(255 * default, abs=3)
    assert report.note == (
        f"looked at video stream {default} only, which players show, of 2; not at {1 - default}"
    )
    assert read_clip(path, lambda count: [0])[0].mean() == pytest.approx(255 * default, abs=3)


@pytest.mark.parametrize("start_s", [0, 100, 5000])
def test_times_begin_where_the_first_frame_is(
    tmp_path, encode_video, make_scene, patch_predictor, start_s
):
    times = [1000 * start_s + 40 * n for n in range(6)]
    path = encode_video(tmp_path / "a.mkv", [make_scene()] * 6, times=times)
    report, seen = process(path, patch_predictor, tmp_path / "out.mp4")
    assert report.fault is None
    assert [frame.time_s for frame, _ in seen] == pytest.approx([0.04 * n for n in range(6)])
    with av.open(str(tmp_path / "out.mp4")) as container:
        found = [frame.time for frame in container.decode(video=0)]
        assert container.duration / av.time_base == pytest.approx(0.24, abs=0.05)
    assert found == pytest.approx([0.04 * n for n in range(6)], abs=1e-3)


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    """/proc/self/mem is a regular file of 0 bytes whose first byte is an input/output error."""
    path = tmp_path / "bad.mp4"
    try:
        open("/proc/self/mem", "rb").close()
    except OSError:
        pytest.skip("there is no file here that cannot be read")
    path.symlink_to("/proc/self/mem")
    with pytest.raises(VideoError, match="bad.mp4: cannot be read: Input/output error"):
        VideoReader(path, 1_000_000)


def test_large_frames_weigh_what_they_take():
    small = Frame(np.zeros((10, 10, 3), np.uint8), 0, 0, 0, 0.0)
    large = Frame(np.broadcast_to(np.uint8(0), (1 << 14, 1 << 13, 3)), 0, 0, 0, 0.0)
    weigh = weigher(8)
    assert weigh(small) == 1
    assert weigh(large) * QUEUE_BYTES / 8 == pytest.approx(3 * (1 << 27))


def test_too_large_frames_are_refused_as_pictures_are(tmp_path, encode_video, make_scene):
    path = encode_video(tmp_path / "a.mp4", [make_scene()] * 2)
    with pytest.raises(VideoTooLarge, match=r"64x48 are 3072 pixels, more than the 3071 allowed"):
        VideoReader(path, 3071)


def test_passed_over_frames_do_not_keep_a_reader(tmp_path, encode_video, make_scene):
    path = encode_video(tmp_path / "a.mp4", [make_scene()] * 60)
    selection = Selection(stride=10**6)
    with VideoReader(path, 10**6, selection=selection, all_frames=False) as reader:
        assert next(iter(reader)).index == 0
        reader.stop()
    assert reader.frames <= 60

import av
import numpy as np
import pytest

from comics.data.video import pan, write_clip


def smooth(seed: int, height=48, width=64) -> np.ndarray:
    columns = np.linspace(0, 200, width)[None, :, None]
    rows = np.linspace(0, 50, height)[:, None, None]
    return np.broadcast_to(columns + rows + seed, (height, width, 3)).astype(np.uint8)


def read(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_clip_reads_back_with_its_frames_and_rate(tmp_path):
    frames = [smooth(seed) for seed in range(5)]
    write_clip(tmp_path / "a.mp4", frames, fps=10, crf=10)
    back = read(tmp_path / "a.mp4")
    assert len(back) == 5
    for one, other in zip(frames, back, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == 10


def test_a_higher_crf_gives_a_smaller_file(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(4)]
    for crf in (10, 45):
        write_clip(tmp_path / f"{crf}.mp4", frames, crf=crf)
    assert (tmp_path / "45.mp4").stat().st_size < (tmp_path / "10.mp4").stat().st_size / 4


def test_no_frames_and_odd_sides_are_errors(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_clip(tmp_path / "a.mp4", [])
    with pytest.raises(ValueError, match="even sides, got 63x48"):
        write_clip(tmp_path / "a.mp4", [smooth(0, width=63)])


def test_pan_starts_and_ends_on_whole_pictures_and_resamples_nothing():
    first, second = smooth(0), smooth(5, width=67)
    frames = list(pan([first, second], 6))
    assert len(frames) == 6
    assert np.array_equal(frames[0], first)
    assert np.array_equal(frames[-1], second[:, :64])
    strip = np.concatenate([first, second[:, :64]], axis=1)
    for frame in frames:
        assert any(np.array_equal(frame, strip[:, x : x + 64]) for x in range(65))

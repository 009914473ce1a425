"""What a predictor may be called with."""

import numpy as np
import pytest
import torch
from PIL import Image

from comics.api import faces_of
from comics.data.images import ImageError
from comics.structures import Faces
from comics.video.frames import VideoError

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def call(patch_predictor):
    """The predictor, called with a source."""
    patch_predictor.model_size = lambda size: size

    def call(source, batch_size=4, **selection):
        return faces_of(patch_predictor, source, batch_size, selection)

    call.predictor = patch_predictor
    return call


@pytest.fixture
def scene(make_scene):
    return make_scene(40, 60, [(RED, 10, 10, 20, 22), (BLUE, 30, 10, 38, 20)])


def labels(faces):
    assert isinstance(faces, Faces)
    return faces.labels.tolist()


def test_a_picture_in_any_form(call, scene, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(scene).save(path)
    tensor = torch.from_numpy(scene).permute(2, 0, 1)
    for source in (path, str(path), scene, tensor, Image.open(path), Image.fromarray(scene)):
        faces = call(source)
        assert labels(faces) == [0, 1] and faces.image_size == (40, 60)
    # Of six pixels the axes could be mistaken; three channels in front make a tensor
    assert call(np.zeros((3, 3, 3), np.uint8)).image_size == (3, 3)


def test_an_oriented_photo_is_turned_upright_in_memory_too(call, scene):
    image = Image.fromarray(scene)
    image.getexif()[0x0112] = 6
    assert call(image).image_size == (60, 40)


def test_a_list_keeps_its_order_whatever_the_sizes(call, make_scene, tmp_path):
    generator = np.random.default_rng(0)
    sources, expected = [], []
    for number in range(13):
        size = tuple(generator.integers(30, 90, 2).tolist())
        patches = [[(RED, 5, 5, 15, 15)], [(BLUE, 5, 5, 15, 15)], []][number % 3]
        image = make_scene(*size, patches)
        expected.append((size, [[1], [0], []][number % 3]))
        if number % 2:
            Image.fromarray(image).save(tmp_path / f"{number}.png")
            image = tmp_path / f"{number}.png"
        sources.append(image)
    for batch_size in (1, 3, 50):
        found = call(sources, batch_size)
        assert [(faces.image_size, labels(faces)) for faces in found] == expected
        assert max(call.predictor.batches) <= batch_size
        call.predictor.batches.clear()
    assert call(tuple(sources[:2]))[0].image_size == expected[0][0]
    assert call([]) == []


def test_a_video_is_an_iterator_of_its_frames(call, make_scene, encode_video, tmp_path):
    frames = [make_scene(48, 64, [(RED if n > 5 else BLUE, 8, 8, 40, 40)]) for n in range(10)]
    path = encode_video(tmp_path / "clip.mp4", frames)
    found = list(call(path, batch_size=3))
    assert [frame.index for frame in found] == list(range(10))
    assert [round(frame.time_s * 25) for frame in found] == list(range(10))
    assert [labels(frame.faces) for frame in found] == [[0]] * 6 + [[1]] * 4
    assert call.predictor.batches == [3, 3, 3, 1]
    for index, time_s, faces in call(str(path), stride=4):
        assert (index % 4, labels(faces), round(time_s * 25)) == (0, [int(index > 5)], index)
    part = list(call(path, start_s=0.2, end_s=0.3))
    assert [round(frame.time_s, 2) for frame in part] == [0.2, 0.24, 0.28]


def test_an_animation_is_a_video(call, make_scene, tmp_path):
    frames = [Image.fromarray(make_scene(40, 40, [(c, 5, 5, 30, 30)])) for c in (RED, BLUE)]
    for name in ("a.gif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
        assert [labels(frame.faces) for frame in call(tmp_path / name)] == [[1], [0]]
        frames[0].save(tmp_path / name)
        assert labels(call(tmp_path / name)) == [1]


def test_a_video_may_be_left_early(call, make_scene, encode_video, tmp_path):
    path = encode_video(tmp_path / "clip.mp4", [make_scene(48, 64)] * 40)
    video = call(path, batch_size=2)
    assert next(video).index == 0
    video.close()  # its reader's thread ends with it
    assert len(call.predictor.batches) == 1


def test_what_cannot_be_used_is_named(call, scene, tmp_path):
    grey = scene[..., 0]
    for source, kind, said in (
        (5, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
        ({"a": 1}, TypeError, "got dict"),
        (iter([scene]), TypeError, "a list of"),
        ([scene, 3], TypeError, "item 1: .*got int"),
        ([scene, [scene]], TypeError, "item 1: .*got list"),
        (grey, ValueError, r"got uint8 \(40, 60\)"),
        ([scene, grey], ValueError, "item 1: a picture in memory"),
        (scene / 255, ValueError, "got float64"),
        (torch.zeros(3, 40, 60), ValueError, "got torch.float32|got float32"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, r"\(0, 5, 3\)"),
        (np.zeros((2, 40, 60, 3), np.uint8), ValueError, r"\(2, 40, 60, 3\)"),
        (tmp_path / "none.jpg", ImageError, "no such file"),
        (tmp_path / "none.mp4", VideoError, "no such file"),
        (tmp_path, ImageError, "cannot be read"),
        ([scene, tmp_path / "none.jpg"], ImageError, "none.jpg"),
    ):
        with pytest.raises(kind, match=said):
            call(source)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError, match="not a readable video"):
        next(call(tmp_path / "broken.mp4"))
    with pytest.raises(ValueError, match="item 1 is a video"):
        call([scene, tmp_path / "broken.mp4"])


def test_options_that_do_not_fit_are_named(call, scene, tmp_path):
    with pytest.raises(TypeError, match="stride, end_s: these choose frames"):
        call(scene, stride=2, end_s=3)
    for batch_size in (0, -1, 2.5, None):
        with pytest.raises(ValueError, match="batch_size"):
            call(scene, batch_size)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match="stride"):
        call(tmp_path / "a.mp4", stride=0)
    with pytest.raises(TypeError, match="speed"):
        call(tmp_path / "a.mp4", speed=3)

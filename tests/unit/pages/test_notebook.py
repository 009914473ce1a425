"""What a notebook shows of a result: it calls ``_repr_html_``."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from comics.pages.pictured_faces import PicturedFaces, with_picture
from comics.structures import MAX_HTML_ROWS, Faces


class Cells(HTMLParser):
    """Rows of a table, other text, and the tags that were opened and closed."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.images, self.open, self.text = [], [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1].append(data)
        else:
            self.text += data


def faces(count, size=(100, 160), **options):
    boxes = torch.tensor([[10.0 + 20 * i, 10, 25 + 20 * i, 40] for i in range(count)])
    labels = torch.arange(count) % 2
    options = {"scores": torch.full((count,), 0.9), "fake_probability": labels * 0.8} | options
    return Faces(boxes.reshape(-1, 4), size, labels, **options)


def test_a_table_of_the_faces():
    shown = Cells(faces(2)._repr_html_())
    assert "2 faces in 160 × 100 pixels" in shown.text
    assert shown.rows[0] == ["face", "verdict", "P(fake)", "score", "left, top", "width × height"]
    assert shown.rows[1:] == [
        ["0", "Real", "0.000", "0.900", "10, 10", "15 × 30"],
        ["1", "Fake", "0.800", "0.900", "30, 10", "15 × 30"],
    ]


def test_without_scores_and_without_faces():
    shown = Cells(faces(1, scores=None, fake_probability=None)._repr_html_())
    assert shown.rows[1][2:4] == ["–", "–"] and "1 face in" in shown.text
    shown = Cells(Faces.empty((5, 7))._repr_html_())
    assert shown.rows == [] and "0 faces in 7 × 5 pixels" in shown.text


def test_a_crowd_is_cut_short():
    shown = Cells(faces(MAX_HTML_ROWS + 3)._repr_html_())
    assert len(shown.rows) == MAX_HTML_ROWS + 1 and "and 3 more" in shown.text


def decoded(shown):
    (image,) = shown.images
    head, content = image["src"].split(",", 1)
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert (int(image["width"]), int(image["height"])) == picture.size
        return np.asarray(picture).astype(int)


def test_the_picture_is_small_and_its_faces_are_drawn():
    image = np.full((1000, 1600, 3), 128, np.uint8)
    large = faces(2, size=(1000, 1600))
    pictured = with_picture(large, image)
    shown = Cells(pictured._repr_html_())
    picture = decoded(shown)
    assert picture.shape == (400, 640, 3) and len(shown.rows) == 3
    assert abs(picture - 128).max() > 60
    alone = decoded(Cells(pictured[[0]]._repr_html_()))
    blank = decoded(Cells(with_picture(large[[]], image)._repr_html_()))
    assert abs(blank - 128).max() <= 2
    orange = lambda p: ((p[..., 0] - p[..., 2]) > 90).sum()  # noqa: E731
    assert orange(picture) > 0 and orange(alone) == 0  # the forged face was not selected


def test_they_remain_faces():
    masks = torch.zeros((2, 100, 160), dtype=torch.bool)
    pictured = with_picture(faces(2, masks=masks), np.zeros((100, 160, 3), np.uint8))
    assert isinstance(pictured, Faces) and isinstance(pictured[[1]], PicturedFaces)
    assert pictured[[1]].labels.tolist() == [1] and len(pictured.to("cpu")) == 2
    assert pictured.picture.shape == (100, 160, 3)  # not blown up
    plain = PicturedFaces(pictured.boxes, (100, 160), pictured.labels)
    assert "<img" not in plain._repr_html_()
    with pytest.raises(ValueError, match="labels"):
        PicturedFaces(pictured.boxes, (100, 160), pictured.labels.float())

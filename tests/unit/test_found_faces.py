"""What a predictor returns: in notebooks (``_repr_html_``), as text, tables and files."""

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from comics.found_faces import FoundFaces
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
    pictured = FoundFaces.of(large, image=image)
    shown = Cells(pictured._repr_html_())
    picture = decoded(shown)
    assert picture.shape == (400, 640, 3) and len(shown.rows) == 3
    assert abs(picture - 128).max() > 60
    alone = decoded(Cells(pictured[[0]]._repr_html_()))
    blank = decoded(Cells(FoundFaces.of(large[[]], image=image)._repr_html_()))
    assert abs(blank - 128).max() <= 2
    orange = lambda p: ((p[..., 0] - p[..., 2]) > 90).sum()  # noqa: E731
    assert orange(picture) > 0 and orange(alone) == 0  # the forged face was not selected


def test_they_remain_faces():
    masks = torch.zeros((2, 100, 160), dtype=torch.bool)
    pictured = FoundFaces.of(faces(2, masks=masks), image=np.zeros((100, 160, 3), np.uint8))
    assert isinstance(pictured, Faces) and isinstance(pictured[[1]], FoundFaces)
    assert pictured[[1]].labels.tolist() == [1] and len(pictured.to("cpu")) == 2
    assert pictured.picture.shape == (100, 160, 3)  # not blown up
    plain = FoundFaces(pictured.boxes, (100, 160), pictured.labels)
    assert "<img" not in plain._repr_html_()
    with pytest.raises(ValueError, match="labels"):
        FoundFaces(pictured.boxes, (100, 160), pictured.labels.float())


def found(tmp_path, **more):
    image = np.full((100, 160, 3), 128, np.uint8)
    path = tmp_path / "party.png"
    Image.fromarray(image).save(path)
    return FoundFaces.of(faces(2, **more), path, image), path


def test_they_say_what_they_are(tmp_path):
    masks = torch.zeros((2, 100, 160), dtype=torch.bool)
    seen, _ = found(tmp_path, masks=masks)
    assert repr(seen) == "<FoundFaces party.png 160 x 100: 2 faces, 1 real, 1 fake>"
    assert repr(seen[[1]]) == "<FoundFaces party.png 160 x 100: 1 face, 1 fake>"
    assert repr(faces(0)) == "<Faces 160 x 100: 0 faces>"
    first, second = seen
    assert (first.verdict, second.verdict) == ("real", "fake")
    assert first.box == tuple(seen.boxes[0].tolist()) and first.mask.shape == (100, 160)
    assert second.fake_probability == pytest.approx(seen.fake_probability[1].item())


def test_json_and_tables_agree(tmp_path):
    pandas = pytest.importorskip("pandas")
    seen, path = found(tmp_path)
    told = json.loads(seen.to_json())
    assert told["file_name"] == str(path) and (told["width"], told["height"]) == (160, 100)
    table = seen.to_dataframe()
    assert isinstance(table, pandas.DataFrame) and table["verdict"].tolist() == ["real", "fake"]
    for entry, (_, row) in zip(told["faces"], table.iterrows(), strict=True):
        assert entry["bbox"] == [row.x, row.y, row.width, row.height]
        assert entry["fake_probability"] == row.fake_probability
    empty = seen[[]].to_dataframe()
    assert list(empty.columns) == list(table.columns) and empty.empty


def test_supervision_takes_them(tmp_path):
    masks = torch.zeros((2, 100, 160), dtype=torch.bool)
    masks[1, 20:40, 30:60] = True
    seen, _ = found(tmp_path, masks=masks)
    detections = seen.to_supervision()
    assert np.array_equal(detections.xyxy, seen.boxes.numpy())
    assert detections.class_id.tolist() == [0, 1] and detections.mask.sum() == 20 * 30
    fakes = detections[detections.data["verdict"] == "fake"]
    assert len(fakes) == 1 and fakes.confidence[0] == pytest.approx(seen.scores[1].item())
    assert len(seen[[]].to_supervision()) == 0


def test_saving_draws_on_the_whole_picture(tmp_path):
    seen, path = found(tmp_path)
    saved = np.asarray(Image.open(seen.save(tmp_path / "out" / "a.png")))
    assert saved.shape == (100, 160, 3) and np.abs(saved.astype(int) - 128).max() > 60
    assert json.loads(seen.save(tmp_path / "a.json").read_text("utf-8")) == seen.to_dict()
    with pytest.raises(ValueError, match="a.tiff: the ending says"):
        seen.save(tmp_path / "a.tiff")
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match="another size than it had"):
        seen.save(tmp_path / "b.jpg")
    path.unlink()
    with pytest.raises(ValueError, match="party.png"):
        seen.save(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match="was not kept"):
        FoundFaces.of(faces(1)).save(tmp_path / "b.jpg")
    assert not (tmp_path / "b.jpg").exists()
    memory = FoundFaces.of(faces(1), np.full((100, 160, 3), 9, np.uint8))
    assert memory.save(tmp_path / "c.webp").is_file() and memory.file_name == ""

"""A picture beside its original."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from comics.cli import main
from comics.data.images import read_image
from comics.pages.comparison import compare_pictures

PHOTO = Path(__file__).resolve().parents[3] / "tools" / "lab" / "demo_photo" / "pilots_3faces.jpg"
HOSTILE = '"><img src=x onerror=hacked()>写真.png'


@pytest.fixture(scope="module")
def photo():
    image = read_image(PHOTO)
    scale = 640 / max(image.shape)
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def forge(image, box):
    """Another texture in (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    changed = image.copy()
    changed[y0:y1, x0:x1] = image[y0:y1, x0:x1][::-1, ::-1] // 2 + 90
    return changed


def through_jpeg(image, quality=80):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


BOX = (260, 100, 330, 190)


def test_a_forged_part_is_found_in_a_cropped_darker_smaller_copy(photo):
    """The copy that went around: forged, then cropped, scaled, darkened, and compressed."""
    forged = forge(photo, BOX)[20:, 30:]
    forged = cv2.resize(forged, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    forged = through_jpeg((forged * 0.8 + 5).astype(np.uint8))
    found = compare_pictures(forged, photo)
    assert found.matches and found.covered.mean() > 0.97
    region = found.regions[0]
    height, width = forged.shape[:2]
    wanted = np.array([(260 - 30) * 0.8, (100 - 20) * 0.8, 70 * 0.8, 90 * 0.8])
    told = np.array(region.box) * [width, height, width, height]
    assert told == pytest.approx(wanted, abs=9)
    assert "They differ in" in found.sentence()
    rest = found.difference.copy()
    x, y, w, h = wanted.astype(int)
    rest[y - 8 : y + h + 8, x - 8 : x + w + 8] = 0
    assert rest.mean() < 6 < 30 < region.strength


def test_a_copy_that_was_only_compressed_and_brightened_does_not_differ(photo):
    copy = through_jpeg(np.clip(photo * 1.15 + 8, 0, 255).astype(np.uint8), 60)
    found = compare_pictures(copy, photo)
    assert found.matches and found.regions == ()
    assert "No difference was found beyond what compression leaves" in found.sentence()


def test_where_the_original_ends_nothing_is_compared(photo):
    found = compare_pictures(photo, photo[:, : photo.shape[1] // 2])
    assert found.matches and found.covered.mean() == pytest.approx(0.5, abs=0.03)
    assert found.regions == () and re.search(r"covers (49|50|51) % of the", found.sentence())


def test_another_picture_is_said_in_words(photo):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    found = compare_pictures(photo, noise)
    assert not found.matches and "do not match" in found.sentence()


def test_the_command(photo, tmp_path, capsys):
    one, other, page = tmp_path / HOSTILE, tmp_path / "original.png", tmp_path / "c.html"
    Image.fromarray(forge(photo, BOX)).save(one)
    Image.fromarray(photo).save(other)
    assert main(["compare", str(one), str(other), "--output", str(page)]) == 0
    assert "They differ in" in capsys.readouterr().out
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "<img" not in html and "写真" in html
    assert html.count("data:image/jpeg") == 3 and "script-src" not in html
    assert re.search(r"<li>7\d × 9\d pixels at x 2[56]\d, y \d{2,3}; mean difference", html)
    Image.fromarray(photo[::-1, ::-1][:50, :50]).save(other)
    assert main(["compare", str(one), str(other), "--output", str(page)]) == 3
    assert "do not match" in capsys.readouterr().out
    assert "do not match" in page.read_text(encoding="utf-8")


def test_files_that_cannot_be_used_are_named(photo, tmp_path, capsys):
    picture = tmp_path / "a.png"
    Image.fromarray(photo).save(picture)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    for first, second in ((picture, tmp_path / "broken.jpg"), (tmp_path / "none.jpg", picture)):
        assert main(["compare", str(first), str(second), "--output", str(tmp_path / "c.html")]) == 2
        told = capsys.readouterr().err
        assert "broken.jpg" in told or "none.jpg" in told
        assert not (tmp_path / "c.html").exists()
    (tmp_path / "folder").mkdir()
    assert main(["compare", str(picture), str(picture), "--output", str(tmp_path / "folder")]) == 1
    assert "cannot be written" in capsys.readouterr().err

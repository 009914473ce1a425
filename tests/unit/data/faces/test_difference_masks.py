import cv2
import numpy as np
import pytest

from comics.data.faces.difference_masks import difference_mask


def compressed(image, quality):
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


@pytest.fixture
def face(picture):
    return cv2.GaussianBlur(picture(3, 200, 160), (0, 0), 2)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_forged_region_is_found_through_compression(face, quality):
    region = np.zeros(face.shape[:2], np.uint8)
    cv2.ellipse(region, (80, 100), (45, 60), 0, 0, 360, 1, cv2.FILLED)
    forged = np.where(region[..., None] > 0, 0.6 * face + 60, face).astype(np.uint8)
    mask = difference_mask(compressed(forged, quality), compressed(face, 90))
    overlap = (mask & (region > 0)).sum() / (mask | (region > 0)).sum()
    assert overlap > 0.8


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_compression_alone_is_no_forgery(face, quality):
    assert difference_mask(compressed(face, quality), compressed(face, 90)) is None


def test_pictures_of_two_sizes(face):
    with pytest.raises(ValueError, match=r"200, 160.*100, 160"):
        difference_mask(face, face[:100])

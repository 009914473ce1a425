import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.inference.draw import COLOURS, RIM, draw_faces, label_texts, place_label
from comics.structures import FAKE, REAL, Faces


def one_face(label, size=(120, 160), box=(40.0, 30.0, 110.0, 110.0), masks=True, p=None):
    mask = None
    if masks:
        mask = torch.zeros((1, *size), dtype=torch.bool)
        mask[0, 40:100, 50:100] = True
    p = float(label) if p is None else p
    return Faces(
        torch.tensor([box]), size, torch.tensor([label]), torch.ones(1), mask, torch.tensor([p])
    )


def luminance(colour):
    """WCAG 2.1's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
              for c in (value / 255 for value in colour)]  # fmt: skip
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("label", [REAL, FAKE])
def test_white_text_is_legible_on_the_label(label):
    assert (luminance(RIM) + 0.05) / (luminance(COLOURS[label]) + 0.05) >= 4.5


# Machado et al. 2009, table 1, severity 1.0
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


@pytest.mark.parametrize("name", DEFICIENCIES)
def test_the_two_colours_stay_apart_for_the_colour_blind(name):
    seen = [np.array(DEFICIENCIES[name]) @ np.array(COLOURS[label]) for label in (REAL, FAKE)]
    assert np.linalg.norm(seen[0] - seen[1]) > 80


def test_input_stays_as_it_was_and_something_is_drawn():
    image = np.full((120, 160, 3), 90, np.uint8)
    before = image.copy()
    result = draw_faces(image, one_face(FAKE))
    assert (image == before).all()
    assert result.shape == image.shape and result.dtype == np.uint8
    assert (result != image).any()


def test_far_from_the_face_nothing_changes():
    image = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    box = (100.0, 80.0, 160.0, 140.0)
    result = draw_faces(image, one_face(REAL, (200, 300), box, masks=False))
    assert (result[:50] == image[:50]).all()
    assert (result[170:] == image[170:]).all()
    assert (result[90:130, 110:150] == image[90:130, 110:150]).all()  # inside: no mask, no fill


def test_no_face_changes_nothing():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert (draw_faces(image, Faces.empty((20, 30))) == image).all()


def test_classes_differ_without_colour():
    image = np.full((120, 160, 3), 128, np.uint8)
    grey = [draw_faces(image, one_face(label)).mean(axis=2) > 128 for label in (REAL, FAKE)]
    edge = (slice(107, 112), slice(45, 105))  # the lower edge of the box: solid, and dashed
    assert grey[REAL][edge].any(axis=0).all()
    assert not grey[FAKE][edge].any(axis=0).all()


@pytest.mark.parametrize("background", [0, 128, 255])
def test_box_stands_out_on_any_background(background):
    image = np.full((400, 400, 3), background, np.uint8)
    face = one_face(REAL, (400, 400), (100.0, 150.0, 300.0, 350.0), masks=False)
    column = draw_faces(image, face)[350 - 10 : 350 + 10, 200]
    contrast = [
        (max(a, b) + 0.05) / (min(a, b) + 0.05)
        for a, b in ((luminance(pixel), luminance(image[0, 0])) for pixel in column)
    ]
    assert max(contrast) >= 3


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (16, 16), (2000, 1500)])
@pytest.mark.parametrize("label", [REAL, FAKE])
def test_any_size_of_picture(size, label):
    image = np.zeros((*size, 3), np.uint8)
    box = torch.tensor([[-5.0, -5.0, size[1] + 5.0, size[0] + 5.0]])
    mask = torch.ones((1, *size), dtype=torch.bool)
    faces = Faces(box, size, torch.tensor([label]), torch.ones(1), mask, torch.tensor([0.4]))
    assert draw_faces(image, faces).shape == image.shape


def test_lines_grow_with_the_picture():
    widths = []
    for side in (400, 1600):
        image = np.full((side, side, 3), 128, np.uint8)
        faces = one_face(
            REAL, (side, side), (side * 0.2, side * 0.3, side * 0.8, side * 0.9), False
        )
        row = draw_faces(image, faces)[side * 6 // 10]
        widths.append((row != 128).any(axis=1).sum())
    assert widths[1] > 2 * widths[0]


def test_faces_without_mask_pixels_or_without_area_are_drawn():
    faces = one_face(FAKE, masks=True)
    faces.masks[:] = False
    draw_faces(np.zeros((120, 160, 3), np.uint8), faces)
    flat = one_face(FAKE, box=(10.0, 10.0, 10.0, 10.0), masks=False)
    draw_faces(np.zeros((120, 160, 3), np.uint8), flat)
    outside = one_face(FAKE, box=(500.0, 500.0, 600.0, 600.0), masks=False)
    assert draw_faces(np.zeros((120, 160, 3), np.uint8), outside).any()


@pytest.mark.parametrize(
    ("label", "p", "text"),
    [
        (FAKE, 0.97, "FAKE 97%"),
        (REAL, 0.03, "REAL 97%"),
        (FAKE, 0.4, "FAKE 40%"),
        (FAKE, 0.999, "FAKE >99%"),
        (FAKE, 1.0, "FAKE 100%"),
        (REAL, 0.5, "REAL 50%"),
        (REAL, 0.66, "REAL? FAKE 66%"),
        (REAL, 0.9999, "REAL? FAKE >99%"),
    ],
)
def test_label_gives_the_probability_of_what_it_says(label, p, text):
    assert label_texts(one_face(label, p=p)) == [text]


def test_ground_truth_is_labelled_by_class_alone():
    truth = Faces(torch.tensor([[1.0, 1, 9, 9]]), (20, 20), torch.tensor([FAKE]))
    assert label_texts(truth) == ["FAKE"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((120, 160), np.uint8), "must be uint8"),
        (np.zeros((120, 160, 3), np.float32), "must be uint8"),
        (np.zeros((60, 80, 3), np.uint8), "faces are for an image of"),
    ],
)
def test_wrong_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        draw_faces(image, one_face(REAL))


areas = st.tuples(
    st.integers(-50, 400), st.integers(-50, 300), st.integers(1, 200), st.integers(1, 200)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@settings(deadline=None)
@given(st.lists(areas, min_size=1, max_size=8), st.integers(5, 100), st.integers(5, 30))
def test_labels_lie_within_the_picture(boxes, width, height):
    placed = []
    for box in boxes:
        area = place_label(box, (width, height), (320, 240), placed)
        assert 0 <= area[0] < area[2] <= 320
        assert 0 <= area[1] < area[3] <= 240
        placed.append(area)


def test_labels_of_neighbours_do_not_overlap():
    boxes = [(50, 100, 90, 140), (55, 102, 95, 141), (48, 98, 92, 143)]
    placed = []
    for box in boxes:
        placed.append(place_label(box, (40, 14), (320, 240), placed))
    for i, a in enumerate(placed):
        for b in placed[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]

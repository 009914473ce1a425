"""Sets made with a known leak, and without one."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from comics.data.faces.manifest_files import read_manifest
from comics.data.images import read_image
from comics.data.leaks.equalise import equalise, matched
from comics.data.leaks.properties import (
    face_properties,
    jpeg_quality,
    leak_groups,
    measure_properties,
)
from comics.data.leaks.telling import ALL, FOLDS, SET, _folds, find_leaks, weighted_auc

COUNT = 30  # pictures of each label


def textured(rng, side=64, brightness=0.0):
    coarse = rng.integers(40, 200, (6, 6, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    return np.clip(smooth + brightness + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def photographed(rng, side, brightness):
    """A large picture made small, as all photos are: as sharp at every size."""
    large = Image.fromarray(textured(rng, 240, brightness))
    return np.array(large.resize((side, side), Image.Resampling.BICUBIC))


def plain(rng, fake):
    return {"quality": int(rng.integers(70, 95))}


def make_set(folder, save=plain, seed=0, count=COUNT, sets=("",), picture=textured):
    """A manifest of ``count`` pictures of each label; ``save`` says how each is written."""
    rng = np.random.default_rng(seed)
    rows = []
    for place in range(2 * count):
        fake, name = bool(place % 2), sets[place // 2 % len(sets)]
        options = save(rng, fake)
        suffix, side = options.pop("suffix", ".jpg"), options.pop("side", 64)
        path = folder / f"{name}{place:03d}{suffix}"
        shown = picture(rng, side, options.pop("brightness", 0.0))
        shown[: options.pop("bar", 0)] = 0
        image = Image.fromarray(shown).convert(options.pop("mode", "RGB"))
        image.save(path, **options)
        rows.append({"path": path.name, "label": "fake" if fake else "real", "set": name})
    with open(folder / "faces.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "set"])
        writer.writeheader()
        writer.writerows(rows)
    return read_manifest(folder / "faces.csv")


def warned(manifest):
    (part,) = find_leaks(measure_properties(manifest))
    assert not part.too_few
    return {telling.name for telling in part.tellings if telling.leaks}


def exif():
    tags = Image.Exif()
    tags[0x010F] = "camera"
    return tags.tobytes()


def coding(rng, fake):
    """Quality, subsampling, progressive coding and metadata."""
    if fake:
        return {"quality": 70, "subsampling": 2, "progressive": True}
    return {"quality": 90, "subsampling": 0, "exif": exif()}


def shape(rng, fake):
    """Format, colour mode and size."""
    side = int(rng.integers(64, 90))
    return {"suffix": ".png", "mode": "L", "side": side - 20} if fake else {"side": side}


def look(rng, fake):
    """Brightness, and a bar on top."""
    return {"quality": 90, "brightness": 60.0 * fake, "bar": 6 * fake}


@pytest.mark.parametrize(
    ("save", "told", "silent"),
    [
        (
            coding,
            {"JPEG tables", "chroma subsampling", "progressive", "metadata"},
            {"picture size", "aspect ratio", "file format", "colour mode", "mean luminance"},
        ),
        (shape, {"file format", "colour mode", "picture size"}, {"aspect ratio", "black border"}),
        (look, {"mean luminance", "black border"}, {"picture size", "JPEG tables", "metadata"}),
    ],
)
def test_leaks_are_named(save, told, silent, tmp_path):
    found = warned(make_set(tmp_path, save))
    assert told | {ALL} <= found
    assert not silent & found


@pytest.mark.parametrize("seed", range(3))
def test_a_small_set_without_leak_is_not_warned_of(seed, tmp_path):
    """The properties vary, but not with the label; 24 pictures give high AUCs by chance."""

    def save(rng, fake):
        side = int(rng.integers(50, 90))
        return {"quality": int(rng.integers(50, 95)), "side": side, "brightness": rng.normal(0, 20)}

    assert warned(make_set(tmp_path, save, seed=seed, count=12)) == set()


def test_alike_faces_of_a_clip_are_no_evidence(tmp_path):
    """Each clip has its own brightness; frames of one clip must not be learnt and tried on."""
    manifest = make_set(tmp_path, look)
    groups = np.repeat(np.arange(len(manifest) // 2), 2)
    folds = _folds(manifest.labels.astype(int), groups, np.random.default_rng(0))
    assert len(np.unique(folds)) == FOLDS
    assert (folds[::2] == folds[1::2]).all()


def test_faces_of_a_group_a_clip_or_a_picture_are_alike(tmp_path):
    path = tmp_path / "faces.csv"
    path.write_text(
        "path,label,group,video\n"
        "a.png,real,,v\nb.png,fake,,v\nb.png,real,,w\nc.png,real,g,w\nd.png,real,g,\n"
        "e.png,real,,\nf.png,fake,h,\n"
    )
    groups = leak_groups(read_manifest(path))
    assert len(set(groups[:5])) == 1 and len(set(groups)) == 3


def test_too_few_groups_say_nothing(tmp_path):
    (part,) = find_leaks(measure_properties(make_set(tmp_path, count=4)))
    assert part.tellings == () and "4 groups with real faces" in part.too_few


def test_sets_that_tell_the_label(tmp_path):
    """Each set alone is clean; mixed, the one with the other quality is mostly forged."""
    parts = []
    for name, fakes, quality in (("a", 60, 90), ("b", 20, 60)):
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(len(parts))
        for place in range(80):
            label = "fake" if place < fakes else "real"
            Image.fromarray(textured(rng)).save(folder / f"{place}.jpg", quality=quality)
            parts.append(f"{name}/{place}.jpg,{label},{name}")
    path = tmp_path / "both.csv"
    path.write_text("path,label,set\n" + "\n".join(parts))
    one, two, both = find_leaks(measure_properties(read_manifest(path)))
    assert (one.part, two.part, both.part) == ("a", "b", "")
    leaks = {telling.name: telling for telling in both.tellings if telling.leaks}
    assert {SET, "JPEG tables"} <= set(leaks)
    # Of 80 fakes 60 are in a, of 80 reals 20: AUC = P(fake above real) = 0.75 by counting
    assert leaks[SET].auc == pytest.approx(0.75, abs=0.05)
    assert not any(telling.leaks for part in (one, two) for telling in part.tellings)


@pytest.mark.parametrize("save", [coding, shape])
def test_equalised_copies_have_no_leak(save, tmp_path):
    def coloured(rng, fake):  # what was grey would stay grey, which the content tells
        return {name: value for name, value in save(rng, fake).items() if name != "mode"}

    manifest = make_set(tmp_path, coloured, picture=photographed)
    done = equalise(manifest, tmp_path / "copies")
    assert (done.count, done.faults) == (2 * COUNT, ())
    copies = read_manifest(done.manifest)
    assert (copies.labels == manifest.labels).all()
    assert warned(copies) == set()
    for row in range(2 * COUNT):
        with Image.open(copies[row].path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert not {"exif", "icc_profile", "comment"} & set(image.info)
        own = read_image(manifest[row].path).shape
        assert image.size[0] == image.size[1] <= min(own[:2])


def test_equalised_copies_keep_boxes_masks_and_pairs_together(tmp_path):
    rng = np.random.default_rng(0)
    real = textured(rng, 96)
    fake = real.copy()
    fake[30:50, 40:70] = 255 - fake[30:50, 40:70]
    mask = np.zeros((96, 96), np.uint8)
    mask[30:50, 40:70] = 255
    for name, pixels in (("real", real), ("fake", fake), ("mask", mask)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "faces.csv").write_text(
        "path,x0,y0,x1,y1,label,method,paired_real,mask,split,set,group\n"
        "real.png,30,20,80,70,real,,,,val,s,g\n"
        "fake.png,30,20,80,70,fake,swap,real.png,mask.png,val,s,g\n"
    )
    done = equalise(read_manifest(tmp_path / "faces.csv"), tmp_path / "copies", margin=0.0)
    copies = read_manifest(done.manifest)
    assert copies[1].paired_real == copies[0].path and copies[1].box is None
    assert copies.name(1, "method") == "swap" and copies.name(1, "group") == "g"
    assert read_image(copies[0].path).shape == (50, 50, 3)
    marked = read_image(copies[1].mask)[..., 0] > 127
    expected = np.zeros((50, 50), bool)
    expected[10:30, 10:40] = True
    assert (marked == expected).all()
    # 4:2:0 of noise is not exact; the region that is inverted is where it was
    difference = np.abs(read_image(copies[1].path).astype(int) - read_image(copies[0].path))
    assert difference[expected].mean() > 5 * difference[~expected].mean()


def test_what_equalise_refuses_and_reports(tmp_path):
    manifest = make_set(tmp_path, count=3)
    (tmp_path / "000.jpg").write_bytes(b"no picture")
    (tmp_path / "001.jpg").unlink()
    done = equalise(manifest, tmp_path / "copies")
    assert done.count == 4
    assert ["line 2" in done.faults[0], "line 3" in done.faults[1]] == [True, True]
    with pytest.raises(ValueError, match=r"manifest\.csv exists"):
        equalise(manifest, tmp_path / "copies")


def test_matched_gives_all_cells_one_distribution():
    rng = np.random.default_rng(0)
    cells = np.array([0] * 300 + [1] * 300 + [2] * 300)
    values = np.concatenate(
        [rng.integers(100, 200, 300), rng.integers(50, 400, 300), np.full(300, 120)]
    )
    new = matched(values, cells, rng)
    assert (new <= values).all()
    first = np.sort(new[cells == 0])
    for cell in (1, 2):
        assert (np.sort(new[cells == cell]) == first).all()


def test_weighted_auc_is_that_of_repeated_faces():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 50), rng.integers(0, 8, 50) / 8
    weights = rng.integers(0, 4, (3, 50))
    for found, times in zip(weighted_auc(labels, scores, weights), weights, strict=True):
        expected = roc_auc_score(np.repeat(labels, times), np.repeat(scores, times))
        assert found == pytest.approx(expected)


def test_properties_of_one_file(tmp_path):
    pixels = np.full((40, 60, 3), 100, np.uint8)
    pixels[:, :4] = 0
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, quality=77, subsampling=1)
    (tmp_path / "faces.csv").write_text("path,x0,y0,x1,y1,label\na.jpg,10,5,30,35,real\n")
    values = face_properties(read_manifest(tmp_path / "faces.csv")[0])
    assert values["picture size"] == (60, 40) and values["aspect ratio"] == (1.5,)
    assert values["file format"] == ("JPEG",) and values["chroma subsampling"] == (1,)
    assert values["JPEG tables"][1] == pytest.approx(77, abs=0.5)
    assert values["bytes per pixel"] == (path.stat().st_size / 2400,)
    assert values["face size"] == (20, 30) and values["face place"] == (20 / 60, 20 / 40)
    assert values["mean luminance"][0] == pytest.approx(100, abs=2)  # the crop, not the black bar


@pytest.mark.parametrize("quality", [25, 50, 75, 95, 100])
def test_quality_of_the_common_encoder(quality):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    found = jpeg_quality(Image.open(file).quantization)
    assert found == pytest.approx(quality, abs=1.5)

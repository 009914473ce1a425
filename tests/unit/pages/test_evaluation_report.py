"""The report: complete, self-contained, escaped, legible in light and dark, on phone and desk."""

import csv
import html
import html.parser
import io
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from comics.evaluation import evaluate
from comics.evaluation.faces import face_verdicts
from comics.evaluation.robustness import RobustnessTable
from comics.pages.evaluation_gallery import select_faces
from comics.pages.evaluation_report import build_report, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = '<img src="http://example.org/x">&"|'
HEIGHT, WIDTH = 120, 200


def rle_of(x, y, size):
    bitmap = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    bitmap[y : y + size, x : x + size] = 1
    rle = coco_mask.encode(bitmap)
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, a ground truth with a hostile file name, results; the last image is missing."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    names = ["a.png", "b.png", HOSTILE + ".png", "gone.png"]
    annotations, results = [], []
    for image, name in enumerate(names):
        if "/" not in name and name != "gone.png":
            pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        for place in range(4):
            x, label = 5 + 48 * place, (image + place) % 2
            face = {"image_id": image, "category_id": label, "bbox": [x, 40, 40, 40]}
            annotations.append(
                face
                | {"id": len(annotations) + 1, "area": 1600, "iscrowd": 0}
                | {"segmentation": rle_of(x, 40, 40)}
            )
            if (image, place) == (0, 3):
                continue  # missed
            shift = 3 * place
            called = label if (image, place) != (1, 1) else 1 - label
            results.append(
                {"image_id": image, "category_id": called, "score": 0.9 - 0.05 * place}
                | {"bbox": [x, 40 + shift, 40, 40], "segmentation": rle_of(x, 40 + shift, 40)}
            )
    content = {
        "images": [
            {"id": i, "file_name": n, "height": HEIGHT, "width": WIDTH} for i, n in enumerate(names)
        ],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "annotations": annotations,
    }
    (folder / "gt.json").write_text(json.dumps(content))
    (folder / "dt.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def metrics(folder):
    return evaluate(folder / "gt.json", folder / "dt.json")


@pytest.fixture(scope="module")
def report(folder, metrics):
    conditions = [("clean", 0), ("jpeg", 75), ("jpeg", 50)]
    table = RobustnessTable(conditions, [{"segm/AP": v} for v in (0.9, 0.8, math.nan)], ["a fault"])
    return build_report(
        metrics,
        HOSTILE,
        image_root=folder,
        robustness=table,
        robustness_metrics=["segm/AP"],
        provenance={"weights": HOSTILE},
    )


@pytest.fixture(scope="module")
def written(report, tmp_path_factory):
    return write_report(report, tmp_path_factory.mktemp("report"))


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(written):
    return Page(written["report.html"].read_text())


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(page, written):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert re.match(r"data:image|#", attributes.get(name) or "#"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    css = re.sub(r'url\(["\']?#', "", written["report.html"].read_text())
    assert "url(" not in css and "@import" not in css
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_names_are_escaped(page):
    assert HOSTILE in page.text
    assert all("example.org" not in (a.get("src") or "") for _, a in page.tags)


def test_ids_are_there_once(page):
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_everything_is_on_the_page(page, metrics):
    headings = ["Boxes and masks", "Precision and recall, segm", "ROC of faces", "Reliability",
                "AP by size", "What makes up oLRP", "Robustness", "Wrong class", "Missed", "Best",
                "LRP-optimal"]  # fmt: skip
    for heading in headings:
        assert heading in page.text
    assert f"{100 * metrics.flat()['segm/oLRP']:.1f}" in page.text
    assert "a fault" in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 8
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_columns_are_in_the_papers_order(written):
    line = written["report.md"].read_text().split("\n")[4]
    names = [cell.strip() for cell in line.strip("|").split("|")]
    assert names[2:10] == ["AP", "AP_S", "AP_M", "AP_L", "oLRP", "Loc", "FP", "FN"]


def test_the_same_figures_in_every_format(written, metrics, report):
    content = json.loads(written["figures.json"].read_text())
    rows = list(csv.reader(io.StringIO(written["figures.csv"].read_text())))
    table = {name: value for name, value in rows[1:]}
    for name, value in metrics.flat().items():
        if math.isnan(value):
            assert content["figures"][name] is None and table[name] == ""
        else:
            assert content["figures"][name] == value == float(table[name])
    assert content["figures"]["face/faces_found"] == pytest.approx(15 / 16)
    assert content["figures"]["robustness/jpeg 75/segm/AP"] == 0.8
    assert content["notes"] == report.notes


def test_galleries_show_what_their_heading_says(metrics, report):
    verdicts = face_verdicts(metrics, "segm")
    areas = metrics.ground_truth.areas[verdicts.face]
    wrong, missed, outline, best = select_faces(verdicts, areas).values()
    called = (verdicts.fake_probability >= 0.5).astype(int)
    assert len(wrong) == 1 and called[wrong[0]] != verdicts.labels[wrong[0]]
    assert len(missed) == 1 and np.isnan(verdicts.fake_probability[missed[0]])
    assert (np.diff(verdicts.iou[outline]) >= 0).all() and verdicts.iou[outline[0]] < 0.7
    assert verdicts.iou[best[0]] == 1
    assert (called[best] == verdicts.labels[best]).all()
    shown = report.galleries["Missed, the largest first"]
    assert [example.verdict for example in shown] == ["missed"]


def test_pictures_that_cannot_be_read_are_named(report):
    assert any("gone.png" in note for note in report.notes)
    assert any("<img src=" in note for note in report.notes)


def test_file_names_may_not_leave_the_image_folder(folder):
    truth = json.loads((folder / "gt.json").read_text())
    for image in truth["images"]:
        image["file_name"] = "../" + folder.name + "/a.png"
    report = build_report(evaluate(truth, folder / "dt.json"), "t", image_root=folder)
    assert not any(report.galleries.values())
    assert any("leads out of the image folder" in note for note in report.notes)


def test_a_cut_out_shows_the_truth_and_the_detection(folder, metrics):
    import base64

    plain = build_report(metrics, "t", image_root=folder)
    example = plain.galleries["Best"][0]
    data = base64.b64decode(example.picture.split(",")[1])
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    yellow = (picture[..., 0] > 200) & (picture[..., 1] > 180) & (picture[..., 2] < 90)
    assert yellow.sum() > 300


def test_boxes_only(folder):
    metrics = evaluate(folder / "gt.json", folder / "dt.json", ["bbox"])
    report = build_report(metrics, "boxes", image_root=folder)
    assert report.galleries["Best"] and report.faces is not None


def test_no_detection_and_no_face_category_still_make_a_report(folder, tmp_path):
    truth = json.loads((folder / "gt.json").read_text())
    empty = build_report(evaluate(truth, []), "nothing", image_root=folder)
    assert empty.faces is None and any("was found" in note for note in empty.notes)
    truth["categories"][1]["name"] = "Dog"
    other = build_report(evaluate(truth, []), "dogs")
    paths = write_report(other, tmp_path)
    assert "need two categories" in paths["report.html"].read_text()


def screenshot(page, path, width, scheme):
    dark = "0" if scheme == "dark" else "1"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--blink-settings=preferredColorScheme={dark}", f"--window-size={width},1600"]
    subprocess.run(
        [*command, f"--screenshot={path}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return np.asarray(Image.open(path).convert("L")).astype(float)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(written, tmp_path, width):
    page = written["report.html"]
    light = screenshot(page, tmp_path / "light.png", width, "light")
    dark = screenshot(page, tmp_path / "dark.png", width, "dark")
    assert light.shape[1] == width
    assert np.median(light) > 200 and np.median(dark) < 60
    # The page itself may not scroll sideways; tables and wide charts do, inside. A frame of that
    # width, because a window may have a least one.
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(), flags=re.S)
    script = "<script>parent.document.title = document.documentElement.scrollWidth</script>"
    inside = html.escape(text.replace("</body>", script + "</body>"))
    measured = tmp_path / "measured.html"
    measured.write_text(
        f'<!DOCTYPE html><title>none</title><iframe style="border:0;width:{width}px;height:900px" '
        f'srcdoc="{inside}"></iframe>'
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--window-size=1500,1600", measured.as_uri()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert int(re.search(r"<title>(\d+)</title>", done.stdout)[1]) <= width

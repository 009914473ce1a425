"""tools/make_mask_codes.py: the basis, its file, exit codes; against scikit-learn's batch PCA."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from comics.data.coco import load_coco
from comics.engine import mask_codes
from comics.engine.mask_codes import MaskCodeFit, face_masks, write_mask_codes
from comics.modeling.detectors.meinst.coding import MaskCoding, read_basis

TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_mask_codes.py"
DIM, SIZE = 5, 12


@pytest.fixture
def run(capsys):
    """Runs the tool in this process: an object with returncode, stdout and stderr."""
    spec = importlib.util.spec_from_file_location("make_mask_codes", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(*arguments):
        code = tool.main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=output.out, stderr=output.err)

    return call


def polygon(rng, x, y, width, height):
    """An ellipse within a box, its radius wobbling."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    wobble = (
        1 - 0.3 * rng.random() * (1 + np.cos(rng.integers(1, 4) * angle + 6 * rng.random())) / 2
    )
    xs = x + width / 2 * (1 + wobble * np.cos(angle))
    ys = y + height / 2 * (1 + wobble * np.sin(angle))
    return np.stack((xs, ys), axis=1).ravel().tolist()


@pytest.fixture
def source(tmp_path):
    """A set of 20 images that do not exist, with two faces each."""
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.png", "width": 120, "height": 60} for i in range(20)]
    annotations = []
    for number in range(40):
        x, y = 60 * (number % 2) + 5 * rng.random(), 5 * rng.random()
        width, height = 30 + 20 * rng.random(), 30 + 20 * rng.random()
        annotations.append(
            {
                "id": number,
                "image_id": number // 2,
                "category_id": number % 2,
                "bbox": [x, y, width, height],
                "segmentation": [polygon(rng, x, y, width, height)],
            }
        )
    categories = [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    return path


def edit(source, change):
    content = json.loads(source.read_text())
    change(content["annotations"])
    source.write_text(json.dumps(content))


def crops_of(source):
    return torch.cat([face_masks(record, SIZE).crops for record in load_coco(source)])


def options(tmp_path, *more):
    return ("--output", tmp_path / "out/codes.npz", "--dim", DIM, "--size", SIZE, *more)


def test_the_components_are_those_of_a_batch_pca(run, source, tmp_path):
    done = run(source, *options(tmp_path, "--no-sigmoid"))
    assert done.returncode == 0, done.stderr
    assert "5 components of 40 masks" in done.stdout
    crops = crops_of(source).flatten(1).double().numpy()
    expected = PCA(DIM, svd_solver="full").fit(crops)
    with np.load(tmp_path / "out/codes.npz", allow_pickle=False) as file:
        assert file["components_c"].shape == (1, DIM, SIZE**2)
        assert not file["sigmoid"]
        np.testing.assert_allclose(file["mean_c"][0], expected.mean_, atol=1e-6)
        alike = np.abs((file["components_c"][0] * expected.components_).sum(axis=1))
        np.testing.assert_allclose(alike, 1, atol=1e-4)  # the sign is free
        for key, value in (
            ("explained_variance_c", expected.explained_variance_),
            ("ratio_c", expected.explained_variance_ratio_),
        ):
            np.testing.assert_allclose(file[key][0], value, rtol=1e-4)


def test_codes_are_white_and_masks_come_back(run, source, tmp_path):
    done = run(source, *options(tmp_path))
    assert done.returncode == 0, done.stderr
    coding = MaskCoding(DIM, SIZE)
    coding.set_basis(read_basis(tmp_path / "out/codes.npz", DIM, SIZE, sigmoid=True))
    crops = crops_of(source)
    torch.manual_seed(0)
    codes = coding.encode(crops)
    assert codes.mean(dim=0).abs().max() < 0.2
    torch.testing.assert_close(codes.std(dim=0), torch.ones(DIM), rtol=0.15, atol=0)
    decoded = coding.decode(codes) >= 0.5
    overlap = ((crops & decoded).sum((1, 2)) / (crops | decoded).sum((1, 2))).mean().item()
    said = float(done.stdout.split("originals by ")[1].split(" IoU")[0])
    assert said == pytest.approx(overlap, abs=0.01)


def test_one_seed_gives_one_file(run, source, tmp_path):
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / f"{name}.npz"
        assert run(source, "--output", path, "--dim", DIM, "--seed", seed).returncode == 0
        with np.load(path) as file:
            files.append(file["components_c"])
    assert np.array_equal(files[0], files[1])
    assert not np.array_equal(files[0], files[2])


def test_many_small_batches_span_nearly_the_same_masks(source):
    crops = crops_of(source)
    # 40 is no multiple of 6: the rest must not become a batch of fewer faces than coefficients
    at_once, in_parts = (MaskCodeFit(DIM, SIZE, sigmoid=False, batch=size) for size in (99, 6))
    at_once.add(crops)
    for part in crops.split(3):
        in_parts.add(part)
    one, other = at_once.finish(), in_parts.finish()
    assert one.faces == other.faces == 40
    torch.testing.assert_close(one.basis.means, other.basis.means, rtol=0, atol=1e-5)
    # incremental PCA forgets what it cuts off at each batch
    assert other.basis.variances.sum() / one.basis.variances.sum() > 0.9
    assert abs(one.iou - other.iou) < 0.03


def test_the_sample_for_the_quality_is_spread_and_bounded(source, monkeypatch):
    monkeypatch.setattr(mask_codes, "SAMPLE", 4)
    fit = MaskCodeFit(DIM, SIZE)
    crops = crops_of(source)
    for part in crops.split(2):
        fit.add(part)
    assert 4 <= len(fit._sample) < 8
    step = fit._step
    assert torch.equal(torch.stack(fit._sample), crops.flatten(1)[::step])


def test_faces_without_masks_are_left_out_and_named(run, source, tmp_path):
    def change(annotations):
        del annotations[3]["segmentation"]
        annotations[4]["iscrowd"] = 1

    edit(source, change)
    done = run(source, *options(tmp_path))
    assert done.returncode == 3
    assert "1.png, image 1, annotation 3: no segmentation" in done.stderr
    assert "annotation 4" not in done.stderr
    assert "38 masks" in done.stdout


def test_many_faces_left_out_are_counted(run, source, tmp_path):
    edit(source, lambda faces: [face.pop("segmentation") for face in faces[:30]])
    done = run(source, *options(tmp_path))
    assert done.returncode == 3
    assert "10 faces more" in done.stderr


def test_a_set_that_cannot_be_read_does_not_stop_the_others(run, source, tmp_path):
    done = run(tmp_path / "absent.json", "no_such_name", source, *options(tmp_path))
    assert done.returncode == 3
    assert "absent.json" in done.stderr
    assert "openforensics_train" in done.stderr  # the choices
    assert (tmp_path / "out/codes.npz").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dim", 41, "--size", SIZE), "40 faces with masks; 41 coefficients"),
        (("--dim", 145, "--size", SIZE), "12 x 12 has no code of 145"),
        (("--dim", 0), "no code of 0"),
    ],
)
def test_impossible_codes_write_nothing(run, source, tmp_path, arguments, message):
    done = run(source, "--output", tmp_path / "codes.npz", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.glob("*.npz"))


def test_masks_that_do_not_vary_are_refused():
    fit = MaskCodeFit(3, SIZE, sigmoid=False)
    crops = torch.zeros(30, SIZE, SIZE, dtype=torch.bool)
    crops[:10, 2:5] = True
    fit.add(crops)
    with pytest.raises(ValueError, match="vary in 1 ways only"):
        fit.finish()


def test_nothing_readable_and_an_output_that_cannot_be_written(run, source, tmp_path):
    assert run(tmp_path / "absent.json", *options(tmp_path)).returncode == 2
    (tmp_path / "file").write_text("")
    done = run(source, "--output", tmp_path / "file/codes.npz", "--dim", DIM, "--size", SIZE)
    assert done.returncode == 2
    assert "nothing was written" in done.stderr


def test_a_write_that_fails_leaves_the_old_file(source, tmp_path, monkeypatch):
    fit = MaskCodeFit(DIM, SIZE)
    fit.add(crops_of(source))
    codes = fit.finish()
    path = tmp_path / "new/codes.npz"
    write_mask_codes(path, codes, sigmoid=True)
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(mask_codes.np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_mask_codes(path, codes, sigmoid=True)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["codes.npz"]


def test_help_and_wrong_arguments(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "Exit code" in text
    assert "PATH_COMPONENTS" in text
    with pytest.raises(SystemExit) as stopped:
        run("set.json")
    assert stopped.value.code == 2

"""``comics check`` on annotation files and manifests: exit codes, text and JSON."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from comics.cli import main

TOOLS = Path(__file__).resolve().parents[2] / "tools"
DOORS = ("check_dataset", "check_manifest")  # the names of the command's two halves before


@pytest.fixture
def run(capsys):
    """Runs the command in this process: an object with returncode, stdout and stderr."""

    def call(*arguments):
        code = main(["check", *(str(argument) for argument in arguments)])
        output = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=output.out, stderr=output.err)

    return call


@pytest.fixture
def source(tmp_path):
    """A clean set of one image."""
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    content = {
        "images": [{"id": 0, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 10]}],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
    }
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    return path


def edit(source, change):
    content = json.loads(source.read_text())
    change(content)
    source.write_text(json.dumps(content))


def test_clean_set(run, source, tmp_path):
    done = run(source, "--json", tmp_path / "out/report.json")
    assert done.returncode == 0, done.stderr
    assert "usable; 1 images, 1 faces" in done.stdout
    (report,) = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["usable"], report["faults"]) == (True, [])


def test_faults_are_listed_with_file_and_id(run, source, tmp_path):
    edit(source, lambda c: c["annotations"][0].update(bbox=[35, 2, 10, 10]))
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    edit(
        source,
        lambda c: c["images"].append({"id": 4, "file_name": "b.png", "width": 40, "height": 30}),
    )
    done = run(source, "--json", tmp_path / "report.json")
    assert done.returncode == 1, done.stderr
    assert (
        "image 0, annotation 0: annotations[0]: bbox [35, 2, 10, 10] reaches outside" in done.stdout
    )
    assert "a.png, image 0: no such file [missing-image: training replaces" in done.stdout
    (report,) = json.loads((tmp_path / "report.json").read_text())
    assert [fault["code"] for fault in report["faults"]] == ["box-clipped", "missing-image"]


def test_fast_reads_headers_only(run, source, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(path.read_bytes()[:60])
    assert run(source).returncode == 2  # its only image: nothing is left
    assert run(source, "--fast").returncode == 0


def test_unusable_sets_do_not_stop_the_others(run, source, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"images": []}')
    done = run(tmp_path / "absent.json", bad, "no_such_name", source)
    assert done.returncode == 2
    assert "absent.json" in done.stderr
    assert "openforensics_train" in done.stderr  # the choices
    assert "has no key 'annotations'" in done.stdout
    assert "set.json: usable" in done.stdout


def test_images_in_another_folder_and_many_faults(run, source, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "photos/a.png")
    assert run(f"{source}@{tmp_path}/photos").returncode == 0
    face = {"image_id": 0, "category_id": 0, "bbox": [0, 0, 0, 0]}
    edit(source, lambda c: c["annotations"].extend({**face, "id": i} for i in range(1, 31)))
    done = run(f"{source}@{tmp_path}/photos", "--show", 5)
    assert done.returncode == 1
    assert done.stdout.count("has no width or no height") == 5
    assert "25 more of box-empty" in done.stdout


@pytest.mark.parametrize("name", DOORS)
def test_as_a_program(name, source):
    done = subprocess.run(
        [sys.executable, str(TOOLS / f"{name}.py"), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "usable" in done.stdout


def test_help_and_wrong_arguments(run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--help")
    assert stopped.value.code == 0
    assert "Exit code" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2


@pytest.mark.parametrize("name", DOORS)
def test_tools_of_a_checkout_take_both_kinds(name, source, manifest, capsys):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main([str(source), str(manifest)]) == 0
    out = capsys.readouterr().out
    assert "usable; 1 images, 1 faces" in out
    assert "2 rows, 0 faults" in out


@pytest.fixture
def manifest(tmp_path):
    """A clean manifest of two rows."""
    (tmp_path / "a.png").touch()
    path = tmp_path / "faces.csv"
    path.write_text("path,label\na.png,real\na.png,fake\n")
    return path


def test_faults_of_a_manifest(run, manifest, tmp_path):
    manifest.write_text("path,label,paired_real\na.png,real,\na.png,fake,gone.png\n")
    done = run(manifest, "--json", tmp_path / "report.json")
    assert done.returncode == 1
    assert "line 3: no such paired real picture" in done.stdout
    assert "2 rows, 1 faults" in done.stdout
    (report,) = json.loads((tmp_path / "report.json").read_text())
    assert (report["usable"], report["rows"]) == (True, 2)
    assert [fault["code"] for fault in report["faults"]] == ["missing-pair"]


def test_manifests_that_cannot_be_used(run, tmp_path):
    path = tmp_path / "faces.csv"
    path.write_text("path,label\na.png,real\n")
    for entry, words in (
        (path, "is fake"),
        (tmp_path / "none.csv", "no manifest"),
        (f"{path}@split=train", "no row with split=train"),
        (f"{path}@split", "is not column=value"),
        (tmp_path, "no dataset named"),
    ):
        done = run(entry)
        assert done.returncode == 2, entry
        assert words in done.stderr


def test_manifests_are_checked_together(run, manifest, tmp_path):
    other = tmp_path / "other.csv"
    shutil.copy(manifest, other)
    done = run(manifest, other)
    assert done.returncode == 1
    assert "[shared-picture]" in done.stdout


def test_content_tells_what_a_file_is(run, source, manifest, tmp_path):
    swapped = {source: tmp_path / "set.csv", manifest: tmp_path / "faces.json"}
    for path, name in swapped.items():
        path.rename(name)
        done = run(name)
        assert done.returncode == 1, done.stderr
        assert "training knows one by a name that ends in" in done.stdout
        assert "usable" in done.stdout or "2 rows, 0 faults" in done.stdout


def test_both_kinds_in_one_report(run, source, manifest, tmp_path):
    done = run(source, manifest, tmp_path / "none.csv", "--json", tmp_path / "report.json")
    assert done.returncode == 2
    reports = json.loads((tmp_path / "report.json").read_text())
    assert [report["usable"] for report in reports] == [True, False]  # manifests are one set


def test_leaks_are_looked_for_in_both_kinds(run, source, manifest, tmp_path):
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    done = run(source, manifest, "--leaks", "--json", tmp_path / "report.json")
    assert done.stdout.count("not measured") == 2  # too few faces
    reports = json.loads((tmp_path / "report.json").read_text())
    assert all("leaks" in report["leak_check"] for report in reports)

"""tools/check_dataset.py: exit codes, text and JSON."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_dataset.py"


@pytest.fixture
def run(capsys):
    """Runs the tool in this process: an object with returncode, stdout and stderr."""
    spec = importlib.util.spec_from_file_location("check_dataset", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(*arguments):
        code = tool.main([str(argument) for argument in arguments])
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


def test_as_a_program(source):
    done = subprocess.run(
        [sys.executable, str(TOOL), str(source)], capture_output=True, text=True, check=False
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

import importlib.util
from pathlib import Path

from comics.data.faces.manifest_files import read_manifest

PATH = Path(__file__).resolve().parents[2] / "tools/make_face_videos.py"
SPEC = importlib.util.spec_from_file_location("make_face_videos", PATH)
make_face_videos = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_face_videos)


def test_a_set_is_made_and_continued(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "set"), "--identities", "4", "--shares", "1", "0", "1"]
    arguments += [
        "--clips",
        "1",
        "--frames",
        "2",
        "--size",
        "48",
        "--methods",
        "down_up",
        "--quiet",
    ]
    assert make_face_videos.main(arguments) == 0
    assert "48 crops, 0 clips found finished" in capsys.readouterr().out
    assert len(read_manifest(tmp_path / "set/manifest.csv")) == 4 * 2 * 2 * 3
    assert make_face_videos.main(arguments) == 0
    assert "4 clips found finished" in capsys.readouterr().out


def test_wrong_arguments(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "set"), "--quiet"]
    for more, words in (
        (["--methods", "morph"], "no forgery method 'morph'"),
        (["--identities", "3"], "one identity"),
        (["--source", str(tmp_path / "none.json")], "none.json"),
        (["--levels", "low"], "compression is"),
    ):
        assert make_face_videos.main([*arguments, *more]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "set").exists()

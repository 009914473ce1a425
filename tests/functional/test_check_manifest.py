import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("check_manifest", ROOT / "tools/check_manifest.py")
check_manifest = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_manifest)


def test_faults_are_listed(tmp_path, capsys):
    path = tmp_path / "faces.csv"
    (tmp_path / "a.png").write_bytes(b"x")
    path.write_text("path,label,paired_real\na.png,real,\na.png,fake,gone.png\n")
    assert check_manifest.main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "line 3: no such paired real picture" in out
    assert "2 rows, 1 faults" in out
    path.write_text("path,label\na.png,real\na.png,fake\n")
    assert check_manifest.main([str(path)]) == 0


def test_what_cannot_be_used(tmp_path, capsys):
    path = tmp_path / "faces.csv"
    path.write_text("path,label\na.png,real\n")
    for entry, words in (
        (path, "is fake"),
        (tmp_path / "none.csv", "no manifest"),
        (f"{path}@split=train", "no row with split=train"),
        ("faces.json", "ends in .csv"),
    ):
        assert check_manifest.main([str(entry)]) == 2
        assert words in capsys.readouterr().err

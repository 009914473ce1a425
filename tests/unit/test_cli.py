"""The command line ``comics``: what it says, and what it refuses."""

import subprocess
import sys

import pytest

import comics
from comics import cli


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_teaches(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert len(shown) > 500
    for word in ("Exit code", "Example", f"comics {command}"):
        assert word in shown
    assert "{prog}" not in shown


def test_the_commands_are_listed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(command in shown for command in cli.COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"comics {comics.__version__}\n"


def test_help_needs_no_model_library():
    code = "import comics.cli, sys; comics.cli.build_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name an INPUT, or a list"),
        (["-", "--list", "-"], "one list only"),
        (["--list", "nothing.txt"], "the list nothing.txt cannot be read: No such file"),
        (["photo.jpg", "--shard", "9/8"], "shard 9/8"),
        (["photo.jpg"], "no model file"),
    ],
)
def test_unusable_arguments(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMICS_WEIGHTS", raising=False)
    monkeypatch.setattr("comics.inference.default_weights.SHIPPED", tmp_path / "none")
    assert cli.main(["detect", "--output", "out", *words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("comics detect: ") and message in shown
    assert not (tmp_path / "out").exists()

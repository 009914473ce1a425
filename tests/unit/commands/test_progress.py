"""The bar in a terminal, and nothing of it elsewhere."""

import io
import sys

import pytest

from comics.commands.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def outputs(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def go():
    with ProgressBar() as bar:
        bar.show(3, 10)  # an earlier run's
        for done in range(4, 11):
            bar.say(f"file {done}")
            bar.show(done, 10)


def test_without_a_terminal_there_are_lines_alone(outputs):
    go()
    assert outputs[0].getvalue().split("\n")[:7] == [f"file {n}" for n in range(4, 11)]
    assert outputs[1].getvalue() == ""


def test_a_terminal_gets_a_bar_with_the_time_left(outputs, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    go()
    assert outputs[0].getvalue().count("file ") == 7
    shown = terminal.getvalue()
    assert "3/10" in shown and "<" in shown  # done, of how many, and the time left
    assert shown.endswith("\r")  # it leaves nothing behind


def test_a_run_that_never_began_shows_nothing(outputs):
    with ProgressBar() as bar:
        bar.say("nothing to do")
    assert outputs[0].getvalue() == "nothing to do\n"

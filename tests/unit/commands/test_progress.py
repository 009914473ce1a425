"""The bar in a terminal, and nothing of it elsewhere."""

import io
import sys

from comics.commands.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def go():
    with ProgressBar() as bar:
        bar.show(3, 10)  # an earlier run's
        for done in range(4, 11):
            bar.say(f"file {done}")
            bar.show(done, 10)


def test_without_a_terminal_there_are_lines_alone(capsys):
    go()
    shown = capsys.readouterr()
    assert shown.out == "".join(f"file {n}\n" for n in range(4, 11)) and shown.err == ""


def test_a_terminal_gets_a_bar_with_the_time_left(capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    go()
    assert capsys.readouterr().out.count("file ") == 7
    shown = terminal.getvalue()
    assert "3/10" in shown and "<" in shown  # done, of how many, and the time left
    assert shown.endswith("\r")  # it leaves nothing behind


def test_a_run_that_never_began_shows_nothing(capsys):
    with ProgressBar() as bar:
        bar.say("nothing to do")
    assert capsys.readouterr() == ("nothing to do\n", "")

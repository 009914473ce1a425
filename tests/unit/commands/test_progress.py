"""The bar in a terminal, and nothing of it elsewhere."""

import io
import re
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


def frames(total):
    with ProgressBar() as bar:
        bar.show(0, 2)
        for done in (25, 50, 75):
            bar.show_frames("clip.mp4", "looked at", done, total)
        bar.show_frames("clip.mp4", "annotated", 10, total)
        bar.show(1, 2)
        bar.say("clip.mp4: done")


def test_within_a_video_frames_are_counted_and_the_time_left_told(capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    monkeypatch.setattr("comics.commands.progress.EVERY_S", 0)
    frames(100)
    shown = terminal.getvalue()
    assert "clip.mp4 looked at" in shown and "75/100" in shown
    assert re.search(r"75/100 \[\d\d:\d\d<\d\d:\d\d", shown)  # the time left
    assert "clip.mp4 annotated" in shown and "10/100" in shown
    assert capsys.readouterr().out == "clip.mp4: done\n"


def test_where_nobody_knows_how_long_it_is_there_is_no_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    monkeypatch.setattr("comics.commands.progress.EVERY_S", 0)
    frames(None)
    of_video = [part for part in terminal.getvalue().split("\r") if "clip.mp4" in part]
    assert any("75frame" in part for part in of_video)
    assert not any("<" in part or "/100" in part for part in of_video)


def test_frames_without_a_terminal_say_nothing(capsys):
    frames(100)
    assert capsys.readouterr() == ("clip.mp4: done\n", "")

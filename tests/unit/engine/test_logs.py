import json
import logging

import pytest
import torch

from comics.engine.logs import MetricsLog, Progress, RunningMeans, setup_logging, truncate_lines


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_means_over_the_steps_that_have_the_name():
    means = RunningMeans()
    means.add({"a": torch.tensor(1.0, requires_grad=True), "b": 4})
    means.add({"a": torch.tensor(2.0, dtype=torch.float64)})
    assert means.pop() == {"a": 1.5, "b": 4.0}
    assert means.pop() == {}


def test_means_continue_from_their_state():
    values = torch.randn(7, generator=torch.Generator().manual_seed(0))
    whole, first = RunningMeans(), RunningMeans()
    for value in values:
        whole.add({"a": value})
    for value in values[:3]:
        first.add({"a": value})
    second = RunningMeans()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())), "cpu")
    for value in values[3:]:
        second.add({"a": value})
    assert second.pop() == whole.pop()


def test_log_is_cut_to_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path, size=0, iteration=0, tensorboard=False)
    log.write(1, {"a": 0.5})
    size = log.size()
    log.write(2, {"a": float("nan"), "b": float("inf")})
    log.close()
    assert lines(log.path)[1] == {"iteration": 2, "a": None, "b": None}
    with log.path.open("a") as file:
        file.write('{"iteration": 3, "a"')  # killed while writing

    log = MetricsLog(tmp_path, size=size, iteration=1, tensorboard=False)
    log.write(2, {"a": 0.25})
    log.close()
    assert lines(log.path) == [{"iteration": 1, "a": 0.5}, {"iteration": 2, "a": 0.25}]


@pytest.mark.parametrize(
    "size, kept", [(0, b""), (3, b""), (5, b"ab c\n"), (7, b"ab c\n"), (99, b"ab c\nde\n")]
)
def test_truncate_keeps_whole_lines(tmp_path, size, kept):
    path = tmp_path / "a"
    path.write_bytes(b"ab c\nde\nf")
    truncate_lines(path, size)
    assert path.read_bytes() == kept


def test_tensorboard_events(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = MetricsLog(tmp_path, size=0, iteration=0, tensorboard=True)
    log.write(20, {"loss/total": 0.5})
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/total")] == [(20, 0.5)]


def test_tensorboard_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'comics-forensics\[tensorboard\]'"):
        MetricsLog(tmp_path, size=0, iteration=0, tensorboard=True)


@pytest.fixture
def package_logger():
    logger = logging.getLogger("comics")
    before, level = list(logger.handlers), logger.level
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.handlers[:] = before
    logger.setLevel(level)


def test_messages_go_to_console_and_file_once(tmp_path, capsys, package_logger):
    setup_logging(tmp_path)
    setup_logging(tmp_path)
    logging.getLogger("comics.engine.x").info("hello")
    assert capsys.readouterr().err.count("hello") == 1
    assert (tmp_path / "log.txt").read_text().count("hello") == 1


def test_other_processes_only_warn(tmp_path, capsys, package_logger):
    setup_logging(tmp_path / "new", main_process=False)
    logging.getLogger("comics.engine.x").info("hello")
    logging.getLogger("comics.engine.x").warning("careful")
    shown = capsys.readouterr().err
    assert "hello" not in shown and "careful" in shown
    assert not (tmp_path / "new").exists()


def test_progress_is_silent_without_a_terminal(capsys):
    progress = Progress(3, 1, shown=True)
    progress.advance()
    progress.show({"loss": 0.5})
    progress.close()
    assert capsys.readouterr() == ("", "")

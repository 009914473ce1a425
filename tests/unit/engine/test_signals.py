import os
import signal

import pytest

from comics.engine import signals
from comics.engine.signals import StopRequest


@pytest.mark.parametrize("signum", signals.STOP_SIGNALS)
def test_first_signal_is_noted_and_its_repetition_ignored(signum):
    before = signal.getsignal(signum)
    with StopRequest() as stop:
        assert stop.signum == 0
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signum
    assert signal.getsignal(signum) is before


def test_late_second_signal_ends_at_once(monkeypatch):
    with pytest.raises(SystemExit) as ended, StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(signals, "SAME_SIGNAL_SECONDS", -1.0)
        assert stop.signum == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
    assert ended.value.code == 130


def test_at_once_is_over_at_its_end():
    with StopRequest() as stop:
        with pytest.raises(SystemExit) as ended, stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert ended.value.code == 143 and stop.signum == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM

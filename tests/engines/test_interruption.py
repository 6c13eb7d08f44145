"""A signal ends a run between two results."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from esp_medsam_monai.engines.interruption import Interruption

# ruff: noqa: PT012 -- what happens between the signal and the end is what is tested

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_values_raises_at_once(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), Interruption():
        os.kill(os.getpid(), number)
        pytest.fail("the signal passed unseen")


@pytest.mark.parametrize("number", SIGNALS)
def test_values_waits_while_held(number: int) -> None:
    written = False
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        interruption.hold()
        os.kill(os.getpid(), number)
        written = True
        interruption.release()
        pytest.fail("the signal was forgotten")
    assert written


def test_values_second_signal_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        interruption.hold()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal waited")


def test_values_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption() as interruption:
        assert [signal.getsignal(number) for number in SIGNALS] != before
        interruption.hold()
        interruption.release()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_values_other_threads_get_no_signals() -> None:
    errors = []

    def work() -> None:
        try:
            with Interruption() as interruption:
                interruption.hold()
                interruption.release()
        except Exception as error:  # reported below
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []

"""A signal ends a run between two results."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from esp_medsam_monai.engines.interruption import Interruption

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# ruff: noqa: PT012 -- what happens between the signal and the end is what is tested

SIGNALS = [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGINT)]


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


@pytest.mark.parametrize("number", SIGNALS[1:])
def test_values_repetition_by_a_machine_waits(number: int) -> None:
    """A terminal that closes and the shell in it both send SIGHUP."""
    written = False
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        interruption.hold()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        written = True
        interruption.release()
    assert written


def test_values_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_values_workers_are_left_to_their_loader() -> None:
    before = signal.signal(signal.SIGCHLD, torch_would_raise)
    try:
        with Interruption() as interruption:
            interruption.leave_workers_to_loader()
            interruption.leave_workers_to_loader()
            os.kill(os.getpid(), signal.SIGCHLD)
        assert signal.getsignal(signal.SIGCHLD) == torch_would_raise
    finally:
        signal.signal(signal.SIGCHLD, before)


def torch_would_raise(*_: object) -> None:
    pytest.fail("blamed on whatever runs at this moment")


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

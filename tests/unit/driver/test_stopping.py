"""A signal sets the flag; work that looks at none is interrupted, and who takes the signal's handler away does not keep it."""

import contextlib
import os
import signal
import sys

import pytest

from workers.driver.stopping import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_flag_and_a_second_one_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), number)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_work_that_looks_at_no_flag(number: signal.Signals) -> None:
    with stop_on_signals() as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            os.kill(os.getpid(), number)
        assert stop.is_set()


def test_work_that_swallows_the_interrupt_is_interrupted_when_it_ends() -> None:
    with stop_on_signals() as stop, pytest.raises(KeyboardInterrupt), stop.at_once(), contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_work_that_looks_at_no_flag_is_not_begun_after_a_signal() -> None:
    begun = []
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            begun.append(1)
    assert begun == []


def test_a_library_that_takes_the_handler_over_is_a_stop_while_it_works_and_none_of_our_business_later() -> None:
    def exits(number: int, frame: object) -> None:
        sys.exit(number)

    with stop_on_signals() as stop:
        with stop.at_once():
            signal.signal(signal.SIGTERM, exits)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()

    def takes_over() -> None:
        signal.signal(signal.SIGTERM, exits)
        os.kill(os.getpid(), signal.SIGTERM)

    with stop_on_signals() as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            takes_over()
        assert stop.is_set()

"""Calls in worker processes: whatever becomes of them, the caller goes on and knows it."""

import os
import signal
import threading

import isolated_calls as calls
import pytest

from cxr_data.core.errors import DataError
from cxr_data.core.isolated import TIMEOUT, Lost, call_each


def each(function, arguments, seconds=30.0, count=1):
    return list(call_each(function, arguments, seconds=seconds, count=count))


def test_results_are_in_the_order_of_the_arguments():
    assert each(calls.double, range(50), count=2) == [2 * number for number in range(50)]
    assert each(calls.double, []) == []


@pytest.mark.parametrize("how", [signal.SIGSEGV, "exit 3"])
def test_a_call_that_ends_its_process_is_lost_and_the_others_are_made(how):
    first, second = each(calls.end, [how, "exit 4"])
    assert first == Lost("signal SIGSEGV" if how == signal.SIGSEGV else "exit code 3")
    assert second == Lost("exit code 4")


def test_a_call_that_hangs_is_lost():
    assert each(calls.end, ["hang"], seconds=0.2) == [Lost(TIMEOUT)]


def test_a_process_that_something_else_ended_gets_a_second_try(tmp_path):
    assert each(calls.end_once, [tmp_path / "mark"]) == ["done"]


def test_a_call_that_ends_its_process_long_after_later_ones_costs_no_result(tmp_path):
    lost, *found = each(calls.end_behind_the_others, [(tmp_path, number) for number in range(60)], count=2)
    assert lost == Lost("signal SIGABRT")
    assert found == list(range(1, 60))


def test_an_idle_process_is_used_again_and_replaced_where_it_ended():
    (first,), (second,) = each(calls.own_process, [0]), each(calls.own_process, [0])
    assert first == second != os.getpid()
    os.kill(first, signal.SIGKILL)
    assert each(calls.own_process, [0]) != [first]


@pytest.mark.parametrize("value", ["one", "another"])
def test_a_process_has_the_environment_of_its_caller(value, monkeypatch):
    monkeypatch.setenv("CXR_TEST", value)
    assert each(calls.environment_of, ["CXR_TEST"]) == [value]


def test_calls_of_several_threads_do_not_meet():
    found = {}

    def begin(number):
        found[number] = each(calls.double, [number, number + 1])

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [2 * n, 2 * n + 2] for n in range(3)}


@pytest.mark.parametrize(("kind", "error"), [("data", DataError), ("defect", RuntimeError)])
def test_what_a_call_raises_is_raised(kind, error):
    with pytest.raises(error, match="bucket" if kind == "data" else "ZeroDivisionError"):
        each(calls.fail, [kind])


def test_processes_that_cannot_even_begin_are_not_started_for_ever():
    with pytest.raises(DataError, match="exit code 3"):
        each(calls.EndsWhereItIsImported(), [0])


def test_memory_beyond_the_limit_is_refused_and_the_process_lives():
    assert each(calls.taken, [50, 150, 50, 150]) == [50, 0, 50, 0]

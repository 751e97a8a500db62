"""Progress on a terminal and in a log."""

import contextlib
import io
import sys
import time

import pytest

from cxr_data.core import progress_bar as module
from cxr_data.core.progress_bar import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def drawn(self) -> list[str]:
        return self.getvalue().replace("\r", "\n").split("\n")


@pytest.fixture
def on_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    # Not monkeypatch: pytest captures stderr anew between a fixture and its test.
    return contextlib.redirect_stderr(Terminal())


@pytest.fixture
def in_log():
    return contextlib.redirect_stderr(io.StringIO())


def test_a_bar_is_no_wider_than_100_columns_and_goes_away(on_terminal):
    with on_terminal as terminal:
        with progress_bar("epoch 100/100", "images", 1_000_000, initial=500_000) as bar:
            for _ in range(3):
                time.sleep(0.11)
                bar.set_postfix_str("loss 0.1234, " + "wide " * 20, refresh=False)
                bar.update(100_000)
        drawn = terminal.drawn()
        assert any("800000/1000000" in line for line in drawn)
        assert max(map(len, drawn)) == 100
        assert not drawn[-1].strip()


def test_what_is_done_once_counts_neither_in_the_rate_nor_in_the_remaining_time(on_terminal):
    with on_terminal as terminal:
        with progress_bar("train", "images", 1000) as bar:
            time.sleep(0.5)  # compiles
            bar.update(1)
            time.sleep(0.2)
            bar.update(100)
            rate = float(terminal.drawn()[-1].split("00:0")[-1].split(", ")[1].split()[0])
        # 100 images in 0.2 s; with the first it would be 144 images/s.
        assert 250 < rate <= 500


def test_a_first_piece_that_is_like_the_others_counts(on_terminal):
    with on_terminal as terminal, progress_bar("train", "images", 100, has_begun=True) as bar:
        time.sleep(0.2)
        bar.update(100)
        drawn = terminal.drawn()[-1]
    assert 100 < float(drawn.split(", ")[1].split()[0]) <= 500


def test_an_iterable_is_counted_and_passed_on_whole(on_terminal):
    with on_terminal:
        assert list(progress_bar("read", "batches", 3, iter("abc"))) == ["a", "b", "c"]
        assert list(progress_bar("read", "batches", 3, iter("abc"), shown=False)) == ["a", "b", "c"]


def test_a_log_has_no_line_of_what_ends_within_a_minute(in_log):
    with in_log as log:
        with progress_bar("copy", "B", 5) as bar:
            for _ in range(5):
                bar.update()
        assert list(progress_bar("read", "batches", 3, iter("abc"))) == ["a", "b", "c"]
        assert log.getvalue() == ""


def test_a_log_has_one_line_a_minute(in_log, monkeypatch):
    with in_log as log:
        monkeypatch.setattr(module, "LINE_SECONDS", 0.2)
        with progress_bar("evaluate test", "batches", 41) as bar:
            for _ in range(41):
                bar.update()
                bar.set_postfix_str("2 quarantined")
                bar.write("a message", file=sys.stderr)
                time.sleep(0.02)
        lines = log.getvalue().splitlines()
        said = [line for line in lines if line != "a message"]
        assert len(lines) - len(said) == 41
        assert 2 <= len(said) <= 4
        assert all(line.startswith("evaluate test: ") and len(line) <= 100 for line in said)
        assert all(" of 41 batches, " in line and line.endswith(" left, 2 quarantined") for line in said), (
            said
        )


def test_nothing_is_shown_where_nothing_is_to_be_shown(on_terminal):
    with on_terminal as terminal:
        with progress_bar("convert", "images", 5, shown=False) as bar:
            bar.update(2)
        assert terminal.getvalue() == ""

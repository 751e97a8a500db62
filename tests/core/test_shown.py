"""No control character and no key reaches a terminal or a log, whatever is in a name."""

import io
import os
import subprocess
import sys
import time
import unicodedata

import pytest
from project import ROOT
from waiting import SECONDS

from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.shown import one_line, shown, shown_streams, visible_names, without_keys
from cxr_data.core.wording import wrapped

CONTROLS = {
    "C0": "\x00\a\b\x1b",
    "carriage return": "\r",
    "title": "\x1b]0;title\x07",
    "C1": "\x85\x9b31m",
    "delete": "\x7f",
    "right to left": "\u202e\u2066\u200f",
    "separators": "\u2028\u2029",
    "no UTF-8": "\udcff",
}


def is_harmless(text: str) -> bool:
    return all(c in "\n\t" or unicodedata.category(c)[0] not in "C" for c in text) and "\u2028" not in text


def test_a_name_in_a_wrapped_text_begins_no_line():
    lines = wrapped(f"class a{'b' * 90}\nFORGED: line\r\0c has one image", rest="  ").split("\n")
    assert "\\nFORGED:" in "".join(lines)
    assert not [line for line in lines if line.strip().startswith("FORGED")]
    assert "\\r\\x00c" in "".join(lines)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_character_is_escaped_and_visible_ones_are_not(name):
    text = f"Röntgen 胸部 {CONTROLS[name]}.png"
    assert is_harmless(shown(text))
    assert shown(text).startswith("Röntgen 胸部 \\")
    assert "\n" not in one_line(text + "\nforged: line")
    assert visible_names({text: [text, 1.5, (None, text)]}) == {
        one_line(text): [one_line(text), 1.5, [None, one_line(text)]]
    }


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("s3://key:se/cr+et@bucket/x", "s3://***@bucket/x"),
        ("http://user@host:9000/x", "http://***@host:9000/x"),
        ("AKIAIOSFODNN7EXAMPLE is unknown", "*** is unknown"),
        ("asiaabcdefghijklmnop", "asiaabcdefghijklmnop"),
        ("GET /x?X-Amz-Signature=ab12&list=1", "GET /x?X-Amz-Signature=***&list=1"),
        ("--s3_secret_access_key=hunter2 --other=1", "--s3_secret_access_key=*** --other=1"),
        ("x of-the/environment+secret", "x ***"),
        ("x of-the%2Fenvironment%2Bsecret", "x ***"),
        ("--data=s3://bucket/a@b/c grpc://host:5050", "--data=s3://bucket/a@b/c grpc://host:5050"),
    ],
)
def test_a_key_is_hidden(text, hidden, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the/environment+secret")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/a/long/path")
    assert without_keys(text) == hidden
    assert without_keys("/a/long/path") == "/a/long/path"


@pytest.mark.parametrize("part", ["://:", ":", "token", "://a", "?x-amz-", "password_", "secret=a&"])
def test_the_name_of_a_stranger_takes_no_long_time(part):
    text = "://" + part * (40_000 // len(part))
    start = time.process_time()
    shown(text)
    assert time.process_time() - start < 0.5


def test_a_secret_that_is_not_utf_8_is_hidden(monkeypatch):
    monkeypatch.setitem(os.environb, b"MY_TOKEN", b"abcdefgh\xff")
    assert without_keys("x abcdefgh\udcff abcdefgh%FF") == "x *** ***"
    monkeypatch.setitem(os.environb, b"MY_TOKEN", b"12345678")
    assert without_keys("x abcdefgh%FF 12345678") == "x abcdefgh%FF ***"


def test_a_bar_moves_the_cursor_and_its_name_does_not(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown_streams():
        list(progress_bar("read \x1b]0;x\x07", "files", 3, range(3), has_begun=True))
        print("\x1b[31mred", file=sys.stderr)
    assert sys.stderr is terminal
    assert "\r" in terminal.getvalue()
    assert "\x1b]" not in terminal.getvalue()
    assert "\\x1b[31mred" in terminal.getvalue()


# As a command does: `python -m` has set sys.argv[0] so when it imports the package.
PROGRAM = """
import logging, os, sys, warnings
sys.argv[0] = "-m"
import cxr_data
from cxr_data.commands import command
from cxr_data.core.errors import DataError
name = os.environ["HOSTILE"]
def main():
    print(name)
    warnings.warn(name)
    logging.getLogger("cxr_data.test").info("of %s", name)
    logging.getLogger("somebody.else").warning(name)
    os.write(2, os.fsencode(name) + b"\\n")
    if sys.argv[1:]:
        raise {"defect": ValueError, "error": DataError}[sys.argv[1]](name)
command.run_with_arguments(lambda _: main())
"""


@pytest.mark.parametrize("end", ["", "error", "defect"])
@pytest.mark.parametrize("level", [None, "0"])
def test_nothing_that_a_command_writes_is_raw(end, level):
    environment = os.environ | {
        "HOSTILE": "".join(CONTROLS.values()).replace("\x00", "") + "\nFORGED secret-of-aws",
        "AWS_SECRET_ACCESS_KEY": "secret-of-aws",
        "PYTHONIOENCODING": "utf-8:surrogateescape",
    }
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if level:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    line = [sys.executable, "-c", PROGRAM, *([end] if end else [])]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == bool(end)
    output = (done.stdout + done.stderr).decode()
    assert is_harmless(output)
    assert output.count("FORGED ***") == 5 + bool(end)
    assert "secret-of-aws" not in output
    assert b"of \\x07" in done.stdout
    (message,) = (line for line in done.stdout.decode().splitlines() if line.startswith("of "))
    assert message.endswith("FORGED ***")

"""What library code logs: shown by a command, and by nobody else."""

import contextlib
import io
import logging
import subprocess
import sys

from tqdm import tqdm

from cxr_data.commands.messages import shown_messages

PROGRAM = """
import logging, sys
from absl import app, flags

def work():
    for name in ("cxr_data.input.cache", "cxr_train.loop", "tools.bench", "somebody.else"):
        logging.getLogger(name).info("%s at work", name)
        logging.getLogger(name).debug("a detail")
    logging.getLogger("cxr_data.core").warning("it is late")
"""
STDOUT = "cxr_data.input.cache at work\ncxr_train.loop at work\ntools.bench at work\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", PROGRAM + code]
    return subprocess.run(line, capture_output=True, text=True, check=True)


def test_a_command_shows_information_on_stdout_and_warnings_on_stderr():
    done = run("from cxr_data.commands import command; command.run(work)")
    assert (done.stdout, done.stderr) == (STDOUT, "warning: it is late\n")


def test_a_command_may_keep_stdout_for_its_result():
    done = run("from cxr_data.commands import command; command.run(work, info_to='stderr')")
    assert (done.stdout, done.stderr) == ("", STDOUT + "warning: it is late\n")


def test_absl_shows_no_message_a_second_time():
    done = run("from cxr_data.commands import command; app.run(lambda _: command.run(work))")
    absls = [line for line in done.stderr.splitlines() if "somebody.else at work" in line]
    assert done.stdout == STDOUT
    assert done.stderr.splitlines() == [*absls, "warning: it is late"]


def test_a_program_that_uses_the_library_sees_only_what_its_own_logging_shows():
    assert run("work()").stdout == ""
    done = run("logging.basicConfig(level='INFO', stream=sys.stdout, format='%(message)s'); work()")
    assert done.stdout == STDOUT + "somebody.else at work\nit is late\n"
    assert done.stderr == ""


def test_messages_follow_a_redirected_stdout_and_end_with_the_block(caplog):
    logger = logging.getLogger("cxr_data.test")
    with shown_messages(), contextlib.redirect_stdout(io.StringIO()) as shown:
        logger.info("seen")
    logger.info("a message after the block")
    assert shown.getvalue() == "seen\n"
    assert logging.getLogger("cxr_data").propagate
    with caplog.at_level(logging.INFO, "cxr_data"):
        logger.info("caught")
    assert caplog.messages == ["caught"]


def test_a_message_stands_on_a_line_of_its_own_beside_a_bar(capsys):
    with shown_messages("stderr"), tqdm(total=3, mininterval=0) as bar:
        bar.update()
        logging.getLogger("cxr_data.test").info("above the bar")
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert "above the bar" in lines

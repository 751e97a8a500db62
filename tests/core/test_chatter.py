# ruff: noqa: E501
"""TensorFlow's chatter stays off a command's terminal, and its errors on it."""

import os
import signal
import subprocess
import sys

import pytest
from project import ROOT
from waiting import SECONDS

# As TensorFlow 2.17.1 wrote them, on a CPU and on a GPU.
CHATTER = """\
2026-11-27 08:38:23.933986: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:485] Unable to register cuFFT factory: Attempting to register factory for plugin cuFFT when one has already been registered
2026-11-27 08:38:23.990412: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow binary is optimized
2026-11-27 08:38:25.774131: W tensorflow/compiler/tf2tensorrt/utils/py_utils.cc:38] TF-TRT Warning: Could not find TensorRT
2026-11-27 08:38:29.174709: W tensorflow_io/core/kernels/audio_video_mp3_kernels.cc:271] libmp3lame.so.0 or lame functions are not available
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795768709.358603   23936 cuda_executor.cc:1015] successful NUMA node read from SysFS had negative value (-1)
I0000 00:00:1795768709.358603   23936 asm_compiler.cc:369] ptxas warning : Registers are spilled to local memory

E0000 00:00:1795768709.358603   23936 gpu_timer.cc:183] Delay kernel timed out: measured time has sub-optimal accuracy.
[libprotobuf ERROR external/com_google_protobuf/src/google/protobuf/text_format.cc:337] Error parsing text-format tensorflow.XlaSerializedCacheEntry: 2:1: Expected identifier, got: &
2026-11-27 08:38:29.174709: E external/local_xla/xla/service/slow_operation_alarm.cc:65] \n********************************
[Compiling module a_inference__step_on_one_device_15943__XlaMustBeCompiled=true] Very slow compile? If you want to file a bug
********************************

"""
REAL = """\
2026-11-27 08:38:23.933986: E external/local_xla/xla/stream_executor/cuda/cuda_driver.cc:1] failed call to cuInit
E0000 00:00:1795768709.358603   23936 cuda_dnn.cc:522] Loaded runtime CuDNN library is older than it must be
2026-11-27 08:38:23.933986: F tensorflow/core/common_runtime/bfc_allocator.cc:1] Check failed: h != kInvalidChunkHandle

Fatal Python error: Aborted
"""
# Runs as a command does: `python -m` has set sys.argv[0] so when it imports the package.
PROGRAM = """
import os, subprocess, sys
sys.argv[0] = "-m"
import cxr_data
chatter, real = sys.argv[1:3]
os.write(2, chatter.encode())
subprocess.run([sys.executable, "-c", "import os, sys; os.write(2, sys.argv[1].encode())", chatter + real])
print("a message", file=sys.stderr)
"""


def run(end: str = "", *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    line = [sys.executable, "-c", PROGRAM + end, CHATTER, REAL, *flags]
    return subprocess.run(
        line, cwd=ROOT, env=given | environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_errors_pass_and_nothing_else_does():
    done = run()
    assert done.returncode == 0
    assert sorted(done.stderr.splitlines()) == sorted([*REAL.splitlines(), "a message"])


def test_what_is_said_by_an_abort_is_seen():
    done = run("os.write(2, b'F0000 last words'); os.abort()")
    assert done.returncode == -signal.SIGABRT
    assert done.stderr.endswith("F0000 last words")


def test_without_the_process_that_copies_an_error_is_still_one_line():
    end = """
import pathlib, signal, time
from cxr_data.commands import command
from cxr_data.core.errors import CxrError
children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
for child in children:
    os.kill(int(child), signal.SIGKILL)
os.waitid(os.P_PID, int(children[0]), os.WEXITED | os.WNOWAIT)
def fail():
    raise CxrError("no memory")
command.run(fail, ["train"])
"""
    done = run(end)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "train: error: no memory"
    assert "Traceback" not in done.stderr


def test_the_last_line_is_the_commands_own():
    end = """
from cxr_data.commands import command
from cxr_data.core.errors import CxrError
def fail():
    os.write(2, b"E0000 what TensorFlow says of it\\n" * 1000)
    raise CxrError("no memory")
command.run(fail, ["train"])
"""
    done = run(end)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "E0000 what TensorFlow says of it",
        "train: error: no memory",
    ]


@pytest.mark.parametrize("flags", [("--verbosity=0",), ("--verbosity", "1"), ("-v=1",)])
def test_verbosity_shows_all_of_it(flags):
    done = run("print(os.environ['TF_CPP_MIN_LOG_LEVEL'])", *flags)
    assert done.stdout == "0\n"
    assert sorted(done.stderr) == sorted(CHATTER + CHATTER + REAL + "a message\n")


def test_a_log_level_of_the_users_own_shows_what_it_says():
    done = run("print(os.environ['TF_CPP_MIN_LOG_LEVEL'])", "--verbosity=-1", TF_CPP_MIN_LOG_LEVEL="1")
    assert done.stdout == "1\n"
    assert sorted(done.stderr) == sorted(CHATTER + CHATTER + REAL + "a message\n")


def test_a_program_that_uses_the_library_keeps_its_standard_error():
    program = PROGRAM.replace('sys.argv[0] = "-m"', "")
    line = [sys.executable, "-c", program, CHATTER, REAL]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stderr == CHATTER + CHATTER + REAL + "a message\n"


def test_a_line_without_an_end_is_shown_before_the_command_ends():
    end = """
import time
os.write(2, b"how far? ")
time.sleep(3)
"""
    line = [sys.executable, "-c", PROGRAM + end, "", ""]
    given = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    with subprocess.Popen(line, cwd=ROOT, env=given, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen = b""
        while b"how far? " not in seen:
            more = os.read(process.stderr.fileno(), 100)
            assert more, seen
            seen += more
        assert process.poll() is None


@pytest.mark.parametrize("module", ["cxr_train.main", "tools.benchmark"])
def test_nothing_of_tensorflow_stands_before_the_first_line_of_a_command(module, tmp_path):
    given = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT, env=given, capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    assert done.stderr == ""


@pytest.mark.ci
def test_a_compiled_function_writes_nothing():
    compiled = """
import tensorflow as tf
from cxr_data.core.runtime import keep_large_allocations
keep_large_allocations()
print(tf.function(lambda x: x + x, jit_compile=True)(tf.ones([])).numpy())
"""
    done = run(compiled)
    assert done.stdout == "2.0\n"
    assert sorted(done.stderr.splitlines()) == sorted([*REAL.splitlines(), "a message"])

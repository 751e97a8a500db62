"""What all tests share: a quiet TensorFlow, and the folder of real data where it exists."""

import os
import pathlib
from collections.abc import Iterator

# Tests ask XLA for right results, not for fast ones: this halves its compile time.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# The matrices of tests are small, and two processes of tests share the cores: more threads only wait.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings
from shards import random_images, write_shards

import cxr_data  # noqa: F401  (sets TensorFlow's log level before it is imported)
from cxr_data.records.manifest import Manifest

# No case fails for the machine's speed. A change must not fail for a case that it did not cause:
# there the cases are fixed. Elsewhere they are new in every run, and what they find becomes a test.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("tests"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "tests")


def pytest_configure(config: pytest.Config) -> None:
    """Presents the CPU as two devices, so that every test can run two replicas."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # this process only hands out the tests, and TensorFlow takes seconds to import
    from cxr_train.engine.strategy import split_cpu

    split_cpu(2)
    # Thousands of files are made durable in this process, and nobody cuts the power of a test. What
    # processes of their own write, those that are killed among them, is.
    os.fsync = lambda descriptor: None


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """Gives all tests one environment."""
    hide_the_name_of_the_test()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call() -> None:
    """Gives all tests one environment."""
    hide_the_name_of_the_test()


def hide_the_name_of_the_test() -> None:
    """Puts one value in place of the name that pytest writes into the environment with each test.

    An idle process of `cxr_data.core.isolated` is used again only where the environment is the same.
    """
    os.environ["PYTEST_CURRENT_TEST"] = "a test"


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """`--backbone=tiny` is a convolution with BatchNorm."""
    import tiny

    with tiny.registered("tiny", tiny.with_batch_norm):
        yield


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of 23 images to train on and 7 to validate on."""
    splits = {"train": random_images(23), "validation": random_images(7, seed=1)}
    return write_shards(tmp_path_factory.mktemp("data"), splits)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder `shared/` beside the project, with real images and published predictions."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist")
    return folder

"""Another TensorFlow or Keras works, or is refused in one line before it is imported."""

import pytest

import cxr_data
from cxr_data.core import releases
from cxr_data.core.errors import UsageError


@pytest.fixture
def installed(monkeypatch):
    """What seems to be installed, by package."""
    found = {"tensorflow": "2.17.1", "keras": "3.15.1"}
    monkeypatch.setattr(releases, "version", found.__getitem__)
    releases.check_releases.cache_clear()
    yield found
    releases.check_releases.cache_clear()


@pytest.mark.parametrize("tensorflow", ["2.17.0", "2.18.1", "2.19.1", "2.20.0rc0", "2.21.0"])
def test_what_lies_between_the_pinned_ones_is_taken(installed, tensorflow):
    installed["tensorflow"] = tensorflow
    releases.check_releases()


@pytest.mark.parametrize(
    ("package", "release"),
    [("tensorflow", "2.16.2"), ("tensorflow", "2.22.0"), ("keras", "2.15.0"), ("keras", "3.9.2")],
)
def test_others_are_refused_for_commands_and_programs(installed, package, release):
    installed[package] = release
    for check in (releases.check_releases, lambda: cxr_data.read_dataset):
        with pytest.raises(UsageError, match=rf"{package} {release}.*pip install"):
            check()

"""Documents of a data set and a run that somebody else made up: a line or none, see `helpers/fuzz.py`.

The quick part is a few cases of each, the slow part thousands.
"""

import pytest
from fuzz import FUZZERS, data, run  # noqa: F401 - the fixtures


@pytest.mark.parametrize("name", FUZZERS)
def test_a_few_of_each(name, data, run, tmp_path):  # noqa: F811
    FUZZERS[name](data, run, tmp_path, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZERS)
def test_thousands_of_each(name, data, run, tmp_path):  # noqa: F811
    FUZZERS[name](data, run, tmp_path, 3000 if name not in ("checkpoint", "model") else 200)

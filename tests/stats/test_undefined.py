"""What has no value is NaN in an array and null in JSON."""

import json

import numpy as np
import pytest

from cxr_data.stats.undefined import json_number, ratio


def test_a_ratio_to_zero_is_nan_without_a_warning():
    np.testing.assert_array_equal(ratio([1, 0, 3], [2, 0, 0]), [0.5, np.nan, np.nan])
    assert ratio(1, 4).shape == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_json_has_neither_nan_nor_infinity(value):
    assert json_number(value) is None
    assert json_number(np.float32(value)) is None


def test_numbers_of_numpy_become_plain_ones():
    assert json.dumps(json_number(np.array(0.25)), allow_nan=False) == "0.25"

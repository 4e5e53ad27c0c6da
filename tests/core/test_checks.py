"""Numbers from outside: in range and of the right kind, or one clear error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapiddraw.core.checks import real_number, whole_number
from rapiddraw.core.errors import InputError


@given(st.integers())
def test_whole_numbers_pass_inside_their_range_only(value):
    if 1 <= value <= 10000:
        assert whole_number("steps", value, 1, 10000) == value
    else:
        with pytest.raises(InputError, match="steps must be a whole number from 1 to 10000, .* was given"):
            whole_number("steps", value, 1, 10000)


@given(st.floats())
def test_real_numbers_pass_inside_their_range_only(value):
    if 0 < value <= 1:
        assert real_number("share", value, 0, 1, above=True) == value
    else:
        with pytest.raises(InputError, match="share must be a number above 0 up to 1"):
            real_number("share", value, 0, 1, above=True)


@pytest.mark.parametrize("value", [True, None, "3", 3.0, [3], math.nan, {}])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(InputError, match="whole number"):
        whole_number("count", value, 0, 10)


@pytest.mark.parametrize("value", [False, None, "0.5", [0.5], 1j])
def test_what_is_no_real_number_is_refused(value):
    with pytest.raises(InputError, match="must be a number"):
        real_number("share", value, 0, 1)


def test_numbers_of_numpy_count():
    assert whole_number("count", np.int64(3), 0, 10) == 3 and real_number("share", np.float32(0.5), 0, 1) == 0.5

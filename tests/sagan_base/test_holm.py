"""Holm's adjustment, worked by hand."""

import pytest

from sagan_base.holm import holm


def test_each_is_multiplied_by_how_many_are_not_smaller_and_none_falls_below_a_smaller_one():
    assert holm([0.02, 0.01, 0.04, 0.9]) == pytest.approx([0.06, 0.04, 0.08, 0.9])
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []

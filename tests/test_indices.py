import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from iterconv.indices import INDICES, convergence_index, divergence_index, recurrence_index, undefined_reason

CHANCE = 0.9


def test_convergence_is_1_at_once_and_0_at_chance_until_the_end():
    assert convergence_index([0.1] * 16, CHANCE) == pytest.approx(1)
    assert convergence_index([0.9] * 15 + [0.1], CHANCE) == pytest.approx(0)
    # A straight line from chance down to the end: its mean before the end.
    line = np.linspace(0.9, 0.1, 16)
    assert convergence_index(line, CHANCE) == pytest.approx((0.9 - line[:-1].mean()) / 0.8)


def test_recurrence_is_1_when_all_blocks_count_alike_and_0_when_earlier_ones_give_chance():
    assert recurrence_index([0.3] * 16, CHANCE) == pytest.approx(1)
    assert recurrence_index([0.9] * 15 + [0.2], CHANCE) == pytest.approx(0)
    assert recurrence_index([0.1, 0.1, 0.2], CHANCE) > 1


def test_divergence_is_0_when_the_error_stays_and_1_at_chance():
    assert divergence_index([0.3] * 17, CHANCE) == 0
    assert divergence_index([0.1] + [0.9] * 16, CHANCE) == pytest.approx(1)
    assert divergence_index([0.2] + [0.1] * 16, CHANCE) < 0


curves = arrays.arrays(np.float64, st.integers(2, 20), elements=st.floats(0, 1))


@given(curves)
def test_indices_equal_the_specification_term_by_term(errors):
    e, T = list(errors), len(errors)
    if CHANCE - e[-1] > 1e-3:
        ci = (CHANCE - sum(e[t] for t in range(T - 1)) / (T - 1)) / (CHANCE - e[-1])
        ri = 1 - sum((e[t] - e[-1]) / (CHANCE - e[-1]) for t in range(T - 1)) / (T - 1)
        assert convergence_index(errors, CHANCE) == pytest.approx(ci, abs=1e-9)
        assert recurrence_index(errors, CHANCE) == pytest.approx(ri, abs=1e-9)
    if CHANCE - e[0] > 1e-3:
        di = sum((e[k] - e[0]) / (CHANCE - e[0]) for k in range(1, T)) / (T - 1)
        assert divergence_index(errors, CHANCE) == pytest.approx(di, abs=1e-9)


def test_trailing_dimensions_are_kept():
    errors = np.random.default_rng(0).random((5, 3, 2)) * 0.5
    for index in INDICES.values():
        together = index(errors, CHANCE)
        assert together.shape == (3, 2)
        assert together[1, 0] == pytest.approx(index(errors[:, 1, 0], CHANCE))


@pytest.mark.parametrize("name", INDICES)
def test_an_index_without_a_margin_is_undefined_with_its_reason(name):
    def reason(reference, replicates, blocks=4):
        curve = np.full((blocks, 1 + len(replicates)), 0.5)
        curve[INDICES[name].at] = [reference, *replicates]
        return undefined_reason(INDICES[name], curve, CHANCE, 0.05, 0.95)

    assert reason(0.2, [0.2] * 100) == ""
    assert reason(0.84, []) == ""
    assert "0.860 is within 0.05 of chance 0.900" in reason(0.86, [0.86] * 100)
    assert "0.950 is within" in reason(0.95, [])
    assert "too few examples" in reason(0.8, [0.95] * 10 + [0.8] * 90)
    assert "too few blocks" in reason(0.2, [0.2], blocks=1)

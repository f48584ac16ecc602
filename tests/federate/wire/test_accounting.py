"""The privacy that noise buys: against known values, another way to the same number, and what must hold of any."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st
from scipy.special import log_ndtr

from lorgnette.federate.wire.accounting import epsilon


def delta_of(eps: float, mu: float) -> float:
    """The same formula with SciPy's logarithm of the normal distribution."""
    first, second = log_ndtr(mu / 2 - eps / mu), eps + log_ndtr(-mu / 2 - eps / mu)
    return math.exp(first) * -math.expm1(second - first)


@given(noise=st.floats(0.05, 200), rounds=st.integers(1, 5000), power=st.integers(2, 12))
def test_epsilon_is_the_least_that_delta_allows(noise: float, rounds: int, power: int):
    delta, mu = 10.0**-power, 2 * math.sqrt(rounds) / noise
    found = epsilon(noise, rounds, delta)
    assert delta_of(found, mu) <= delta * (1 + 1e-4)
    if found > 1e-9:
        assert delta_of(found * (1 - 1e-6) - 1e-9, mu) >= delta * (1 - 1e-4)


def test_against_the_classical_bound():
    """Dwork and Roth 2014, theorem A.1: sigma = sqrt(2 ln(1.25 / delta)) / epsilon is enough for epsilon < 1."""
    for eps in (0.1, 0.5, 0.9):
        noise = 2 * math.sqrt(2 * math.log(1.25 / 1e-5)) / eps
        assert 0.5 * eps < epsilon(noise, 1, 1e-5) < eps


@given(noise=st.floats(0.5, 50), rounds=st.integers(1, 500))
def test_more_noise_and_fewer_rounds_tell_less(noise: float, rounds: int):
    assert epsilon(noise * 1.5, rounds) <= epsilon(noise, rounds) <= epsilon(noise, rounds + 1)
    assert epsilon(noise, rounds) == pytest.approx(epsilon(2 * noise, 4 * rounds))


def test_no_noise_no_rounds_and_nonsense():
    assert epsilon(0, 3) == math.inf
    assert epsilon(1, 0) == 0
    for noise, rounds, delta in ((-1, 1, 0.1), (1, -1, 0.1), (1, 1, 0), (1, 1, 1), (math.nan, 1, 0.1)):
        with pytest.raises(ValueError, match="work"):
            epsilon(noise, rounds, delta)

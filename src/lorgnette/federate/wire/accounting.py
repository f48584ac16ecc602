"""What noisy updates tell at most of the data behind them, as (epsilon, delta). Imports no torch."""

from __future__ import annotations

import math

DELTA = 1e-5


def epsilon(noise: float, rounds: int, delta: float = DELTA) -> float:
    """The epsilon of local differential privacy that a site has after so many noisy updates.

    Nobody who sees all of them, the server included, can tell the site's data from any other data better than
    (epsilon, delta) says; its sample counts, losses and metrics, which carry no noise, are not counted in. Two updates
    that are clipped to the norm C are at most 2 C apart, so T rounds with noise of deviation z C are one Gaussian
    mechanism with mu = 2 sqrt(T) / z (Dong, Roth and Su 2019, Gaussian Differential Privacy, corollary 2), and
    delta(epsilon) = Phi(mu / 2 - epsilon / mu) - exp(epsilon) Phi(-mu / 2 - epsilon / mu) (Balle and Wang 2018,
    theorem 8). It is exact. Asking only some sites in each round does not help against the server, which knows
    whom it asked.

    Args:
        noise: deviation in multiples of the norm that updates are clipped to; 0 gives infinity.
        rounds: how many updates the site sent.
        delta: chance of more, in (0, 1).

    Raises:
        ValueError: a number outside its range.
    """
    if not 0 <= noise < math.inf or rounds < 0 or not 0 < delta < 1:
        raise ValueError(f"noise {noise}, rounds {rounds}, delta {delta}: at least 0, at least 0, between 0 and 1 work")
    if not rounds:
        return 0.0
    if not noise:
        return math.inf
    mu = 2 * math.sqrt(rounds) / noise
    low, high = 0.0, 1.0
    while _delta(high, mu) > delta:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, mu) > delta else (low, middle)
    return high


def _delta(epsilon: float, mu: float) -> float:
    below, above = _log_tail(epsilon / mu - mu / 2), _log_tail(epsilon / mu + mu / 2)
    return math.exp(below) * -math.expm1(min(0.0, epsilon + above - below))


def _log_tail(x: float) -> float:
    """log of the chance that a standard normal number is above x."""
    if x < 30:
        return math.log(math.erfc(x / math.sqrt(2)) / 2)
    return -x * x / 2 - math.log(x * math.sqrt(2 * math.pi)) - 1 / (x * x)  # erfc is 0 from 38 on

"""How sure a mean is: confidence intervals and paired comparisons from resampled cases."""

from __future__ import annotations

import functools

import numpy as np

Interval = tuple[float, float]
_RESAMPLES = 2000
_LEVEL = 0.95
_FEW = 13  # differences, all of whose sign patterns are gone through


def bootstrap_means(
    table: np.ndarray, *, resamples: int = _RESAMPLES, level: float = _LEVEL, seed: int = 0
) -> tuple[list[Interval | None], Interval | None]:
    """Percentile intervals of column means and of their mean (Efron and Tibshirani 1993, chapter 13).

    Args:
        table: Scores (cases, labels), NaN where undefined; cases are drawn with replacement, as whole rows.
        resamples: Number of drawings.
        level: Probability with which an interval shall hold the mean.
        seed: Of the drawings.

    Returns:
        One interval per column and one of the mean over columns; None with fewer than two cases to draw from.
    """
    num_cases, num_labels = table.shape
    if num_cases < 2 or not num_labels:
        return [None] * num_labels, None
    means = resampled_means(table, resamples=resamples, seed=seed)
    per_label = [
        _interval(column, level) if np.count_nonzero(~np.isnan(scores)) > 1 else None
        for column, scores in zip(means.T, table.T, strict=True)
    ]
    with_value = ~np.isnan(means).all(axis=1)
    overall = _interval(np.nanmean(means[with_value], axis=1), level) if with_value.any() else None
    return per_label, overall


def resampled_means(table: np.ndarray, *, resamples: int = _RESAMPLES, seed: int = 0) -> np.ndarray:
    """Column means (resamples, labels) of a table (cases, labels) whose rows are drawn with replacement."""
    num_cases = len(table)
    drawn = np.random.default_rng(seed).multinomial(num_cases, np.full(num_cases, 1 / num_cases), size=resamples)
    is_defined = ~np.isnan(table)
    sums = drawn @ np.where(is_defined, table, 0.0)
    numbers = drawn @ is_defined
    means = np.full(sums.shape, np.nan)
    np.divide(sums, numbers, out=means, where=numbers > 0)
    return means


def paired_p_value(differences: np.ndarray, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value that paired differences have mean zero, by flipping their signs at random.

    Exact for every distribution that is symmetric under the hypothesis (Good 2005, chapter 3); with up to 13
    differences all sign patterns are gone through.

    Args:
        differences: One per case; NaN are left out.
        resamples: Random sign patterns where there are too many for all.
        seed: Of the patterns.

    Returns:
        1 where there is nothing to compare.
    """
    values = differences[~np.isnan(differences)]
    if not len(values) or not values.any():
        return 1.0
    signs = _sign_patterns(len(values), resamples, seed)
    extra = 0 if len(values) <= _FEW else 1  # the observed pattern is one of them (Phipson and Smyth 2010)
    at_least = np.abs(signs @ values) >= abs(values.sum()) * (1 - 1e-12)
    return float((at_least.sum() + extra) / (len(signs) + extra))


@functools.lru_cache(maxsize=8)
def _sign_patterns(number: int, resamples: int, seed: int) -> np.ndarray:
    """Plus and minus ones (patterns, number): all there are, or random ones where there are too many."""
    if number <= _FEW:
        return np.asarray(1.0 - 2 * ((np.arange(1 << number)[:, None] >> np.arange(number)) & 1))
    return np.asarray(1.0 - 2 * np.random.default_rng(seed).integers(0, 2, size=(resamples, number)))


def _interval(means: np.ndarray, level: float) -> Interval:
    low, high = np.nanpercentile(means, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)

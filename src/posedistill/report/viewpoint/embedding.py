"""Maps of embeddings: principal components, and t-SNE (van der Maaten and Hinton, JMLR 2008). Numpy."""

import numpy as np

from posedistill.geometry.cameras import Array

MOST = 500
"""Embeddings in a map; t-SNE's cost grows with the square of their number."""
_PERPLEXITY, _COMPONENTS = 40.0, 50
_STEPS, _EARLY = 500, 125
"""Of the descent, and of those with attraction exaggerated."""


def principal_components(x: Array, count: int) -> Array:
    """``[N, D] -> [N, count]`` coordinates along the directions of most variance; zeros where there are fewer.

    >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    >>> abs(principal_components(points, 2)).round(9).tolist()
    [[5.0, 0.0], [0.0, 0.0], [5.0, 0.0]]
    """
    centred = x - x.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    found = left[:, :count] * scale[:count]
    return np.pad(found, ((0, 0), (0, count - found.shape[1])))


def tsne(x: Array, perplexity: float = _PERPLEXITY, steps: int = _STEPS) -> Array:
    """``[N, D] -> [N, 2]``: near neighbours stay near; begins with the two principal components, draws nothing.

    Gradient descent with momentum and gains, the affinities exaggerated by 12 in the beginning, at the rate N / 12
    (Belkina et al., Nature Communications 2019). The perplexity is at most a third of N.
    """
    count = len(x)
    if count < 4:
        return principal_components(x, 2)
    P = _affinities(principal_components(x, min(_COMPONENTS, *x.shape)), min(perplexity, (count - 1) / 3))
    y = principal_components(x, 2)
    y = 1e-4 * y / max(float(y[:, 0].std()), 1e-12)
    speed, gains, rate = np.zeros_like(y), np.ones_like(y), max(count / 12, 50.0)
    for step in range(steps):
        weights = 1 / (1 + _squared_distances(y))
        np.fill_diagonal(weights, 0.0)
        pull = ((12 if step < _EARLY else 1) * P - weights / weights.sum()) * weights
        gradient = 4 * (pull.sum(axis=1)[:, None] * y - pull @ y)
        gains = np.where(np.sign(gradient) == np.sign(speed), 0.8 * gains, gains + 0.2).clip(0.01)
        speed = (0.5 if step < _EARLY else 0.8) * speed - rate * gains * gradient
        y = y + speed
    return y - y.mean(axis=0)


def _affinities(x: Array, perplexity: float) -> Array:
    """``[N, N]`` joint probabilities; each row's width is found by bisection of its entropy."""
    distances = _squared_distances(x)
    distances /= max(float(distances.mean()), 1e-300)
    np.fill_diagonal(distances, np.inf)
    low, high = np.full(len(x), 1e-6), np.full(len(x), 1e6)
    for _ in range(60):
        middle = np.sqrt(low * high)
        shares = np.exp(-middle[:, None] * (distances - distances.min(axis=1, keepdims=True)))
        shares /= shares.sum(axis=1, keepdims=True)
        entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    joint = (shares + shares.T) / (2 * len(x))
    return np.asarray(np.maximum(joint, 1e-12))


def _squared_distances(x: Array) -> Array:
    squares = (x**2).sum(axis=1)
    return np.asarray(np.maximum(squares[:, None] + squares[None] - 2 * x @ x.T, 0.0))

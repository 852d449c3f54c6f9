import numpy as np
import pytest

from posedistill.report.viewpoint.embedding import principal_components, tsne


def test_components_keep_distances_and_come_in_order():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) * [5.0, 2.0, 0.5]
    found = principal_components(x, 3)
    assert (np.diff(found.std(axis=0)) < 0).all()
    pairs = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=2), pairs, atol=1e-9)
    assert principal_components(x[:2], 4).shape == (2, 4)


def test_tsne_keeps_clusters_together_and_apart():
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 2], 20)
    x = rng.normal(size=(60, 12)) * 0.3 + 4 * np.eye(3, 12)[group]
    y = tsne(x, perplexity=10, steps=300)
    distances = np.linalg.norm(y[:, None] - y[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(axis=1)] == group).all()
    means = np.array([y[group == place].mean(axis=0) for place in range(3)])
    spread = max(np.linalg.norm(y[group == place] - means[place], axis=1).max() for place in range(3))
    assert min(np.linalg.norm(means[a] - means[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 2 * spread
    np.testing.assert_array_equal(tsne(x, perplexity=10, steps=300), y)  # nothing is drawn


@pytest.mark.parametrize("x", [np.zeros((30, 4)), np.ones((2, 3)), np.tile(np.arange(5.0)[:, None], (1, 2))])
def test_few_or_equal_points_have_a_map(x):
    assert tsne(x).shape == (len(x), 2) and np.isfinite(tsne(x)).all()

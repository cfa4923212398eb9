"""Small weighted samples for property tests: on a half-integer grid, so that points coincide often."""

import torch
from hypothesis import settings, strategies

# Every run tries the same examples, and none is timed.
quick = settings(derandomize=True, max_examples=25, deadline=None)


def _points(dim, least):
    rows = strategies.lists(strategies.lists(strategies.integers(-8, 8), min_size=dim, max_size=dim), min_size=least,
                            max_size=5)  # fmt: skip
    return rows.map(lambda rows: torch.tensor(rows, dtype=torch.float64) / 2)


@strategies.composite
def clouds(draw, count=2, dim=2, least=1):
    """``count`` pairs of points (N, dim), N from ``least`` to 5, and positive weights (N,) or None."""
    found = []
    for _ in range(count):
        x = draw(_points(dim, least))
        parts = draw(strategies.none() | strategies.lists(strategies.integers(1, 4), min_size=len(x), max_size=len(x)))
        found.append((x, None if parts is None else torch.tensor(parts, dtype=torch.float64) / sum(parts)))
    return found


def between(distance, a, b, **settings):
    """A distance of two of them."""
    return distance(a[0], b[0], weights_x=a[1], weights_y=b[1], **settings).squeeze()

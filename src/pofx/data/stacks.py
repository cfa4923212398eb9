"""Stacked digits: pictures of one split as the channels of one picture, its class the number that they spell.

Digits drawn without regard to each other make 100 or 1000 modes of known frequency, which a classifier of single digits
can count: what a sampler leaves out is seen.

Source: Metz et al. 2017, arXiv:1611.02163, section 3.3; Lin et al. 2018, arXiv:1712.04086, section 4.2.
"""

from dataclasses import replace
from itertools import product

import torch

from pofx.data.request import Request
from pofx.data.rows import Labels, Observations, split_of
from pofx.domains import Images
from pofx.randomness import stream


def stacked(found: Observations, labels: Labels, request: Request) -> Observations:
    """As many stacks as there are pictures, of k channels; the pictures where no stack is asked for.

    In each channel every picture of a split stands once, in an order of its own drawn by the seed, so that a stack
    never reaches across splits, and a digit is as frequent in each channel as in the split.

    Args:
        found: pictures of one channel, in memory.
        labels: of the pictures; a stack is named "07" where its channels are "0" and "7".
    """
    k = request.options.stack
    if k is None:
        return replace(found, given={"class": labels})
    assert isinstance(found.domain, Images)
    assert isinstance(found.x, torch.Tensor)
    channels = torch.arange(len(found.x)).repeat(k, 1)  # (k, N): which picture each channel of a stack is
    for name, rows in split_of(found, request.seed)[0].items():
        for i in range(1, k):
            order = torch.randperm(len(rows), generator=stream(request.seed, f"stack/{name}/{i}"))
            channels[i, rows] = rows[order]
    number = torch.zeros(len(found.x), dtype=torch.int64)
    for digits in labels.index[channels]:
        number = number * len(labels.names) + digits
    names = tuple("".join(parts) for parts in product(labels.names, repeat=k))
    return replace(
        found,
        domain=replace(found.domain, channels=k),
        x=torch.cat([found.x[rows] for rows in channels], dim=1),
        given={"class": Labels(number, names)},
    )

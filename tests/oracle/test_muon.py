"""Muon against the singular value decomposition, and against torch's own."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from pofx.errors import Unusable
from pofx.train.muon import Muon, hidden_matrices, orthogonalise


def gradients(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_keeps_singular_vectors_and_lifts_values(shape):
    g = gradients(shape).double()
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    seen = u.mT @ orthogonalise(g).double() @ vh.mT
    values = seen.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(seen, torch.diag_embed(values), atol=1e-4, rtol=0)
    assert 0.3 < float(values.min()) <= float(values.max()) < 1.3


def test_follows_the_quintic_of_each_singular_value():
    g = gradients((1, 6, 6)).double()
    u, s, vh = torch.linalg.svd(g)
    s = s / s.norm()
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalise(g, 3), u @ torch.diag_embed(s) @ vh, atol=1e-5, rtol=0)


def twins(seed: int = 0) -> list[list[nn.Parameter]]:
    shapes = [(12, 12), (24, 6), (6, 24), (12, 12)]
    return [[nn.Parameter(gradients(shape, seed + i)) for i, shape in enumerate(shapes)] for _ in range(2)]


def test_equals_torchs_muon_up_to_bfloat16():
    ours, theirs = twins()
    start = [p.detach().clone() for p in ours]
    mine, reference = Muon(ours, 0.1, weight_decay=0.2), torch.optim.Muon(theirs, 0.1, weight_decay=0.2)
    for step in range(3):
        for i, (p, q) in enumerate(zip(ours, theirs)):
            p.grad, q.grad = gradients(p.shape, 50 * step + i), gradients(p.shape, 50 * step + i)
        mine.step()
        reference.step()
    for p, q, before in zip(ours, theirs, start):
        assert (p - q).norm().item() < 0.02 * (q - before).norm().item()


def test_goes_on_from_its_state():
    ours, theirs = twins()
    a, b = Muon(ours, 0.1), Muon(theirs, 0.3)
    for step in range(4):
        if step == 2:
            b.load_state_dict(deepcopy(a.state_dict()))
            for p, q in zip(ours, theirs):
                q.data.copy_(p)
        for optimiser, parameters in ((a, ours), (b, theirs)):
            for i, p in enumerate(parameters):
                p.grad = gradients(p.shape, 7 * step + i)
            optimiser.step()
    for p, q in zip(ours, theirs):
        assert torch.equal(p, q)


def test_parts_hidden_matrices_from_the_rest():
    model = nn.ModuleDict(
        {"symbols": nn.Embedding(5, 4), "hidden": nn.Linear(4, 4), "net": nn.ModuleDict({"head": nn.Linear(4, 5)})}
    )
    matrices, rest = hidden_matrices(model.parameters(), model)
    assert [id(p) for p in matrices] == [id(model["hidden"].weight)]
    assert len(rest) == 4


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"lr": 0.1, "momentum": 1.0}, {"lr": 0.1, "steps": 0}])
def test_refuses_bad_settings(settings):
    with pytest.raises(Unusable, match="muon needs"):
        Muon([nn.Parameter(torch.zeros(2, 2))], **settings)


def test_refuses_what_is_no_matrix():
    with pytest.raises(Unusable, match="takes matrices"):
        Muon([nn.Parameter(torch.zeros(2))], 0.1)

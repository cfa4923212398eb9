"""Quantisers against what is known of them: running means by hand, planted clusters, the papers' formulas."""

import itertools
import math

import pytest
import torch

from pofx.errors import Unusable
from pofx.nn.quantise import FiniteScalar, Gumbel, VectorQuantiser, k_means, rotated, straight_through
from pofx.protocols import Progress
from pofx.randomness import Shared, seeded_init, stream

STEP = Progress(1, 10)


def normal(*shape, role="y"):
    return torch.randn(*shape, generator=stream(0, role), dtype=torch.float64)


def quantiser(codes, width, **arguments):
    with seeded_init(0):
        return VectorQuantiser(codes, width, **arguments).double()


def on_a_line(*codes, **arguments):
    """Codes of one number each, of equal use."""
    made = quantiser(len(codes), 1, **arguments)
    book = made.books[0]
    with torch.no_grad():
        book.table.copy_(torch.tensor(codes)[:, None])
        book.sums.copy_(book.table / len(codes))
    return made


def test_the_codebook_follows_by_running_means():
    """N <- 0.9 N + 0.1 n, m <- 0.9 m + 0.1 sum, e = m / N, counted by hand for four slots."""
    made = on_a_line(0.0, 10.0, decay=0.9, revive=0.0)
    y = torch.tensor([[1.0, 2.0], [3.0, 8.0]], dtype=torch.float64)[:, :, None]
    made.after(made.quantise(y, generator=stream(0, "z")).carry, STEP)
    book = made.books[0]
    torch.testing.assert_close(book.counts, torch.tensor([0.9 * 0.5 + 0.1 * 0.75, 0.9 * 0.5 + 0.1 * 0.25]).double())
    torch.testing.assert_close(book.sums[:, 0], torch.tensor([0.1 * 6 / 4, 0.9 * 5 + 0.1 * 8 / 4]).double())
    torch.testing.assert_close(book.table[:, 0].detach(), torch.tensor([0.15 / 0.525, 4.7 / 0.475]).double())


def test_what_is_never_used_stays_where_it_is():
    made = on_a_line(0.0, 10.0, decay=0.5, revive=0.0)
    for _ in range(5000):  # until its share has vanished from double precision
        made.after(made.quantise(torch.zeros(1, 1, 1).double(), generator=stream(0, "z")).carry, STEP)
    assert made.books[0].table[1].item() == pytest.approx(10.0)


def test_a_codebook_learnt_by_gradient_is_drawn_to_what_is_nearest():
    """d/de of the mean square is 2 (e - y) / n, of the commitment none; y feels the commitment alone."""
    made = on_a_line(0.0, 10.0, update="gradient", commitment=0.5)
    y = torch.tensor([[1.0], [9.0]], dtype=torch.float64)[:, :, None].requires_grad_()
    made.quantise(y, generator=stream(0, "z")).penalty.sum().backward()
    torch.testing.assert_close(made.books[0].table.grad[:, 0], torch.tensor([-2.0, 2.0]).double())
    torch.testing.assert_close(y.grad[:, 0, 0], 0.5 * torch.tensor([2.0, -2.0]).double())


def test_k_means_finds_planted_clusters():
    centres = 20 * torch.cartesian_prod(*[torch.arange(3.0)] * 2).double()
    y = centres.repeat(50, 1) + 0.1 * normal(450, 2)
    found = k_means(y, 9, generator=stream(0, "start"))
    distance = torch.cdist(centres, found).min(1).values
    assert float(distance.max()) < 0.1
    assert torch.equal(found, k_means(y, 9, generator=stream(0, "start")))


def test_k_means_of_fewer_points_than_centres_is_finite():
    assert bool(k_means(torch.zeros(3, 2).double(), 5, generator=stream(0, "start")).isfinite().all())


def test_a_start_puts_codes_and_their_use_on_the_data():
    made = quantiser(2, 1)
    y = torch.tensor([0.0, 0.0, 0.0, 8.0], dtype=torch.float64)[:, None, None]
    made.start(y, generator=stream(0, "start"))
    book = made.books[0]
    order = book.table[:, 0].argsort()
    torch.testing.assert_close(book.table[order, 0].detach(), torch.tensor([0.0, 8.0]).double())
    torch.testing.assert_close(book.counts[order], torch.tensor([0.75, 0.25]).double())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_dead_code_begins_anew_at_a_vector_of_the_batch(update):
    made = on_a_line(0.0, 1000.0, decay=0.5, revive=0.3, update=update)
    y = normal(8, 3, 1)
    carries = [made.quantise(y, generator=stream(i, "z")).carry for i in range(2)]
    made.after(carries[0], STEP)
    assert made.books[0].table[1].item() > 500, "used a quarter of the time: more than 0.3 of the mean use"
    made.after(carries[1], STEP)
    revived = made.books[0].table[1].detach()
    assert bool((revived - y.flatten()).abs().min() < 1e-9)
    assert float(made.books[0].counts[1]) == 0.5


def test_pieces_of_a_batch_draw_what_the_whole_does():
    """Carried means over pieces are those of the batch, the vectors drawn for dead codes as well."""
    made, y = quantiser(5, 2, depth=2), normal(12, 3, 2)
    whole = made.quantise(y, generator=stream(0, "z")).carry
    pieces = [made.quantise(part, generator=Shared.of(stream(0, "z"), i, 3)).carry for i, part in enumerate(y.chunk(3))]
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([piece[name] for piece in pieces]).mean(0), value)
    assert all(bool((y.flatten(0, 1) == row).all(1).any()) for row in whole["0/fresh"])


def test_depth_brings_the_sum_of_codes_nearer():
    y = normal(200, 4, 6)
    errors = []
    for depth in (1, 2, 4, 8):
        made = quantiser(8, 6, depth=depth)
        made.start(y, generator=stream(0, "start"))
        z = made.symbols(y)
        assert z.shape == (200, 4 * depth)
        errors.append(float((made.vectors(z) - y).square().mean()))
        torch.testing.assert_close(made.quantise(y, generator=stream(0, "z")).vectors, made.vectors(z))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * errors[0]


def test_symbols_stand_slot_by_slot_from_the_coarsest_on():
    made, y = quantiser(3, 2, depth=2), normal(4, 5, 2)
    coarse = torch.cdist(y, made.books[0].table).argmin(-1)
    fine = torch.cdist(y - made.books[0].table[coarse], made.books[1].table).argmin(-1)
    assert torch.equal(made.symbols(y).view(4, 5, 2), torch.stack([coarse, fine], -1))


def test_normalised_codes_are_chosen_by_angle():
    made, y = quantiser(16, 3, normalise=True), normal(50, 2, 3)
    angle = torch.nn.functional.cosine_similarity(y[:, :, None], made.books[0].table, dim=-1)
    assert torch.equal(made.symbols(y), angle.argmax(-1))
    for _ in range(3):
        made.after(made.quantise(y, generator=stream(0, "z")).carry, STEP)
    lengths = made.vectors(made.symbols(y)).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_straight_through_is_the_code_with_the_gradient_of_the_identity():
    y, q, g = normal(5, 3).requires_grad_(), normal(5, 3, role="q"), normal(5, 3, role="g")
    out = straight_through(y, q)
    torch.testing.assert_close(out, q)
    out.backward(g)
    assert torch.equal(y.grad, g)


def test_the_rotation_trick_is_its_paper_s_formula():
    """q = (|q|/|y|) R y with R = I - 2 r r' + 2 q^ y^', row by row; its transpose takes the gradient back."""
    y, q, g = normal(5, 3).requires_grad_(), normal(5, 3, role="q"), normal(5, 3, role="g")
    out = rotated(y, q)
    out.backward(g)
    torch.testing.assert_close(out, q)
    for i in range(5):
        from_, to = y[i].detach() / y[i].norm().detach(), q[i] / q[i].norm()
        r = (from_ + to) / (from_ + to).norm()
        turn = torch.eye(3).double() - 2 * torch.outer(r, r) + 2 * torch.outer(to, from_)
        torch.testing.assert_close(turn @ turn.T, torch.eye(3).double())
        torch.testing.assert_close(y.grad[i], (q[i].norm() / y[i].norm()).detach() * turn.T @ g[i])


def test_the_rotation_trick_keeps_the_gradient_s_angle_and_relative_length():
    y, q, g = normal(9, 4).requires_grad_(), normal(9, 4, role="q"), normal(9, 4, role="g")
    rotated(y, q).backward(g)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(y.grad, y.detach()), cosine(g, q))
    torch.testing.assert_close(y.grad.norm(dim=1) / g.norm(dim=1), (q.norm(dim=1) / y.norm(dim=1)).detach())


@pytest.mark.parametrize("levels", [(2,), (3, 2), (5, 4, 3), (8, 5)])
def test_finite_scalars_reach_every_code_and_no_other(levels):
    made = FiniteScalar(levels).double()
    assert made.vocabulary == math.prod(levels)
    z = torch.arange(made.vocabulary)[:, None]
    vectors = made.vectors(z)[:, 0]
    below = [n // 2 for n in levels]
    grid = [[(i - b) / b for i in range(n)] for n, b in zip(levels, below)]
    assert {tuple(row) for row in vectors.tolist()} == {
        tuple(row) for row in torch.tensor(list(itertools.product(*grid)), dtype=torch.float64).tolist()
    }
    y = 30 * normal(4000, 1, len(levels))
    y[::2] *= 0.05
    assert made.symbols(y).unique().tolist() == z.flatten().tolist()
    quantised = made.quantise(y, generator=stream(0, "z")).vectors
    torch.testing.assert_close(quantised, made.vectors(made.symbols(y)))


def test_finite_scalars_start_in_the_middle_and_pass_gradients():
    """The bound of 0 is about 0, and its slope there is that of tanh shifted, as in the paper's appendix."""
    made, y = FiniteScalar((8, 5)), torch.zeros(1, 1, 2, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(made.bound(y).detach(), torch.zeros_like(y), atol=0.02, rtol=0)
    made.quantise(y, generator=stream(0, "z")).vectors.sum().backward()
    slope = [3.4965 * (1 - math.tanh(math.tan(0.5 / 3.4965)) ** 2) / 4, 1.998 / 2]
    torch.testing.assert_close(y.grad[0, 0], torch.tensor(slope).double())


def test_gumbel_at_a_low_temperature_is_the_categorical():
    """One code, drawn as often as q says; in evaluation mode at any temperature."""
    with seeded_init(0):
        made = Gumbel(4, 3).double()
    y = normal(1, 1, 3).expand(20_000, 1, 3)
    q = made.logits(y)[0, 0].softmax(-1)
    made.temperature.fill_(1e-4)
    cold = made.quantise(y, generator=stream(0, "z")).vectors[:, 0]
    whole = made.eval().quantise(y, generator=stream(0, "z")).vectors[:, 0]
    assert float((cold - whole).abs().amax(1).gt(1e-6).double().mean()) < 0.01, "near ties alone are mixed"
    drawn = torch.cdist(whole, made.table).argmin(1)
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    assert bool(((share - q).abs() < 5 * (q * (1 - q) / len(drawn)).sqrt()).all())


def test_gumbel_s_rate_is_the_divergence_from_uniform():
    with seeded_init(0):
        made = Gumbel(4, 3).double()
    y = normal(6, 2, 3)
    q = torch.distributions.Categorical(logits=made.logits(y))
    kl = torch.distributions.kl_divergence(q, torch.distributions.Categorical(torch.ones(4).double()))
    torch.testing.assert_close(made.quantise(y, generator=stream(0, "z")).rate, kl.sum(1))


def test_gumbel_cools_by_half_a_cosine():
    made = Gumbel(4, 3, coldest=0.2)
    told = []
    for step in (0, 5, 10):
        made.after({}, Progress(step, 10))
        told.append(round(float(made.temperature), 6))
    assert told == [1.0, 0.6, 0.2]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VectorQuantiser(1, 4), "at least 2 codes, got 1"),
        (lambda: VectorQuantiser(4, 0), "code_dim must be at least 1, got 0"),
        (lambda: VectorQuantiser(4, 4, depth=0), "depth must be at least 1, got 0"),
        (lambda: VectorQuantiser(4, 4, depth=2, normalise=True), "normalise needs depth 1"),
        (lambda: FiniteScalar((8, 1)), "at least 2 each"),
        (lambda: FiniteScalar(()), "at least 2 each"),
        (lambda: Gumbel(4, 4, coldest=0.0), "coldest must be in"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    with pytest.raises(Unusable, match=message):
        build()

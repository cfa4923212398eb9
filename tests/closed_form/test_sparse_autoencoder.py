"""The sparse autoencoder: each activation by hand, gradients of thresholds, dead latents, a planted dictionary."""

import pytest
import torch
import torch.nn.functional as F

from pofx.data.dataset import Rows
from pofx.domains import Images, Vectors
from pofx.errors import Unusable
from pofx.models import SparseAutoencoder
from pofx.models.autoencoders.sparse_codes import L1, BatchTopK, Code, Gated, JumpReLU, TopK
from pofx.protocols import Progress
from pofx.randomness import seeded_init, stream
from pofx.testing import TWO_CLASSES, failures
from pofx.train.loop import Trainer
from pofx.train.settings import settings_from

PRE = torch.tensor([[3.0, -1.0, 2.0, 0.5], [-2.0, -3.0, -1.0, 0.25]])
ACTIVATIONS = ("topk", "batch-topk", "l1", "gated", "jumprelu")


def test_topk_keeps_the_largest_of_each_row_that_are_positive():
    code = TopK(2)(PRE)
    assert code.dense().tolist() == [[3, 0, 2, 0], [0, 0, 0, 0.25]]
    assert code.shares().tolist() == [0.5, 0, 0.5, 0.5]


def test_batch_topk_shares_its_number_among_the_rows_and_keeps_a_threshold():
    activation = BatchTopK(1)
    trained = activation.trained(PRE)
    assert trained.dense().tolist() == [[3, 0, 2, 0], [0, 0, 0, 0]]
    activation.after(activation.carry(trained), Progress(0, 10))
    assert activation.threshold == 2, "the smallest that fired"
    activation.after({"threshold": torch.tensor(1.0)}, Progress(1, 10))
    assert activation.threshold == 1.5, "a mean at first"
    activation.after({"threshold": torch.tensor(2.5)}, Progress(500, 1000))
    assert activation.threshold == pytest.approx(1.51), "then a running one"
    assert activation(PRE).dense().tolist() == [[3, 0, 2, 0], [0, 0, 0, 0]]
    none = activation.trained(-PRE.abs())
    assert activation.carry(none)["threshold"] == 0


def test_l1_is_relu_at_a_price_for_its_sum():
    activation, y = L1(0.1), torch.zeros(2, 4)
    code = activation(PRE)
    assert code.dense().tolist() == [[3, 0, 2, 0.5], [0, 0, 0, 0.25]]
    assert activation.penalty(PRE, code, y, torch.eye(4))["sparsity"] == pytest.approx(0.1 * (5.5 + 0.25) / 2 / 2)


def test_gated_opens_by_one_part_and_measures_by_the_other():
    activation, y = Gated(4, 0.1), torch.ones(2, 4)
    with torch.no_grad():
        activation.log_gain.fill_(2.0).log_()
        activation.gate.copy_(torch.tensor([-2.0, 0.5, 0.0, -0.3]))
        activation.magnitude.copy_(torch.tensor([0.0, 9.0, -5.0, 1.0]))
    code = activation(PRE)
    assert code.dense().flatten().tolist() == pytest.approx([6, 0, 0, 2, 0, 0, 0, 0]), "magnitudes do not see the gate"
    parts = activation.penalty(PRE, code, y, torch.eye(4))
    gates = (PRE + activation.gate.detach()).relu()
    assert gates.sum() == pytest.approx(1 + 2 + 0.2)
    assert parts["sparsity"].detach() == pytest.approx(0.1 * 3.2 / 2 / 2)
    assert parts["gates"].detach() == pytest.approx((gates - 1).square().mean())


def test_the_gates_and_magnitudes_of_a_model_have_a_bias_each():
    """Rajamanoharan et al. 2024, eq. (6): of W_e (x - b), H(. + b_gate) ReLU(exp(r) . + b_mag)."""
    model = SparseAutoencoder(Vectors(3), dictionary=6, activation="gated").double()
    biases = {name for name, p in model.named_parameters() if p.shape == (6,)}
    assert biases == {"activation.log_gain", "activation.gate", "activation.magnitude"}
    x, gated = torch.randn(5, 3, generator=stream(0, "x"), dtype=torch.float64), model.activation
    with torch.no_grad():
        for i, p in enumerate((gated.log_gain, gated.gate, gated.magnitude)):
            p.copy_(torch.randn(6, generator=stream(i, "p"), dtype=torch.float64))
        pi = (x - model.bias) @ model.encoder.weight.T
        code = (pi + gated.gate > 0) * (gated.log_gain.exp() * pi + gated.magnitude).relu()
        torch.testing.assert_close(model.encode(x), code)


@pytest.mark.parametrize("domain", [Vectors(4), Images(1, 2, 2, levels=None)], ids=["vectors", "images"])
@pytest.mark.parametrize("condition", [None, TWO_CLASSES], ids=["free", "classes"])
def test_several_codes_of_each_row_are_decoded_together(domain, condition):
    model = SparseAutoencoder(domain, condition=condition, dictionary=6)
    z = torch.rand(3, 5, 6, generator=stream(0, "z"))
    together = model.decode(z)
    for i in range(3):
        torch.testing.assert_close(together.mean[i], model.decode(z[i]).mean)


def test_batch_topk_says_that_it_takes_a_whole_batch():
    """A row's code depends on the others', so that pieces have another loss than the whole."""
    assert SparseAutoencoder(Vectors(3), activation="batch-topk").whole_batch
    assert not hasattr(SparseAutoencoder(Vectors(3)), "whole_batch")


def test_jumprelu_keeps_what_exceeds_its_threshold_and_pays_for_each():
    activation = JumpReLU(4, 0.1, bandwidth=1.0)
    with torch.no_grad():
        activation.log_threshold.copy_(torch.tensor([2.0, 2.0, 2.1, 0.4]).log())
    assert activation(PRE).dense().tolist() == [[3, 0, 0, 0.5], [0, 0, 0, 0]]
    penalty = activation.penalty(PRE, activation(PRE), torch.zeros(2, 4), torch.eye(4))["sparsity"]
    assert penalty.detach() == pytest.approx(0.1 * 2 / 2)


def test_jumprelu_s_thresholds_learn_by_the_rectangle():
    """Of z = theta + u within half the bandwidth eps: d f / d theta = -theta / eps, and d H / d theta = -1 / eps."""
    theta, eps = torch.tensor([2.0, 0.4], dtype=torch.float64), 0.5
    activation = JumpReLU(2, 0.3, bandwidth=eps).double()
    with torch.no_grad():
        activation.log_threshold.copy_(theta.log())
    z = torch.tensor([[2.1, 0.1], [2.4, 0.5], [1.8, 3.0]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64)
    (activation(z).values * weights).sum().backward()
    assert z.grad.tolist() == [[1, 0], [3, 4], [0, 6]], "of z itself where it fires"
    near = torch.tensor([1 + 5, 4], dtype=torch.float64)  # of 2.1 and 1.8; of 0.5
    assert activation.log_threshold.grad.tolist() == pytest.approx((-theta / eps * near * theta).tolist())
    activation.log_threshold.grad = z.grad = None
    activation.penalty(z, activation(z), torch.zeros(3, 1), torch.zeros(2, 1))["sparsity"].backward()
    counts = torch.tensor([2, 1], dtype=torch.float64)
    assert activation.log_threshold.grad.tolist() == pytest.approx((-0.3 / 3 / eps * counts * theta).tolist())


def test_a_few_are_decoded_as_all_are():
    g = stream(0, "few")
    pre, atoms = torch.randn(7, 20, generator=g), torch.randn(20, 5, generator=g)
    for code in (TopK(3)(pre), BatchTopK(3).trained(pre)):
        torch.testing.assert_close(code.decoded(atoms), code.dense() @ atoms)
        torch.testing.assert_close(code.shares(), Code(code.dense(), code.size).shares())


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
@pytest.mark.parametrize("domain", [Vectors(2), Images(1, 1, 2, levels=3)], ids=["vectors", "images"])
def test_every_activation_keeps_the_contract(activation, domain):
    own = {"k": 2} if activation == "batch-topk" else {}

    def build():
        return SparseAutoencoder(domain, condition=TWO_CLASSES, dictionary=6, activation=activation, **own)

    assert failures(build, domain, TWO_CLASSES) == {}


def trained(x, steps, *, seed=0, before=lambda model: None, **given):
    with seeded_init(seed):
        model = SparseAutoencoder(Vectors(x.shape[1]), **given)
    model.adapt(x, generator=stream(seed, "adapt"))
    before(model)
    settings = settings_from(model.recipe, {"steps": steps, "batch_size": 256, "learning_rate": 5e-3})
    trainer = Trainer(model.train(), Rows(x), settings, planned=steps, seed=seed)
    for _ in range(steps):
        trainer.round()
    return model.eval()


def planted(seed, n):
    """(x, atoms): sums of 4 of 64 unit atoms in 32 dimensions, by 0.5 to 1.5 each, and noise of 0.01."""
    g = stream(seed, "planted")
    atoms = F.normalize(torch.randn(64, 32, generator=g), dim=1)
    chosen = torch.rand(n, 64, generator=g).topk(4, dim=1).indices
    sizes = 0.5 + torch.rand(n, 4, generator=g)
    return torch.einsum("nk,nkd->nd", sizes, atoms[chosen]) + 0.01 * torch.randn(n, 32, generator=g), atoms


def found(model, atoms):
    """Mean over the planted atoms of the cosine with the nearest learnt one."""
    return float((atoms @ model.directions.detach().T).max(1).values.mean())


def test_dead_latents_are_revived_by_what_the_others_leave():
    """Half the latents are planted dead: too small ever to be among the largest. Only the auxiliary loss moves them."""
    x, _ = planted(0, 4000)

    def plant(model):
        with torch.no_grad():
            model.encoder.weight[32:].mul_(1e-3)

    shares = {
        weight: trained(x, 150, dictionary=64, k=4, dead_after=1000, auxiliary=weight, before=plant).meters(x)
        for weight in (0.0, 1 / 32)
    }
    assert shares[0.0]["dead_share"] >= 0.5
    assert shares[1 / 32]["dead_share"] < 0.1
    assert shares[1 / 32]["variance_explained"] > shares[0.0]["variance_explained"]


def test_who_fired_is_counted_in_observations():
    with seeded_init(0):
        model = SparseAutoencoder(Vectors(3), dictionary=4, k=1)
    (turn,) = model.turns()
    turn.after({"fired": torch.tensor([0.0, 0.5, 0.0, 1.0]), "rows": torch.tensor(8.0)}, Progress(0, 2))
    turn.after({"fired": torch.tensor([0.0, 0.0, 0.5, 1.0]), "rows": torch.tensor(8.0)}, Progress(1, 2))
    assert model.silent.tolist() == [16, 8, 0, 0]


def test_meters_by_hand():
    """Orthonormal atoms, two of three dimensions: what is left is the third's share of the variance."""
    x = torch.randn(500, 3, generator=stream(0, "meters")).abs() * torch.tensor([3.0, 2.0, 1.0])
    with seeded_init(0):
        model = SparseAutoencoder(Vectors(3), dictionary=3, k=2)
    with torch.no_grad():
        for weights in (model.atoms, model.encoder.weight):
            weights.copy_(torch.eye(3) * torch.tensor([1.0, 1.0, -1.0])[:, None])
    meters = model.double().meters(x.double())
    variance = (x - x.mean(0)).square().sum()
    assert meters["variance_explained"] == pytest.approx(1 - float(x[:, 2].square().sum() / variance), abs=1e-6)
    assert (meters["l0"], meters["dead_share"]) == (2, 0)
    assert meters["silent_share"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("domain", [Vectors(3), Images(1, 2, 2, levels=4)], ids=["vectors", "images"])
def test_code_is_decoded_in_the_data_s_own_units(domain):
    """A dictionary of both signs of each direction explains everything: x comes back."""
    g = stream(0, "units")
    x = torch.randint(4, (40, 1, 2, 2), generator=g).to(torch.uint8)
    x = torch.randn(40, 3, generator=g) * 7 + 100 if isinstance(domain, Vectors) else x
    with seeded_init(0):
        model = SparseAutoencoder(domain, dictionary=2 * domain.dims, activation="l1")
    with torch.no_grad():
        both = torch.cat([torch.eye(domain.dims), -torch.eye(domain.dims)])
        model.atoms.copy_(both)
        model.encoder.weight.copy_(both)
    model.adapt(x, generator=g)
    p = model.decode(model.encode(x))
    torch.testing.assert_close(p.mode, x, rtol=1e-4, atol=1e-3)
    if isinstance(domain, Vectors):
        spread = model.standardise.scale[0]
        expected = -0.5 * domain.dim * (2 * torch.pi * spread**2).log()
        torch.testing.assert_close(p.log_prob(x), expected.expand(40), rtol=1e-3, atol=1e-3)


def test_a_planted_dictionary_is_found():
    x, atoms = planted(0, 10_000)
    assert found(trained(x, 600, dictionary=64, k=4), atoms) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_dictionary_is_found_in_full(seed):
    x, atoms = planted(seed, 100_000)
    cosine = found(trained(x, 4000, seed=seed, dictionary=64, k=4), atoms)
    print(f"seed {seed}: mean max cosine {cosine:.4f}")
    assert cosine >= 0.97


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 9, "dictionary": 8}, "k must be at most the 8 latents, got 9"),
        ({"dictionary": 0}, "dictionary must be at least 1, got 0"),
        ({"dead_after": 0}, "dead_after must be at least 1"),
        ({"activation": "l1", "k": 3}, "l1 learns it; give sparsity"),
        ({"sparsity": 0.1}, "topk is told how many fire; give k"),
        ({"activation": "l1", "sparsity": -1.0}, "must be at least 0, and finite, got -1.0"),
        ({"auxiliary": -1.0}, "must be at least 0"),
        ({"activation": "jumprelu", "bandwidth": 0.0}, "bandwidth must be above 0, got 0.0"),
    ],
)
def test_arguments_say_what_is_wrong(given, message):
    with pytest.raises(Unusable, match=message) as wrong:
        SparseAutoencoder(Vectors(4), **given)
    assert "\n" not in str(wrong.value)

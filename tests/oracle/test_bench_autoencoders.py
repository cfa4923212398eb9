"""The benchmarks of autoencoders compare like with like, and their tables give every row its figure."""

import importlib
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pofx
from pofx.data import Rows
from pofx.domains import Tokens
from pofx.models.autoencoders import vae
from pofx.randomness import stream

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "autoencoders"


@pytest.fixture(scope="module")
def probes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield importlib.import_module("probes")
        del sys.modules["probes"]


@pytest.fixture(scope="module")
def digits():
    return pofx.datasets.load("digits", condition="class")


def test_the_table(probes, capsys):
    """The mean over the seeds, best first."""
    small = ["--source", "digits", "--seconds", "0.1", "--seeds", "2", "--rows", "200"]
    probes.main([*small, "--models", "masked-autoencoder", "--anchors", "patches"])
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("features "))
    assert "probes fitted on 200 rows, chosen on 180, told on 180" in lines[0]
    seeds = [float(line.split()[-1]) for line in lines[1:start] if "random, patches" in line]
    rows = {line[:25].strip(): line[25:].split() for line in lines[start + 1 :]}
    assert rows.keys() == {"raw pixels", "random, patches", "supervised, patches", "masked-autoencoder"}
    assert float(rows["random, patches"][0]) == pytest.approx(sum(seeds) / 2, abs=1e-4)
    assert len(seeds) == 2
    means = [float(values[0]) for values in rows.values()]
    assert means == sorted(means, reverse=True)
    assert float(rows["raw pixels"][0]) > 0.8


def test_a_supervised_encoder_learns_the_classes_and_its_decoder_nothing(probes, digits):
    small = {"width": 16, "layers": 1, "heads": 2, "decoder_heads": 2}

    def build():
        return probes.Supervised(probes.built("masked-autoencoder", small, digits, 0), 10)

    before, (after, steps) = build(), probes.trained(build, digits.train, {}, 0, 0.3)
    before.adapt(digits.train.rows()[0], generator=stream(0, "adapt"))
    assert steps > 1
    for name, p in before.named_parameters():
        moved = not torch.equal(p, after.get_parameter(name))
        assert moved == ("decoder" not in name), name


def test_models_are_trained_without_classes_and_end_with_averaged_weights(probes, digits):
    small = {"width": 16, "layers": 1, "heads": 2, "decoder_heads": 2}
    x = digits.train.rows()[0]
    model, steps = probes.trained(
        lambda: probes.built("masked-autoencoder", small, digits, 0), Rows(x), {"ema": 1.0}, 0, 0.2
    )
    last, _ = probes.trained(
        lambda: probes.built("masked-autoencoder", small, digits, 0), Rows(x), {"ema": 0.0}, 0, 0.2
    )
    assert steps > 1
    assert not torch.equal(model.features(x[:3]), last.features(x[:3]))


@pytest.fixture(scope="module")
def vqvae():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        yield importlib.import_module("vqvae")
        del sys.modules["vqvae"]


@pytest.fixture(scope="module")
def quick(vqvae, tmp_path_factory):
    """Both models fitted on digits for a moment: the folder, and the arguments that made it."""
    out = tmp_path_factory.mktemp("vqvae")
    arguments = ["--source", "digits", "--out", str(out), "--vq-budget", "1s", "--gpt-budget", "1s"]
    arguments += ["--judge-seconds", "1", "--samples", "40", "--temperatures", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POFX_CACHE", str(out))
        vqvae.main(arguments)
        yield out, arguments


def test_a_code_is_used_by_more_than_a_tenth_of_an_even_share(vqvae):
    """Of 10 codes by more than a hundredth of the tokens."""
    z = torch.tensor([0] * 100 + [1] * 96 + [2] * 3 + [3]).view(20, 10)
    told = vqvae.use_of_codes(SimpleNamespace(latent_domain=Tokens(10, 10)), z)
    entropy = -sum(n / 200 * math.log(n / 200) for n in (100, 96, 3, 1))
    assert told["used"] == pytest.approx(0.3)
    assert told["perplexity"] == pytest.approx(math.exp(entropy))


def test_bits_of_indices_and_of_reconstruction_are_the_bound(quick, digits):
    out, _ = quick
    told = json.loads((out / "vqvae.json").read_text())["bits/dim given class"]
    model, (x, c) = pofx.load(out / "gpt").model, digits.test.rows()
    nats = -model.elbo(x, c, generator=torch.Generator()).mean().item()
    assert told["total"]["mean"] == pytest.approx(nats / 64 / math.log(2), rel=1e-5)
    assert told["total"]["mean"] == pytest.approx(told["indices"]["mean"] + told["reconstruction"]["mean"])
    assert told["total"]["n"] == len(x)


def test_samples_are_judged_by_the_class_they_were_asked_for(vqvae, quick):
    out, _ = quick
    judge = SimpleNamespace(predict=lambda x: x)
    told = vqvae.accepted(judge, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 0]))
    assert (told["share"], told["each class"]) == (0.75, [pytest.approx(2 / 3), 1.0])
    found = json.loads((out / "vqvae.json").read_text())["accepted"]
    assert {name: a["n"] for name, a in found.items()} == dict.fromkeys(
        ("draws, temperature 1", "means, temperature 1", "test pictures decoded, draws",
         "test pictures decoded, means", "test pictures"), 40,
    )  # fmt: skip
    assert all(len(a["each class"]) == 10 for a in found.values())


def test_runs_are_not_fitted_again(vqvae, quick, monkeypatch):
    out, arguments = quick
    monkeypatch.setattr(pofx, "fit", lambda *a, **k: pytest.fail("fitted again"))
    before = json.loads((out / "vqvae.json").read_text())
    vqvae.main(arguments)
    assert json.loads((out / "vqvae.json").read_text()) == before


# ---- beside pythae

BESIDE = ("alike", "training", "scoring")
ENGINE = ("bare", "bare_game", "by_hand", "games_by_hand", "held", "loops", "measure", "with_pythae", "workloads")
needs_pythae = pytest.mark.skipif(importlib.util.find_spec("pythae") is None, reason="pythae is not installed")


@pytest.fixture(scope="module")
def beside():
    """Its modules, of which ``alike`` finds those of the engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(HERE), *sys.path])
        yield {name: importlib.import_module(name) for name in BESIDE}
        for name in (*BESIDE, *ENGINE):
            sys.modules.pop(name, None)


def pictures(rows):
    return (torch.rand(rows, 1, 28, 28, generator=stream(0, "x")) < 0.3).to(torch.uint8)


def biased(beside):
    """Ours, with pixels whose marginals were learnt."""
    model = beside["scoring"].model_of({})
    with torch.no_grad():
        model.bias.copy_(torch.randn(784, generator=stream(0, "bias")))
    return model


def test_the_bare_loop_trains_the_network_of_pofx(beside):
    """The same loss by hand, with the same weights and noise."""
    model, (weights, loss) = biased(beside), beside["alike"].workload(4).written()
    with torch.no_grad():
        for mine, written in zip([*model.encoder.parameters(), *model.decoder.parameters()], weights, strict=True):
            mine.copy_(written)
        model.bias.zero_()
    expected = model.loss(pictures(4), generator=stream(0, "noise")).total
    torch.testing.assert_close(loss(pictures(4), stream(0, "noise")), expected, rtol=1e-5, atol=0)


@needs_pythae
def test_pythae_trains_and_scores_the_network_of_pofx(beside):
    """What its encoder and decoder put out are ours, with the weights carried over: nothing is left out or added."""
    model, x = biased(beside), pictures(4)
    peer = beside["alike"].carried(model)
    told, q = peer.encoder(x.float()), model.posterior(x)
    torch.testing.assert_close(told.embedding, q.mu, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(told.log_covariance, q.log_var, rtol=1e-4, atol=1e-5)
    z = torch.randn(4, 20, generator=stream(0, "z"))
    torch.testing.assert_close(peer.decoder(z).reconstruction, model.decode(z).base.logits.sigmoid())
    count = sum(p.numel() for p in peer.parameters())
    assert count == sum(p.numel() for p in beside["alike"].workload(4).written()[0])


@needs_pythae
def test_the_loop_of_pythae_makes_the_steps_asked_for(beside, monkeypatch):
    """Of its default network, with as many pictures as a step is given."""
    from pythae.models.nn.default_architectures import Encoder_VAE_MLP
    from with_pythae import pythae_loop

    seen, forward = [], Encoder_VAE_MLP.forward
    monkeypatch.setattr(Encoder_VAE_MLP, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    work = beside["alike"].workload(8)
    work.__dict__["x"] = pictures(24)
    advance = pythae_loop(work, fused=False, default=True)
    seen.clear()
    advance(5)
    assert seen == [8] * 5


def ratio(beside, median):
    from measure import Ratio

    return Ratio((median,) * 4, (1.0, 1.0), 0.0)


@pytest.mark.parametrize(("reached", "said"), [(1.99, "below"), (2.01, "at least")])
def test_the_verdict_allows_three_percent(beside, reached, said):
    found = {"pythae / pofx": ratio(beside, reached), "pythae / bare": ratio(beside, 2.06)}
    assert said in beside["training"].verdict(found)


def test_ratios_are_of_the_blocks_of_one_round(beside):
    from measure import Turns

    names = ["pythae", "pofx, clipping", "bare, clipping", "pofx", "bare"]
    turns = Turns(([6.0, 12.0], [8.0, 8.0], [4.0, 4.0], [3.0, 6.0], [1.0, 2.0]), 10, 0.0)
    found = {label: r.pairs for label, r in beside["training"].ratios(names, turns)}
    assert found == {
        "pythae / bare": (6, 6),
        "pofx / bare": (3, 3),
        "pofx, clipping / bare, clipping": (2, 2),
        "pythae / pofx": (2, 2),
    }


def test_loops_that_take_turns_make_equal_steps(beside):
    from measure import taking_turns

    made = [[], [], []]
    turns = taking_turns([of.append for of in made], rounds=4, steps=3)
    assert made == [[3] * 5] * 3  # the first of them is not timed
    assert [len(of) for of in turns.times] == [4, 4, 4]


def test_a_table_of_training(beside, capsys, monkeypatch):
    """Without peers."""
    training = beside["training"]
    monkeypatch.setattr(training, "HAS_PYTHAE", False)
    monkeypatch.setattr(training, "loops_of", lambda work, loops_of=training.loops_of: loops_of(work, pythae=False))
    training.main(["--batches", "2", "--pairs", "2", "--seconds", "0.001"])
    out = capsys.readouterr().out
    assert "pythae is left out" in out
    assert out.index("pofx / bare ") < out.index("pofx, clipping / bare, clipping")


def test_the_bound_as_it_is_read_is_the_bound(beside, monkeypatch):
    """With the same draws of z, ours says the same."""
    model, x = biased(beside), pictures(3)
    noise = torch.randn(7, 3, 20, generator=stream(0, "noise"))
    monkeypatch.setattr(torch, "randn", lambda *shape, dtype=torch.float, **given: noise.to(dtype))
    with torch.no_grad():
        expected = beside["scoring"].plain_bound(model, x, 7, None)
        found = model.elbo(x, samples=7, generator=stream(0, "z"))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


@needs_pythae
def test_get_nll_of_pythae_is_a_log_likelihood(beside):
    """Not its negative: it is the bound itself."""
    told = beside["scoring"].values(biased(beside), pictures(3), 50)
    ours, plain, theirs = (sum(told[name]) / 5 for name in ("pofx elbo", "torch.distributions", "pythae get_nll"))
    assert ours < 0
    assert math.isclose(theirs, plain, abs_tol=2)
    assert math.isclose(ours, plain, abs_tol=2)


def test_the_products_are_the_decoders(beside, monkeypatch):
    """Of every layer, for so many rows, whole pieces and a rest."""
    model, done = biased(beside), []
    monkeypatch.setattr(vae, "_CHUNK", 784 * 4)
    products = beside["scoring"].products_of(model, 10)
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda x, w, out: done.append((len(x), *w.shape)) or mm(x, w, out=out))
    products()
    assert done == [(rows, *shape) for rows in (4, 4, 2) for shape in ((20, 512), (512, 784))]

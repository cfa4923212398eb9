"""A prior on the codes of a run: the promises of the contract, and a run folder that stands on its own."""

import copy
import re
import shutil
from functools import partial

import pytest
import torch
from interrupting import same, stopped
from safetensors.torch import load_file

import pofx
from pofx import fitting
from pofx.catalogue import find
from pofx.cli import main
from pofx.configs import fitting_arguments
from pofx.domains import Images
from pofx.errors import Unusable
from pofx.models.composed.latent import Latent
from pofx.planning import plan as planned
from pofx.runs import load
from pofx.testing import TINY, TWO_CLASSES, failures, plan
from pofx.testing.specimens import specimen
from pofx.train import checkpoint

GPT = {"width": 8, "layers": 1, "heads": 2}
# Half a minute each, or by a grid that is made for codes that are N(0, I): the bound of Latent is held against sums and
# integrals of its own in closed_form/test_latent.py.
SLOW = {"bound_meets_quadrature", "bound_has_no_mass_above_one", "bound_is_below_the_truth", "samples_meet_the_bound"}


def over(theirs, domain, given, name, condition, **arguments):
    """A prior of the codes of a tiny autoencoder that has learnt something."""
    entry = find(theirs)
    build = partial(entry.build, domain, condition=given, **entry.tiny[domain.kind])
    autoencoder, prior = specimen(build, domain, given, 150), find(name)
    codes = autoencoder.latent_domain
    return lambda: Latent(copy.deepcopy(autoencoder), prior.build(codes, condition=condition, **arguments))


@pytest.mark.parametrize(
    ("kind", "theirs", "given", "name", "arguments", "condition"),
    [
        ("vectors", "vq-vae", None, "gpt", GPT, TWO_CLASSES),
        ("images", "vae", None, "made", {"hidden": (8,)}, TWO_CLASSES),
        ("vectors", "vae", TWO_CLASSES, "gaussian-mixture", {"components": 2}, TWO_CLASSES),
        ("images", "vae", None, "flow-matching", {"hidden": (8,)}, None),
        ("vectors", "vae", None, "wgan-gp", {"latent_dim": 2, "hidden": (8,)}, None),
    ],
)
def test_every_promise_is_kept(kind, theirs, given, name, arguments, condition):
    domain = TINY[kind][0]
    build = over(theirs, domain, given, name, condition, **arguments)
    names = {check.name for check, _ in plan(build, condition)} - SLOW
    assert "saved_and_loaded_gives_the_same_bits" in names
    assert failures(build, domain, condition, only=tuple(names)) == {}


# ---- the run folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The run of an autoencoder, and of priors on its codes."""
    home = tmp_path_factory.mktemp("runs")
    fitting.fit("vae", "digits", out=home / "vae", steps=40, latent_dim=2, hidden=(16,), seed=4, device="cpu")
    fit(home, "gaussian-mixture", components=2)
    fit(home, "made", hidden=(8,), condition="class", ema=0.5)
    return home


def fit(home, name, **given):
    given = {"latent": home / "vae", "out": home / name, "device": "cpu", "steps": 6, "batch_size": 32, **given}
    if find(name).family == "baselines":
        given = {key: value for key, value in given.items() if key not in ("steps", "batch_size")}
    return fitting.fit(name, "digits", **given)


def autoencoder_of(weights):
    start = "autoencoder."
    return {name.removeprefix(start): x for name, x in weights.items() if name.startswith(start)}


def equal(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.mark.parametrize("name", ["gaussian-mixture", "made"])
def test_a_run_is_of_the_data_and_needs_no_other_folder(home, name, tmp_path):
    shutil.copytree(home / name, tmp_path / "alone")
    run = load(tmp_path / "alone")
    (home / "vae").rename(home / "hidden")
    try:
        assert run.domain == Images(1, 8, 8, levels=17)
        assert run.sample(3).x.shape == (3, 1, 8, 8)
        scores = run.evaluate(seconds=1)
        assert (scores[0].kind, scores[0].unit) == ("lower bound", "nats")
        assert fitting.resume(run.folder, device="cpu").finished
        for words in (["reconstruct", "-o", "back.npy"], ["encode", "-o", "z.npy"]):
            assert main([words[0], str(run.folder), "digits", words[1], str(tmp_path / words[2]), "--quiet"]) == 0
    finally:
        (home / "hidden").rename(home / "vae")


@pytest.mark.parametrize("name", ["gaussian-mixture", "made"])
def test_the_frozen_weights_are_those_of_the_run_bit_for_bit(home, name):
    theirs = load_file(home / "vae" / "model.safetensors")
    assert equal(autoencoder_of(load_file(home / name / "model.safetensors")), theirs)
    state = load_file(home / name / "checkpoint" / "state.safetensors")
    for part in ("model", "best"):
        kept = {key.removeprefix(f"{part}/"): x for key, x in state.items() if key.startswith(f"{part}/")}
        assert not kept or equal(autoencoder_of(kept), theirs)
    model = load(home / name).model
    frozen = {i: p for i, p in enumerate(model.parameters()) if not p.requires_grad}
    averages = {i: state[f"ema/{i}"] for i in frozen if f"ema/{i}" in state}
    assert (name == "made") == bool(averages)
    assert all(averages[i].equal(frozen[i]) for i in averages)
    assert not [key for key in state if key.startswith("optimiser/") and "autoencoder" in key]


def test_the_split_is_the_autoencoders(home):
    assert load(home / "made").config["data_seed"] == 4
    assert load(home / "made").config["seed"] == 0


@pytest.mark.parametrize("name", ["made", "wgan-gp"])
def test_stop_and_resume_equal_no_stop(home, name, tmp_path, monkeypatch):
    given = {"hidden": (8,), "ema": 0.5}
    through = fit(home, name, out=tmp_path / "through", **given)
    stopped(monkeypatch, 3, fit, home, name, out=tmp_path / "stopped", **given)
    same(through, fitting.resume(tmp_path / "stopped", device="cpu"))


def test_a_run_is_repeated_from_its_record(home, tmp_path):
    arguments = fitting_arguments(home / "made", out=tmp_path / "again")
    assert arguments["latent"] == str((home / "vae").resolve())
    again = fitting.fit(**arguments)
    assert equal(load_file(again.folder / "model.safetensors"), load_file(home / "made" / "model.safetensors"))


def test_it_is_planned(home):
    told = planned("made", "digits", latent=home / "vae", hidden=(8,), steps=5, batch_size=32, device="cpu")
    learn = sum(p.numel() for p in load(home / "made").model.parameters() if p.requires_grad)
    assert 0 < told.parameters < learn  # which is given a class besides
    assert told.steps == 5


def test_its_name_says_both(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "marginals", "digits", "--latent", str(home / "vae"), "--quiet"]) == 0
    assert load("runs/marginals-on-vae-digits").domain.kind == "images"


def test_runs_are_compared(home, tmp_path):
    names = ["vae", "gaussian-mixture"]
    comparison = pofx.compare([home / name for name in names], out=tmp_path / "side")
    assert [row.name for row in comparison.rows[:2]] == names
    assert all(row.scores[0].kind == "lower bound" for row in comparison.rows[:2])


# ---- what does not fit


def test_the_weights_of_another_autoencoder_are_refused(home, tmp_path):
    shutil.copytree(home / "made", tmp_path / "run")
    tensors, plain = checkpoint.load(tmp_path / "run" / "model.safetensors")
    name = next(name for name in tensors if name.startswith("autoencoder."))
    tensors[name].view(-1)[0] += 1e-3
    checkpoint.save(tmp_path / "run" / "model.safetensors", tensors, plain)
    with pytest.raises(Unusable, match=r"do not fit each other .*was fitted on the codes of autoencoder \w{16}, and"):
        load(tmp_path / "run").sample(1)


def test_a_prior_does_not_go_on_where_its_autoencoder_has_changed(home, tmp_path, monkeypatch):
    shutil.copytree(home / "vae", tmp_path / "vae")
    stopped(monkeypatch, 3, fit, tmp_path, "made", hidden=(8,))
    weights = tmp_path / "vae" / "model.safetensors"
    tensors, plain = checkpoint.load(weights)
    checkpoint.save(weights, {name: x + 1e-3 for name, x in tensors.items()}, plain)
    with pytest.raises(Unusable, match=r"has changed since and holds \w{16}; fit the prior again, or move .*vae away"):
        fitting.resume(tmp_path / "made", device="cpu")
    (tmp_path / "vae").rename(tmp_path / "elsewhere")
    assert fitting.resume(tmp_path / "made", device="cpu").finished


REFUSED = {
    "nothing there": (["gpt", "digits", "--latent", "{home}/none"], "there is no run at"),
    "a prior of other codes": (["n-gram", "digits", "--latent", "{home}/vae"], "codes of .* are vectors; for these"),
    "other data": (["made", "moons", "--latent", "{home}/vae"], "same kind, got .*vae on digits.*fit the prior on the"),
    "a prior of a prior": (["made", "digits", "--latent", "{home}/made"], "itself a prior.*give the run that it was"),
    "no codes": (["made", "digits", "--latent", "{home}/marginals"], "marginals cannot encode, which --latent needs"),
    "not finished": (["made", "digits", "--latent", "{home}/begun"], "takes a finished run, got .* at step 2; pofx"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_codes_for_it_is_refused_in_one_line(case, home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if case == "no codes" and not (home / "marginals").exists():
        fitting.fit("marginals", "digits", out=home / "marginals", device="cpu")
    if case == "not finished":
        vae = {"steps": 6, "batch_size": 32, "latent_dim": 2, "hidden": (8,), "device": "cpu"}
        stopped(monkeypatch, 2, fitting.fit, "vae", "digits", out=home / "begun", **vae)
    words, told = REFUSED[case]
    assert main(["fit", *(word.format(home=home) for word in words)]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert re.search(told, said), said
    assert not (tmp_path / "runs").exists()


def test_a_conditional_autoencoder_wants_its_condition(home):
    conditional = home / "conditional"
    vae = {"steps": 3, "batch_size": 32, "latent_dim": 2, "hidden": (8,), "device": "cpu"}
    fitting.fit("vae", "digits", out=conditional, condition="class", **vae)
    with pytest.raises(Unusable, match=r"given a condition \(classes\) needs a prior given the same one, got none"):
        fit(home, "gaussian-mixture", latent=conditional, out=home / "refused")
    run = fit(home, "gaussian-mixture", latent=conditional, out=home / "given", condition="class", components=2)
    assert torch.equal(run.sample(2, "3").x, run.sample(4, "3").x[:2])

"""Posterior collapse, planted by a rate thirty times as dear as in the bound: it is seen, and what cures it does."""

import pytest

from pofx import fitting

PLANTED = {"beta": 30.0, "hidden": (32,), "latent_dim": 4, "steps": 160, "batch_size": 64, "limit": 600}


@pytest.mark.parametrize(
    ("cure", "least", "most"),
    [({}, 0.0, 0.3), ({"free_bits": 0.5}, 1.0, 4 * 0.5 + 0.3), ({"capacity": 4.0, "warm_up": 0.3}, 3.7, 4.3)],
)
def test_a_planted_collapse_rings_and_is_cured_by_an_argument(cure, least, most, tmp_path):
    """Below its free bits a rate is held by nothing, above them by all of beta."""
    run = fitting.fit("vae", "digits", out=tmp_path / "run", seed=3, device="cpu", **PLANTED, **cure)
    rung = [event["rule"] for event in run.events if event["kind"] == "alarm"]
    last = run.history[-1]
    assert (rung == ["posterior collapse"]) == (not cure)
    assert last["meter/active_units"] == (4 if cure else 0)
    assert least <= last["meter/rate"] <= most


@pytest.mark.parametrize(("prior", "posterior"), [("vamp", "full"), ("flow", "diagonal"), ("normal", "iaf")])
def test_the_meters_of_other_laws_tell_a_collapse(prior, posterior, tmp_path):
    laws = {"prior": prior, "posterior": posterior, "components": 5}
    run = fitting.fit("vae", "digits", out=tmp_path / "run", seed=3, device="cpu", **PLANTED, **laws)
    assert run.history[-1]["meter/active_units"] == 0
    assert abs(run.history[-1]["meter/rate"]) < 0.3

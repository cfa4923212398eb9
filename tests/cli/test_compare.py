"""A comparison as its user sees it: the folder, the figures, what happens when something goes wrong."""

import io
import json

import pytest
from rich.console import Console

from pofx import comparing
from pofx.catalogue import entries
from pofx.comparing import Spectator, compare
from pofx.errors import Unusable
from pofx.fitting import fit

SOURCE = "moons:limit=300"
FORM = {"name", "status", "reason", "parameters", "steps", "scores"}
SCORE = {"metric", "value", "kind", "unit", "n", "stderr", "bias", "given", "split"}


def baselines(out, **more):
    """What trains in no time."""
    return compare(SOURCE, models=[], budget="1s", out=out, device="cpu", **more)


@pytest.fixture
def three(monkeypatch):
    """A catalogue of three baselines."""
    few = {name: entries()[name] for name in ("marginals", "gaussian", "copy")}
    monkeypatch.setattr(comparing, "entries", lambda: few)
    return monkeypatch


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return baselines(tmp_path_factory.mktemp("comparison") / "moons")


def test_the_figures_are_written_in_their_promised_form(done):
    written = json.loads((done.folder / "compare.json").read_text())
    assert written["source"] == SOURCE
    assert {"split", "budget", "models"} <= written.keys()
    names = [model["name"] for model in written["models"]]
    assert names == [n for n, e in entries().items() if e.family == "baselines" and "vectors" in e.domains]
    for model in written["models"]:
        assert model.keys() >= FORM
        assert model["status"] == "ok", model["reason"]
        assert all(score.keys() >= SCORE for score in model["scores"])
    assert (done.folder / "report.html").read_text().startswith("<!doctype html>")


def test_the_terminal_table_begins_with_the_catalogue_name(done):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(done.table())
    lines = console.export_text().splitlines()
    assert [line.split()[0] for line in lines if line.split() and line.split()[0] in entries()] == [
        row.name for row in done.rows
    ]


def test_the_same_command_goes_on_where_it_was_interrupted(tmp_path, three):
    trained = []

    def interrupted(name, *args, **kwargs):
        trained.append(name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return fit(name, *args, **kwargs)

    three.setattr(comparing, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        baselines(tmp_path / "c")
    kept = json.loads((tmp_path / "c/compare.json").read_text())
    assert [model["name"] for model in kept["models"]] == trained[:1]
    assert "Interrupted. Not yet trained: gaussian, copy." in (tmp_path / "c/report.html").read_text()
    first = (tmp_path / f"c/scores/{trained[0]}-seed0.json").read_bytes()
    cut_off = tmp_path / f"c/runs/{trained[1]}-seed0"  # before its first checkpoint
    cut_off.mkdir()
    (cut_off / "config.json").write_text("{")
    rest = baselines(tmp_path / "c")
    assert trained[2:] == [row.name for row in rest.rows][1:]
    assert {row.status for row in rest.rows} == {"ok"}
    assert (tmp_path / f"c/scores/{trained[0]}-seed0.json").read_bytes() == first


def test_a_failed_model_is_a_row_that_says_why(tmp_path, three):
    heard = []

    class Hears(Spectator):
        def compared(self, comparison, coming):
            heard.append((len(comparison.rows), list(coming)))

    def fails(name, *args, **kwargs):
        if name == "gaussian":
            raise RuntimeError("no memory\nleft")
        return fit(name, *args, **kwargs)

    three.setattr(comparing, "fit", fails)
    comparison = baselines(tmp_path / "c", watch=Hears())
    rows = {row.name: row for row in comparison.rows}
    assert rows["gaussian"].status == "failed"
    assert rows["gaussian"].reason == "RuntimeError: no memory left"
    assert rows["marginals"].status == "ok"
    assert "gaussian failed: RuntimeError: no memory left." in comparison.verdict()
    assert heard == [(1, ["gaussian", "copy"]), (2, ["copy"]), (3, []), (3, [])]
    three.setattr(comparing, "fit", fit)
    assert {row.status for row in baselines(tmp_path / "c").rows} == {"ok"}
    (tmp_path / "c/runs/copy-seed0/model.safetensors").write_bytes(b"broken")
    again = baselines(tmp_path / "c").rows
    assert [row.status for row in again] == ["ok", "ok", "failed"]
    assert "not a whole safetensors file" in again[2].reason


def test_seeds_share_the_data_and_give_a_spread(tmp_path, three):
    comparison = baselines(tmp_path / "c", seeds=2, seed=5)
    row = next(row for row in comparison.rows if row.name == "copy")
    assert len(row.by_seed) == 2
    written = json.loads((tmp_path / "c/compare.json").read_text())
    assert all("spread" in score for model in written["models"] for score in model["scores"])
    configs = [json.loads((tmp_path / f"c/runs/copy-seed{s}/config.json").read_text()) for s in (5, 6)]
    assert [config["seed"] for config in configs] == [5, 6]
    assert configs[0]["data"]["fingerprint"] == configs[1]["data"]["fingerprint"] == comparison.data.fingerprint()


def test_finished_runs_are_compared_on_their_shared_split(done, tmp_path):
    runs = [done.folder / "runs" / f"{name}-seed0" for name in ("gaussian", "marginals")]
    comparison = compare(runs, out=tmp_path / "c", device="cpu")
    assert [row.name for row in comparison.rows] == ["gaussian", "marginals"]
    assert comparison.data.fingerprint() == done.data.fingerprint()
    other = fit("gaussian", "moons:limit=200", out=tmp_path / "other", device="cpu")
    with pytest.raises(Unusable, match="differ; fit both on one source, seed and condition"):
        compare([runs[0], other], out=tmp_path / "d")
    with pytest.raises(Unusable, match="at least two, got 1"):
        compare(runs[:1], out=tmp_path / "e")


def test_what_a_user_gets_wrong_is_one_line(done, tmp_path):
    with pytest.raises(Unusable, match="did you mean 'vae'"):
        compare(SOURCE, models=["vea"], out=tmp_path / "a")
    with pytest.raises(Unusable, match="n-gram takes tokens or images, but the data are vectors"):
        compare(SOURCE, models=["n-gram"], out=tmp_path / "b")
    with pytest.raises(Unusable, match="--seeds must be at least 1, got 0"):
        compare(SOURCE, seeds=0, out=tmp_path / "c")
    with pytest.raises(Unusable, match="--budget must be above 0"):
        compare(SOURCE, budget="0s", out=tmp_path / "d")
    with pytest.raises(Unusable, match="choose another --out"):
        compare(SOURCE, models=[], budget="3s", out=done.folder)
    with pytest.raises(Unusable, match="saved as"):
        done.save(tmp_path / "x.pdf")
    assert not any(tmp_path.iterdir())


def test_a_default_folder_is_never_another_comparison_s(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {"source": "a.csv", "budget": "60s"}
    first = comparing._claimed(None, "a.csv", asked)
    assert first.name == "compare-a"
    assert comparing._claimed(None, "a.csv", asked) == first
    assert comparing._claimed(None, "a.csv", asked | {"budget": "90s"}).name == "compare-a-2"

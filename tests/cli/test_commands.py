"""Every command does what the page of commands says, on each kind of data, and writes files that can be read again."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pofx.cli import main
from pofx.runs import load


def pofx(line, **names):
    assert main(line.format(**names).split()) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with sources of each kind, and a short run on each."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for kind in ("light", "dark"):
        (folder / "photos" / kind).mkdir(parents=True)
        for i in range(30):
            grey = rng.integers(0, 120, (8, 8, 3), dtype=np.uint8) + (120 if kind == "light" else 0)
            Image.fromarray(grey.astype(np.uint8)).save(folder / "photos" / kind / f"{i:02d}.png")
    (folder / "book.txt").write_text("it was the best of times, it was the worst of times. " * 60)
    columns = rng.normal(size=(300, 2)) @ np.array([[2.0, 0.5], [0.0, 1.0]]) + 10
    kinds = np.where(columns[:, 0] > 10, "tall", "short")
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "width", "kind"])
        writer.writerows([*row, kind] for row, kind in zip(columns, kinds))
    fits = {
        "vae-photos": "fit vae {home}/photos --condition class --steps 20 --hidden 16 --latent-dim 2",
        "gpt-photos": "fit gpt {home}/photos --steps 3 --width 16 --layers 1 --heads 2 --condition class",
        "gpt-book": "fit gpt {home}/book.txt --length 16 --steps 20 --width 16 --layers 1 --heads 2",
        "flow-table": "fit flow-matching {home}/table.csv --condition kind --steps 20 --hidden 16,16",
        "wgan-table": "fit wgan-gp {home}/table.csv --condition kind --steps 5 --hidden 16,16",
        "vae-moons": "fit vae moons --steps 20 --hidden 16,16",
        "mixture": "fit gaussian-mixture moons --components 3",
    }
    for name, line in fits.items():
        pofx(line + " --out {home}/" + name, home=folder)
    return folder


@pytest.mark.parametrize(
    ("run", "file", "flags"),
    [
        ("vae-photos", "sheet.png", "--condition light"),
        ("gpt-photos", "x.npy", "--condition dark --temperature 0.5"),
        ("gpt-book", "text.txt", "--temperature 0.8 --top-k 5 --top-p 0.9"),
        ("flow-table", "rows.csv", "--condition tall --steps 4 --guidance 1.5 --method euler"),
        ("wgan-table", "rows.csv", "--condition short"),
        ("vae-moons", "scatter.png", ""),
        ("mixture", "x.npy", ""),
    ],
)
def test_sample(home, tmp_path, run, file, flags):
    pofx(
        "sample {home}/{run} -n 5 -o {out}/{file} --json {out}/said.json " + flags,
        home=home,
        run=run,
        out=tmp_path,
        file=file,
    )
    path = tmp_path / file
    assert json.loads((tmp_path / "said.json").read_text())["n"] == 5
    if path.suffix == ".npy":
        assert len(np.load(path)) == 5
    elif path.suffix == ".csv":
        rows = list(csv.reader(path.open()))
        assert (len(rows), rows[0]) == (6, ["height", "width"])
    elif path.suffix == ".png":
        assert Image.open(path).size[0] > 8
    else:
        assert len(path.read_text().split("\n---\n")) == 5


def test_the_same_seed_gives_the_same_samples(home, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pofx(
            "sample {home}/vae-moons -n 7 --seed {seed} -o {out}/{name}.npy",
            home=home,
            out=tmp_path,
            name=name,
            seed=seed,
        )
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


@pytest.mark.parametrize(
    ("run", "source", "kind"),
    [
        ("vae-photos", "photos", "lower bound"),
        ("gpt-photos", "photos", "exact"),
        ("gpt-book", "book.txt", "exact"),
        ("flow-table", "table.csv", "estimate"),
    ],
)
def test_score(home, tmp_path, run, source, kind):
    pofx(
        "score {home}/{run} {home}/{source} --split test -o {out}/s.csv --json {out}/s.json",
        home=home,
        run=run,
        source=source,
        out=tmp_path,
    )
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    said = json.loads((tmp_path / "s.json").read_text())
    assert said["kind"] == kind
    assert said["mean_log_p"] == pytest.approx(np.mean([float(row["log_p"]) for row in rows]))
    assert ("bias" in rows[0]) == (kind == "estimate")


def test_exact_scores_integrate_to_one(home):
    run = load(home / "mixture")
    rows, columns = torch.linspace(-3, 4, 200), torch.linspace(-3, 3, 200)
    scored = run.score(torch.cartesian_prod(rows, columns))
    mass = scored.value.exp().sum() * rows.diff()[0] * columns.diff()[0]
    assert scored.kind == "exact"
    assert mass.item() == pytest.approx(1.0, abs=0.01)


def test_encode_reconstruct_interpolate(home, tmp_path):
    pofx("encode {home}/vae-photos {home}/photos -o {out}/z.npy", home=home, out=tmp_path)
    assert np.load(tmp_path / "z.npy").shape[1] == 2
    pofx("reconstruct {home}/vae-photos {home}/photos --split all -o {out}/r.npy", home=home, out=tmp_path)
    assert np.load(tmp_path / "r.npy").shape == (60, 3, 8, 8)
    pofx("reconstruct {home}/vae-photos {home}/photos -o {out}/r.png", home=home, out=tmp_path)
    pofx("interpolate {home}/vae-photos -n 2 --between 5 -o {out}/i.png", home=home, out=tmp_path)
    wide, high = Image.open(tmp_path / "i.png").size
    assert wide > 2 * high, "two walks of five steps, a row each"


def test_complete(home, tmp_path):
    pofx("complete {home}/gpt-book times -n 3 -o {out}/c.txt", home=home, out=tmp_path)
    texts = (tmp_path / "c.txt").read_text().split("\n---\n")
    assert len(texts) == 3
    assert all(text.startswith("times") for text in texts)
    pofx("complete {home}/gpt-book times -n 2 --length 40 -o {out}/long.npy", home=home, out=tmp_path)
    assert np.load(tmp_path / "long.npy").shape == (2, 40)
    pofx("complete {home}/gpt-photos {home}/photos -n 4 --keep 0.25 -o {out}/c.npy", home=home, out=tmp_path)
    real = load(home / "gpt-photos").data.test.rows()[0][:4]
    done = np.load(tmp_path / "c.npy")
    assert (done[:, :, :2] == real[:, :, :2].numpy()).all()
    assert (done[:, :, 2:] != real[:, :, 2:].numpy()).any()


def test_text_longer_than_the_context(home, tmp_path):
    pofx("sample {home}/gpt-book -n 2 --length 50 -o {out}/long.txt", home=home, out=tmp_path)
    assert [len(text.removesuffix("\n")) for text in (tmp_path / "long.txt").read_text().split("\n---\n")] == [50, 50]
    pofx("evaluate {home}/gpt-book --budget 1s --stride 4 --json {out}/e.json", home=home, out=tmp_path)
    first = json.loads((tmp_path / "e.json").read_text())["scores"][0]
    assert (first["metric"], first["kind"]) == ("log p(x), stride 4", "exact")
    assert "at least 12 before it" in first["note"]


def test_evaluate_says_kind_unit_and_n(home, tmp_path, capsys):
    pofx("evaluate {home}/vae-moons --budget 3s --split validation --json {out}/e.json", home=home, out=tmp_path)
    scores = json.loads((tmp_path / "e.json").read_text())["scores"]
    log_p = next(score for score in scores if score["metric"] == "log p(x)")
    assert (log_p["kind"], log_p["unit"], log_p["split"]) == ("lower bound", "nats", "validation")
    assert log_p["n"] > 1
    assert "lower bound" in capsys.readouterr().out


def test_models_and_data(home, tmp_path, capsys):
    pofx("models --json {out}/m.json", out=tmp_path)
    assert "flow-matching" in capsys.readouterr().out
    models = {row["name"]: row for row in json.loads((tmp_path / "m.json").read_text())["models"]}
    assert "scores" in models["gpt"]["capabilities"]
    pofx("data {home}/photos --condition class -o {out}/sheet.png --json {out}/d.json", home=home, out=tmp_path)
    said = json.loads((tmp_path / "d.json").read_text())
    assert said["classes"].keys() == {"dark", "light"}
    assert Image.open(tmp_path / "sheet.png").size[0] > 60


def test_names_of_runs_count_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        pofx("fit marginals digits:levels=2 --quiet")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "marginals-digits-levels-2",
        "marginals-digits-levels-2-2",
    ]


@pytest.mark.parametrize("command", ["fit vae --help", "compare --help", "--help", "--version"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "pofx" in shown
    if command.startswith("fit"):
        assert "--latent-dim" in shown
        assert "size of the latent" in shown

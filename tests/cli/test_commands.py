"""Every command does what the page of commands says, on each kind of data, and writes files that can be read again."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from pofx.cli import main
from pofx.cli.latents import _classes
from pofx.growing import Growth
from pofx.rendering import HIDDEN, sheet
from pofx.runs import load
from pofx.samplers.latents import reconstruct


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
        "plain-photos": "fit vae {home}/photos --steps 1 --hidden 16 --latent-dim 3",
        "gpt-photos": "fit gpt {home}/photos --steps 3 --width 16 --layers 1 --heads 2 --condition class",
        "gpt-book": "fit gpt {home}/book.txt --length 16 --steps 20 --width 16 --layers 1 --heads 2",
        "flow-table": "fit flow-matching {home}/table.csv --condition kind --steps 20 --hidden 16,16",
        "wgan-table": "fit wgan-gp {home}/table.csv --condition kind --steps 5 --hidden 16,16",
        "vae-moons": "fit vae moons --steps 20 --hidden 16,16",
        "mixture": "fit gaussian-mixture moons --components 3",
        "n-gram": "fit n-gram {home}/book.txt --length 16",
        "gpt-table": "fit gpt {home}/table.csv --condition kind --steps 2 --width 16 --layers 1 --heads 2",
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


@pytest.mark.parametrize(("n", "flags"), [(2, ""), (1, "--condition light")])
def test_each_row_of_a_sheet_of_walks_is_one_between_two_of_a_class(home, tmp_path, n, flags):
    run = load(home / "vae-photos")
    x, c = run.data.test.rows()
    pofx(f"interpolate {{home}}/vae-photos -n {n} --between 3 -o {{out}}/i.npy {flags}", home=home, out=tmp_path)
    walks = torch.from_numpy(np.load(tmp_path / "i.npy")).unflatten(0, (n, 3))
    back = reconstruct(run.model, x, c)
    ends = []
    for walk in walks:
        near = [int((back.double() - end.double()).flatten(1).norm(dim=1).argmin()) for end in walk[[0, -1]]]
        assert torch.equal(back[near], walk[[0, -1]])
        assert len(set(near)) == 2
        ends += c[near].tolist()
    assert ends[::2] == ends[1::2]
    assert not flags or set(ends) == {run.condition.names.index("light")}


def test_traverse(home, tmp_path):
    pofx("traverse {home}/vae-photos --between 5 -o {out}/t.png", home=home, out=tmp_path)
    pofx(
        "traverse {home}/vae-photos --between 5 --around 3 -o {out}/t.npy --json {out}/t.json", home=home, out=tmp_path
    )
    told = json.loads((tmp_path / "t.json").read_text())
    assert sorted(told["dimensions"]) == [0, 1]
    assert told["movement"] == sorted(told["movement"], reverse=True)
    assert told["deviations"] == [-3, -1.5, 0, 1.5, 3]
    assert np.load(tmp_path / "t.npy").shape == (2, 5, 3, 8, 8)
    pofx("traverse {home}/vae-moons -n 1 --around mean -o {out}/t.csv", home=home, out=tmp_path)
    with open(tmp_path / "t.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["dimension", "deviations"]
    assert len(header) == 4
    assert [float(row[1]) for row in rows] == [-3, -2.25, -1.5, -0.75, 0, 0.75, 1.5, 2.25, 3]
    pofx("traverse {home}/vae-photos --condition dark --around mean -o {out}/d.png", home=home, out=tmp_path)
    assert Image.open(tmp_path / "d.png").width > Image.open(tmp_path / "t.png").width


def test_map(home, tmp_path):
    pofx("map {home}/vae-photos -o {out}/m.png --json {out}/m.json", home=home, out=tmp_path)
    told = json.loads((tmp_path / "m.json").read_text())
    assert told["n"] == len(load(home / "vae-photos").data.test)
    assert sum(told["shares"]) == pytest.approx(1)
    pofx("map {home}/vae-photos -o {out}/g.png --grid --condition light", home=home, out=tmp_path)
    assert Image.open(tmp_path / "g.png").width > 1.9 * Image.open(tmp_path / "g.png").height
    pofx("map {home}/vae-moons -n 20 -o {out}/v.png", home=home, out=tmp_path)
    Image.open(tmp_path / "v.png").verify()


def test_a_map_knows_classes_that_the_model_was_not_told(home):
    labels, _ = _classes(load(home / "vae-photos"))
    assert len(load(home / "vae-photos").data.test) == len(labels)
    plain = load(home / "plain-photos")
    assert plain.condition is None
    told, names = _classes(plain)
    assert names == ("dark", "light")
    assert torch.equal(told, labels)
    assert _classes(load(home / "gpt-book")) is None


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


def completed(home, tmp_path, source, flags):
    """What the sheet and the array of the same completions hold."""
    for name in ("c.png", "c.npy"):
        pofx(f"complete {{home}}/gpt-photos {source} -o {{out}}/{name} {flags}", home=home, out=tmp_path)
    domain, done = load(home / "gpt-photos").domain, torch.from_numpy(np.load(tmp_path / "c.npy"))
    tiles = np.asarray(Image.open(tmp_path / "c.png"))
    return domain, done, tiles


def test_completions_stand_beside_what_was_given(home, tmp_path):
    domain, done, page = completed(home, tmp_path, "{home}/photos", "-n 3 --keep 0.25")
    real = load(home / "gpt-photos").data.test.rows()[0][:3]
    rows = torch.stack([real, real, done], 1)
    shown = np.asarray(sheet(rows.flatten(0, 1), domain, columns=3)).copy()
    for top in range(2, len(shown), 50):
        shown[top + 12 : top + 48, 52:100] = HIDDEN
    np.testing.assert_array_equal(page, shown)


def test_one_picture_is_completed_several_times(home, tmp_path):
    photo = sorted((home / "photos" / "light").iterdir())[0]
    domain, done, page = completed(home, tmp_path, str(photo), "-n 4")
    given = torch.from_numpy(np.asarray(Image.open(photo)).copy()).permute(2, 0, 1)
    assert (done[:, :, :4] == given[:, :4]).all()
    assert len(done.unique(dim=0)) == 4
    assert page.shape == (52, 6 * 50 + 2, 3)
    np.testing.assert_array_equal(page[:, :52], np.asarray(sheet(given[None], domain)))


def test_rows_of_a_table_are_completed(home, tmp_path):
    pofx("complete {home}/gpt-table {home}/table.csv -n 4 -o {out}/c.npy", home=home, out=tmp_path)
    real, done = load(home / "gpt-table").data.test.rows()[0][:4].numpy(), np.load(tmp_path / "c.npy")
    assert (done[:, 0] == real[:, 0]).all()
    assert (done[:, 1] != real[:, 1]).all()
    pofx("complete {home}/gpt-table {home}/table.csv -n 4 -o {out}/c.png", home=home, out=tmp_path)
    scatter = sheet(torch.from_numpy(done), load(home / "gpt-table").domain)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "c.png")), np.asarray(scatter))


@pytest.mark.parametrize("run", ["gpt-book", "n-gram"])
def test_text_is_printed(home, tmp_path, capsys, run):
    capsys.readouterr()
    pofx("sample {home}/{run} -n 3 --json {out}/said.json", home=home, run=run, out=tmp_path)
    printed = capsys.readouterr().out
    assert json.loads((tmp_path / "said.json").read_text()) == {"run": str(home / run), "n": 3, "output": "-"}
    pofx("sample {home}/{run} -n 3 --chunk 1 -o {out}/x.txt --quiet", home=home, run=run, out=tmp_path)
    assert printed == (tmp_path / "x.txt").read_text()
    assert capsys.readouterr().out == ""
    pofx("sample {home}/{run} -o -", home=home, run=run)
    assert capsys.readouterr().out == printed[:16] + "\n", "one, and more of them do not change it"


def test_a_completed_text_is_printed(home, capsys):
    capsys.readouterr()
    pofx("complete {home}/gpt-book times -n 2", home=home)
    texts = capsys.readouterr().out.removesuffix("\n").split("\n---\n")
    assert [(text[:5], len(text)) for text in texts] == [("times", 16)] * 2
    pofx("complete {home}/gpt-book {prompt}", home=home, prompt="t" * 16)
    assert capsys.readouterr().out == "t" * 16 + "\n", "nothing is left to draw"


def test_a_terminal_sees_what_a_file_gets(home, tmp_path, capsys, monkeypatch):
    capsys.readouterr()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    pofx("sample {home}/gpt-book -n 3 -o {out}/x.txt", home=home, out=tmp_path)
    assert capsys.readouterr().out == (tmp_path / "x.txt").read_text() + f"3 samples of gpt: {tmp_path}/x.txt\n"


def test_an_interrupted_text_stays_on_the_screen(home, capsys, monkeypatch):
    pofx("sample {home}/gpt-book", home=home)
    whole = capsys.readouterr().out
    pieces = []

    def write(piece):
        if len(pieces) == 5:
            pieces.append("")
            raise KeyboardInterrupt
        pieces.append(piece)

    monkeypatch.setattr("pofx.cli.drawing._print", write)
    assert main(["sample", str(home / "gpt-book"), "-n", "2"]) == 130
    assert "".join(pieces) == whole[:5] + "\n"
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_is_no_fault(home):
    command = [sys.executable, "-m", "pofx", "sample", str(home / "gpt-book"), "-n", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


@pytest.mark.parametrize(("verb", "frames"), [("sample", 9), ("complete", 5)])
def test_pictures_grow(home, tmp_path, verb, frames):
    what = "{home}/gpt-photos" + (" {home}/photos" if verb == "complete" else "")
    for name in ("x.webp", "x.gif", "x.npy"):
        pofx(f"{verb} {what} -n 5 --chunk 5 -o {{out}}/{name}", home=home, out=tmp_path)
    drawn = torch.from_numpy(np.load(tmp_path / "x.npy"))
    with Image.open(tmp_path / "x.webp") as picture:
        *_, last = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
        assert picture.n_frames == frames
    np.testing.assert_array_equal(last, np.asarray(sheet(drawn, load(home / "gpt-photos").domain)))
    assert Image.open(tmp_path / "x.gif").n_frames == frames


def test_several_chunks_grow_together(home):
    run = load(home / "gpt-photos")
    growth = Growth(run.domain)
    drawn = run.sample(5, chunk=2, watch=growth)
    *_, last = frames = list(growth.frames())
    assert len(frames) == 9
    np.testing.assert_array_equal(np.asarray(last), np.asarray(sheet(drawn.x, run.domain)))


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


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("fit autoencoder moons --hidden 8 --latent-dim 1", "pofx reconstruct"),
        ("fit masked-autoencoder {home}/photos --width 8 --layers 1", "pofx complete"),
        ("fit vae moons --hidden 8", "pofx sample"),
    ],
)
def test_a_fit_ends_with_what_its_model_can_do(line, hint, home, tmp_path, capsys):
    pofx(line + " --steps 2 --out {out}/run", home=home, out=tmp_path)
    assert hint in capsys.readouterr().out

"""What a logger's own reader finds is the run's history; a logger that cannot run is said before training."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from pofx import fitting
from pofx.cli import main
from pofx.runs import load
from pofx.train.health import Alarm
from pofx.train.loggers import with_loggers
from pofx.train.loop import Trainer
from pofx.train.watch import Watcher, Watchers

SMALL = {"hidden": (8,), "latent_dim": 2, "limit": 200, "device": "cpu"}


class Fake(ModuleType):
    """A stand-in for wandb or trackio that records how it is called; the real ones are tried by hand."""

    def __init__(self, name, *, login=False, reachable=True):
        super().__init__(name)
        self.calls, self.reachable = [], reachable
        self.login = lambda prompt: login
        self.Settings = lambda **settings: settings
        self.Error = RuntimeError

    def init(self, **arguments):
        self.calls.append(("init", arguments))
        if arguments.get("mode") == "online" and not self.reachable:
            raise RuntimeError("no way to the server")
        return SimpleNamespace(
            log=lambda row, step: self.calls.append(("log", {"step": step, **row})),
            finish=lambda: self.calls.append(("finish", {})),
        )

    def named(self, name):
        return [arguments for called, arguments in self.calls if called == name]


@pytest.fixture
def fake(monkeypatch):
    def put(name, **how):
        module = Fake(name, **how)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    for variable in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    return put


def test_tensorboard_reads_the_history_back(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="an extra, pofx[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    play = Trainer.round

    def interrupted(self):
        play(self)
        if self.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitting.fit("vae", "digits", out=tmp_path / "run", steps=5, logger="tensorboard", **SMALL)
    run = fitting.resume(tmp_path / "run", device="cpu", logger="tensorboard")
    read = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert set(read.Tags()["scalars"]) == {name for row in run.history for name in row} - {"step"}
    for name in read.Tags()["scalars"]:
        points = [(event.step, event.value) for event in read.Scalars(name)]
        assert points == [(row["step"], pytest.approx(row[name])) for row in run.history if name in row]
    assert b'"model": "vae"' in read.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_wandb_and_trackio_get_every_row(tmp_path, fake):
    modules = [fake("wandb"), fake("trackio")]
    run = fitting.fit("vae", "digits", out=tmp_path / "run", steps=3, logger="wandb,trackio", **SMALL)
    for module in modules:
        assert module.named("log") == [row | {"step": int(row["step"])} for row in run.history]
        (begun,) = module.named("init")
        assert (begun["project"], begun["name"]) == ("pofx", "run")
        assert begun["config"]["arguments"] == {"hidden": (8,), "latent_dim": 2}
        assert module.calls[-1] == ("finish", {})
    assert modules[0].named("init")[0]["dir"] == str(run.folder)


@pytest.mark.parametrize(
    ("login", "reachable", "variable", "modes"),
    [
        (False, True, None, ["offline"]),
        (True, True, None, ["online"]),
        (True, False, None, ["online", "offline"]),
        (True, True, "disabled", ["disabled"]),
    ],
)
def test_wandb_goes_on_without_login_or_network(tmp_path, fake, monkeypatch, login, reachable, variable, modes):
    module = fake("wandb", login=login, reachable=reachable)
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    logger = with_loggers(Watcher(), "wandb")
    logger.opened(tmp_path, {})
    logger.started("run", 10, 0, 64)
    assert [arguments["mode"] for arguments in module.named("init")] == modes


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("tensorbord", "there is no logger 'tensorbord'; did you mean 'tensorboard'?"),
        ("csv", "history.csv is always written"),
        ("wandb", "--logger wandb needs the package wandb, which is not installed; pip install 'pofx[wandb]'"),
        ("trackio", "pip install 'pofx[trackio]'"),
    ],
)
def test_what_is_missing_is_said_before_training(tmp_path, capsys, monkeypatch, names, words):
    for package in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, package, None)
    assert main(f"fit vae digits --steps 2 --logger {names} --out {tmp_path}/run".split()) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_watchers_pass_everything_on(tmp_path):
    heard = []

    def listening(who):
        def listen(name):
            return lambda *arguments: heard.append((who, name, arguments))

        watcher = Watcher()
        for name in METHODS:
            setattr(watcher, name, listen(name))
        return watcher

    arguments = {"opened": (tmp_path, {}), "started": ("run", 3, 0, 64), "stepped": (1, 0.1, {}), "said": ("a",)}
    arguments |= {"recorded": ({"step": 1},), "alarmed": (Alarm("rule", 1, "seen", "try"),), "ended": ()}
    assert arguments.keys() == METHODS, "every method of a watcher is passed on"
    both = Watchers([listening("first"), listening("second")])
    for name, given in arguments.items():
        getattr(both, name)(*given)
    assert heard == [(who, name, given) for name, given in arguments.items() for who in ("first", "second")]


METHODS = {name for name in vars(Watcher) if not name.startswith("_")}


def test_the_command_logs_what_the_history_holds(tmp_path, fake):
    module = fake("trackio")
    assert main(f"fit vae digits --hidden 8 --steps 2 --limit 200 --logger trackio --out {tmp_path}/run".split()) == 0
    assert [row["step"] for row in module.named("log")] == [row["step"] for row in load(tmp_path / "run").history]

"""The autoencoder that a prior is fitted on: taken from its run, checked, and known again (``fit(latent=RUN)``)."""

from pathlib import Path
from typing import Any

from pofx.building import MEANING, autoencoder_identity
from pofx.catalogue import Entry, entries
from pofx.data.dataset import Data
from pofx.domains import in_words
from pofx.errors import Unusable
from pofx.protocols import Decodes, Encodes
from pofx.runs import Run, load


def autoencoder_run(folder: str | Path, prior: Entry) -> Run:
    """The run whose codes a model of the catalogue is to be a prior of.

    Raises:
        Unusable: there is no such run, it is not finished, has no codes, or codes that the prior does not take.
    """
    run = load(folder)
    if not run.finished:
        raise Unusable(f"--latent takes a finished run, got {folder} at step {run.steps}; pofx resume {folder}")
    if "latent" in run.config:
        raise Unusable(
            f"--latent takes an autoencoder's run, got {folder}, whose {run.name} is itself a prior of codes; "
            f"give the run that it was fitted on, {run.config['latent']['run']}"
        )
    run.require(Encodes, "encode, which --latent needs")
    run.require(Decodes, "decode, which --latent needs")
    codes = run.model.latent_domain.kind
    if codes not in prior.domains:
        raise Unusable(
            f"{prior.name} takes {' or '.join(prior.domains)}, but the codes of {folder} are {codes}; "
            f"for these there are: {', '.join(e.name for e in entries().values() if codes in e.domains)}"
        )
    return run


def recorded(run: Run, data: Data) -> dict[str, Any]:
    """What a configuration keeps of an autoencoder; ``give_weights`` and ``building.build`` read it.

    Raises:
        Unusable: the autoencoder is of other data.
    """
    if run.domain != data.domain:
        raise Unusable(
            f"--latent takes a run on data of the same kind, got {run.folder} on {run.config['source']} "
            f"({in_words(run.domain)}) for {data.source} ({in_words(data.domain)}); fit the prior on the "
            "source of that run, with its options"
        )
    what = {part: run.config[part] for part in MEANING}
    return {"run": str(run.folder.resolve()), **what, "identity": autoencoder_identity(what, run.model.state_dict())}


def give_weights(model: Any, config: dict[str, Any]) -> None:
    """Loads a new model's autoencoder from the run that its configuration names.

    Raises:
        Unusable: that run has changed since.
    """
    require_unchanged(config)
    model.autoencoder.load_state_dict(load(config["latent"]["run"]).model.state_dict())


def require_unchanged(config: dict[str, Any]) -> None:
    """Refuses to go on with a prior on codes that its autoencoder's run, if it is still there, no longer makes."""
    if "latent" not in config or not Path(config["latent"]["run"]).is_dir():
        return
    run, fitted_on = load(config["latent"]["run"]), config["latent"]["identity"]
    held = autoencoder_identity(run.config, run.model.state_dict())
    if held != fitted_on:
        raise Unusable(
            f"a prior goes on with the codes it was begun on, those of autoencoder {fitted_on}, but {run.folder} has "
            f"changed since and holds {held}; fit the prior again, or move {run.folder} away"
        )

"""From a run's configuration to an untrained model; where it models the codes of an autoencoder, with that inside.

``config["latent"]``, where there is one, says what the autoencoder is (``model``, ``arguments``, ``domain``,
``condition``), the run that it came from (``run``), and which weights it has (``identity``). ``config["from_source"]``,
where there is one, says what data a model maps from (``origins.py``).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pofx.catalogue import find
from pofx.conditions import Condition, condition_from_config
from pofx.domains import Domain, domain_from_config
from pofx.models.composed.latent import Latent
from pofx.origins import Origin
from pofx.packed import identity
from pofx.randomness import seeded_init

MEANING = ("model", "arguments", "domain", "condition")  # of a configuration: what, with weights, makes a model
INSIDE = "autoencoder."  # what the names of its weights begin with
SPARE = 2**16  # numbers that a model may make while it is built, besides those that its weights hold


def build(config: dict[str, Any], domain: Domain, condition: Condition | None) -> Any:
    """An untrained model from a run's configuration."""
    if "latent" not in config:
        return _alone(config, config["seed"], domain, condition)
    given = config["latent"]
    theirs = domain_from_config(given["domain"]), condition_from_config(given["condition"])
    if theirs[0] != domain:
        raise ValueError("the autoencoder is of other data than the run")
    autoencoder = _alone(given, config["seed"], *theirs)
    return Latent(autoencoder, _alone(config, config["seed"], autoencoder.latent_domain, condition))


def _alone(config: dict[str, Any], seed: int, domain: Domain, condition: Condition | None) -> Any:
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in config["arguments"].items()}
    if "from_source" in config:
        arguments["source"] = Origin(config["from_source"], seed=config["data_seed"])
    with seeded_init(seed):
        return find(config["model"]).build(domain, condition=condition, **arguments)


def rehearse(config: dict[str, Any], domain: Domain, condition: Condition | None, weights: dict[str, Tensor]) -> None:
    """Builds a model without memory for its numbers: one that asks for more than its weights hold is never built.

    Raises:
        ValueError: it does, or its parameters have other names or shapes.
    """
    held = sum(tensor.numel() for tensor in weights.values())
    room = 2 * held + SPARE  # tied weights are counted at each place, replaced ones too

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal room
        room -= parameter.numel() if parameter is not None and parameter.is_meta else 0
        if room < 0:
            raise ValueError("config.json asks for more weights than there are")

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            model = build(config, domain, condition)
    finally:
        counting.remove()
    asked = {(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()}
    differing = asked - {(name, tuple(tensor.shape)) for name, tensor in weights.items()}
    if differing:
        raise ValueError(f"there are no such weights as config.json asks for: {sorted(differing)[:3]}")
    if sum(tensor.numel() for tensor in model.state_dict().values()) > held:
        raise ValueError("config.json asks for more numbers than there are")


def require_own_autoencoder(config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """That the autoencoder in a run's weights, if there is one, is that which its prior was fitted on.

    Raises:
        ValueError: it is another.
    """
    if "latent" not in config:
        return
    inside = {name.removeprefix(INSIDE): tensor for name, tensor in weights.items() if name.startswith(INSIDE)}
    held, fitted_on = autoencoder_identity(config["latent"], inside), config["latent"]["identity"]
    if held != fitted_on:
        raise ValueError(f"the prior was fitted on the codes of autoencoder {fitted_on}, and this one is {held}")


def autoencoder_identity(config: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """16 hexadecimal digits, of an autoencoder's weights and of what it is."""
    return identity(weights, {part: config[part] for part in MEANING}).hex()

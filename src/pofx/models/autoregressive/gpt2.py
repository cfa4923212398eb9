"""GPT-2's public weights, read into ``GPT``."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pofx.domains import Tokens
from pofx.errors import Unusable, in_brief
from pofx.files import read_json
from pofx.models.autoregressive.gpt import GPT
from pofx.models.autoregressive.presets import AS_GPT2
from pofx.randomness import seeded_init

_BLOCK = {"ln_1": "first", "ln_2": "second", "attn.c_proj": "attention.out", "mlp.c_fc": "up", "mlp.c_proj": "down"}
_TURNED = ("attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # kept as (inputs, outputs)


def load(source: str | Path | Mapping[str, Tensor], domain: Tokens, *, heads: int | None = None) -> GPT:
    """A ``GPT`` with the weights of a checkpoint in the public layout: wte, wpe, h.0.ln_1, h.0.attn.c_attn, ...

    Position t of ``GPT`` reads symbol t - 1, and the first one a start, where GPT-2 reads ``<|endoftext|>``: so the
    start is that symbol's vector, and the logits are GPT-2's for ``<|endoftext|>``, x_1, ..., x_{T-1}. It is the
    domain's end, or the last symbol of the vocabulary, as in the public one.

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners".

    Args:
        source: a safetensors file, a folder with ``model.safetensors``, or tensors by name.
        domain: tokens of the checkpoint's vocabulary, at most as long as its places.
        heads: by default what a ``config.json`` beside the file says, else one for each 64 of the width.

    Raises:
        Unusable: the file cannot be read, lacks a weight, or does not fit the domain.
    """
    state = {name.removeprefix("transformer."): t.float() for name, t in _read(source).items()}
    _check(state, domain)
    symbols, places = state["wte.weight"], state["wpe.weight"][: domain.length]
    layers = _layers(state)
    head = state.get("lm_head.weight", symbols)
    tied = torch.equal(head, symbols)
    width = symbols.shape[1]
    with seeded_init(0):
        model = GPT(domain, width=width, layers=layers, heads=heads or _heads(source, width), tie=tied, **AS_GPT2)
    weights = {
        "values.weight": symbols,
        "axes.0.weight": places,
        "start": symbols[-1 if domain.end is None else domain.end],
        "norm.weight": state["ln_f.weight"],
        "norm.bias": state["ln_f.bias"],
        **({} if tied else {"head.weight": head}),
    }
    weights |= {
        f"trunk.blocks.{layer}.{name}": t for layer in range(layers) for name, t in _block(state, f"h.{layer}.")
    }
    own = model.state_dict()
    for name, weight in weights.items():
        if weight.shape != own[name].shape:
            raise Unusable(
                f"GPT-2's {name} has shape {tuple(weight.shape)}, not {tuple(own[name].shape)}; check the file"
            )
    model.load_state_dict(weights)
    return model


def _block(state: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of ours; a layer of GPT-2 keeps its weight as (inputs, outputs), and q, k and v in one."""
    for theirs, ours in _BLOCK.items():
        weight = state[f"{prefix}{theirs}.weight"]
        yield f"{ours}.weight", weight.T if theirs in _TURNED else weight
        yield f"{ours}.bias", state[f"{prefix}{theirs}.bias"]
    for kind in ("weight", "bias"):
        for ours, part in zip("qkv", state[f"{prefix}attn.c_attn.{kind}"].chunk(3, dim=-1)):
            yield f"attention.{ours}.{kind}", part.T if kind == "weight" else part


def _check(state: Mapping[str, Tensor], domain: Tokens) -> None:
    places = [f"h.{layer}.{part}" for layer in range(_layers(state) or 1) for part in (*_BLOCK, "attn.c_attn")]
    wanted = [f"{place}.{kind}" for place in places for kind in ("weight", "bias")]
    missing = [name for name in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias", *wanted) if name not in state]
    if missing:
        raise Unusable(f"the weights lack {missing[0]!r}, which GPT-2's layout has; give a GPT-2 checkpoint")
    vocabulary, longest = len(state["wte.weight"]), len(state["wpe.weight"])
    if domain.vocabulary != vocabulary or domain.length > longest:
        raise Unusable(
            f"the weights are for {vocabulary} symbols and at most {longest} places, got tokens of "
            f"{domain.vocabulary} symbols and length {domain.length}; encode the text with the checkpoint's tokenizer"
        )


def _layers(state: Mapping[str, Tensor]) -> int:
    return sum(name.startswith("h.") and name.endswith("ln_1.weight") for name in state)


def _read(source: str | Path | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(source, Mapping):
        return source
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(_file(source))
    except (OSError, SafetensorError) as error:
        raise Unusable(f"{source} cannot be read as safetensors ({in_brief(error)}); give GPT-2's") from None


def _file(source: str | Path) -> Path:
    path = Path(source)
    return path / "model.safetensors" if path.is_dir() else path


def _heads(source: str | Path | Mapping[str, Tensor], width: int) -> int:
    config = None if isinstance(source, Mapping) else _file(source).with_name("config.json")
    told = read_json(config) if config is not None and config.is_file() else {}
    return int(told.get("n_head", max(1, width // 64)))

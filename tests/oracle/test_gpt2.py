"""GPT-2's weights in the public layout against GPT-2 written out by hand, and against the library ``transformers``."""

import importlib.util
import json
import math

import pytest
import torch
from safetensors.torch import save_file

from pofx.catalogue import entries
from pofx.domains import Tokens
from pofx.errors import Unusable
from pofx.models.autoregressive.gpt2 import load
from pofx.models.autoregressive.presets import AS_GPT2
from pofx.randomness import stream

WIDTH, LAYERS, HEADS, VOCABULARY, PLACES = 12, 2, 3, 11, 9


def checkpoint(**changed) -> dict[str, torch.Tensor]:
    """Random weights, masks included as public files have them."""
    shapes = {"wte.weight": (VOCABULARY, WIDTH), "wpe.weight": (PLACES, WIDTH)}
    sizes = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH)}
    sizes |= {"mlp.c_fc": (WIDTH, 4 * WIDTH), "mlp.c_proj": (4 * WIDTH, WIDTH)}
    for prefix in ("h.0.", "h.1."):
        shapes |= {f"{prefix}{name}.weight": size for name, size in sizes.items()}
        shapes |= {f"{prefix}{name}.bias": size[1:] for name, size in sizes.items()}
        shapes |= {f"{prefix}{name}.{kind}": (WIDTH,) for name in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes[f"{prefix}attn.bias"] = (1, 1, PLACES, PLACES)
    shapes |= {"ln_f.weight": (WIDTH,), "ln_f.bias": (WIDTH,)}
    g = stream(0, "weights")
    return {name: torch.randn(size, generator=g) * 0.4 for name, size in shapes.items()} | changed


def by_hand(state, tokens):
    """Logits (T, V) of one sequence: pre-norm blocks, layers kept as (inputs, outputs)."""

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def layer(x, name):
        return x @ state[f"{name}.weight"] + state[f"{name}.bias"]

    def attention(x, prefix):
        q, k, v = layer(x, f"{prefix}attn.c_attn").split(WIDTH, dim=-1)
        out = []
        for q, k, v in zip(*(u.split(WIDTH // HEADS, dim=-1) for u in (q, k, v))):
            scores = (q @ k.T / math.sqrt(WIDTH // HEADS)).masked_fill(
                torch.ones(len(x), len(x)).triu(1) > 0, -math.inf
            )
            out.append(scores.softmax(-1) @ v)
        return layer(torch.cat(out, dim=-1), f"{prefix}attn.c_proj")

    def mlp(x, prefix):
        u = layer(x, f"{prefix}mlp.c_fc")
        u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        return layer(u, f"{prefix}mlp.c_proj")

    h = state["wte.weight"][tokens] + state["wpe.weight"][: len(tokens)]
    for prefix in ("h.0.", "h.1."):
        h = h + attention(norm(h, f"{prefix}ln_1"), prefix)
        h = h + mlp(norm(h, f"{prefix}ln_2"), prefix)
    return norm(h, "ln_f") @ state["wte.weight"].T


def log_p(logits, x):
    return logits.log_softmax(-1)[torch.arange(len(x)), x].sum()


@pytest.mark.parametrize("length", [PLACES, 5])
def test_equals_gpt2_by_hand(length):
    state = checkpoint()
    model = load(state, Tokens(VOCABULARY, length), heads=HEADS)
    x = torch.randint(VOCABULARY, (3, length), generator=stream(0, "x"))
    read = torch.cat([torch.full((3, 1), VOCABULARY - 1), x[:, :-1]], dim=1)
    expected = torch.stack([by_hand(state, row) for row in read])
    torch.testing.assert_close(model._outputs(x, None, length).detach(), expected, atol=1e-5, rtol=1e-5)
    totals = torch.stack([log_p(logits, row) for logits, row in zip(expected, x)])
    torch.testing.assert_close(model.log_prob(x).detach(), totals, atol=1e-4, rtol=1e-5)


def test_starts_from_the_end_of_records():
    state = checkpoint()
    model = load(state, Tokens(VOCABULARY, 4, end=2), heads=HEADS)
    expected = by_hand(state, torch.tensor([2, 0, 1]))
    torch.testing.assert_close(model._outputs(torch.tensor([[0, 1, 2, 2]]), None, 3)[0].detach(), expected)


def test_an_untied_head_is_its_own():
    head = torch.randn(VOCABULARY, WIDTH, generator=stream(0, "head"))
    models = [
        load(checkpoint(**{"lm_head.weight": h}), Tokens(VOCABULARY, 4), heads=HEADS)
        for h in (head, checkpoint()["wte.weight"])
    ]
    assert torch.equal(models[0].head.weight, head)
    assert models[1].head is None


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_reads_a_folder(tmp_path, prefix):
    """The heads are those of its configuration."""
    save_file({prefix + name: t for name, t in checkpoint().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"n_head": HEADS}))
    x, domain = torch.zeros(1, 4).long(), Tokens(VOCABULARY, 4)
    state = torch.get_rng_state()
    model = load(tmp_path, domain)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(model.log_prob(x), load(checkpoint(), domain, heads=HEADS).log_prob(x))


@pytest.mark.parametrize(
    ("changed", "domain", "words"),
    [
        ({}, Tokens(10, 4), "for 11 symbols and at most 9 places"),
        ({}, Tokens(11, 10), "for 11 symbols and at most 9 places"),
        ({"h.1.mlp.c_fc.bias": None}, Tokens(11, 4), "lack 'h.1.mlp.c_fc.bias'"),
        ({"h.0.ln_1.bias": torch.zeros(3)}, Tokens(11, 4), "shape"),
    ],
)
def test_refuses_what_does_not_fit(changed, domain, words):
    state = {name: t for name, t in checkpoint(**changed).items() if t is not None}
    with pytest.raises(Unusable, match=words):
        load(state, domain, heads=HEADS)


def test_refuses_what_is_no_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    for path in (tmp_path, tmp_path / "missing.safetensors"):
        with pytest.raises(Unusable, match="cannot be read as safetensors"):
            load(path, Tokens(VOCABULARY, 4))


def test_the_preset_is_what_the_weights_are_for():
    size = {"width": 768, "layers": 12, "heads": 12, "tie": True}
    assert entries()["gpt2"].arguments == AS_GPT2 | size
    with torch.device("meta"):
        model = entries()["gpt2"].build(Tokens(50257, 1024))
    assert sum(p.numel() for p in model.parameters()) == 124_439_808 + 768, "the public count, and the start"


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the library transformers is not installed"
)
def test_equals_the_library(tmp_path):
    """Its own random GPT-2, saved by it, gives equal logits to 1e-5."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=24, n_layer=3, n_head=4, initializer_range=0.3)
    torch.manual_seed(0)
    peer = GPT2LMHeadModel(config).eval()
    peer.save_pretrained(tmp_path)
    x = torch.randint(50, (4, 16), generator=stream(0, "x"))
    read = torch.cat([torch.full((4, 1), 49), x[:, :-1]], dim=1)
    with torch.no_grad():
        expected = peer(read).logits
        logits = load(tmp_path, Tokens(50, 16))._outputs(x, None, 16)
    assert float(expected.std()) > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)

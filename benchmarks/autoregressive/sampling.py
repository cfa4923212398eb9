"""Tokens drawn per CPU-second on one thread, beside nanoGPT and transformers with its cache.

    python benchmarks/autoregressive/sampling.py --nanogpt DIR

DIR is a checkout of github.com/karpathy/nanoGPT. The same network everywhere (4 layers, 4 heads, 128 wide, 65 symbols,
random weights), each side's own way of sampling. The sides take turns, and the ratio is the median over the rounds; a
peer that is not installed is left out.
"""

import argparse
import contextlib
import importlib.util
import io
import statistics
import sys
import time
from collections.abc import Callable

import torch

from pofx.domains import Tokens
from pofx.models.autoregressive.gpt import GPT
from pofx.randomness import seeded_init, stream

VOCABULARY, SIZE = 65, {"layers": 4, "heads": 4, "width": 128}
Sampler = Callable[[int, int], None]  # (batch, tokens)


def pofx(block: int) -> Sampler:
    with seeded_init(0):
        model = GPT(Tokens(VOCABULARY, block), zero_init=False, grams=1, **SIZE).eval()
    return lambda batch, tokens: model.sample(batch, generator=stream(0, "eval"), length=tokens)


def nanogpt(block: int, folder: str) -> Sampler:
    sys.path.insert(0, folder)
    from model import GPT as Theirs
    from model import GPTConfig

    with contextlib.redirect_stdout(io.StringIO()):
        shape = GPTConfig(block, VOCABULARY, SIZE["layers"], SIZE["heads"], SIZE["width"], dropout=0.0, bias=False)
        model = Theirs(shape).eval()
    return lambda batch, tokens: model.generate(torch.zeros(batch, 1, dtype=torch.long), tokens)


def transformers(block: int) -> Sampler:
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    sizes = {"n_embd": SIZE["width"], "n_layer": SIZE["layers"], "n_head": SIZE["heads"], "vocab_size": VOCABULARY}
    model = GPT2LMHeadModel(GPT2Config(n_positions=block, bos_token_id=0, eos_token_id=None, **sizes)).eval()

    def sample(batch: int, tokens: int) -> None:
        start = torch.zeros(batch, 1, dtype=torch.long)
        told = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "use_cache": True}
        # One place is the start's: as many symbols as the block leaves.
        new = min(tokens, block - 1)
        model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=new, min_new_tokens=new, **told)

    return sample


def rate(sample: Sampler, batch: int, tokens: int) -> float:
    """Tokens per CPU-second."""
    begun = time.process_time()
    sample(batch, tokens)
    return batch * tokens / (time.process_time() - begun)


def beside(sides: dict[str, Sampler], batch: int, block: int, tokens: int, rounds: int) -> None:
    """One line a side: the median rate, and the median of pofx's over it in the same round."""
    for sample in sides.values():
        sample(batch, 8)
    rates = [{name: rate(sample, batch, tokens) for name, sample in sides.items()} for _ in range(rounds)]
    for name in sides:
        ratio = statistics.median(each["pofx"] / each[name] for each in rates)
        median = statistics.median(each[name] for each in rates)
        print(f"{tokens:>6} {block:>6} {batch:>6}  {name:<13} {median:>8.0f} {ratio:>7.1f}", flush=True)


def by_place(block: int, rounds: int) -> None:
    """Microseconds a token after so many before it: the median of 20 steps in each round."""
    with seeded_init(0):
        model = GPT(Tokens(VOCABULARY, block), zero_init=False, grams=1, **SIZE).eval()
    taken: dict[int, list[float]] = {50: [], 250: [], 450: []}
    for _ in range(rounds):
        with torch.inference_mode():
            s, step = torch.zeros(1, block, dtype=torch.long), model.stepper(1, None, cached=True)
            for place, found in taken.items():
                step(s, place)
                begun = time.process_time()
                for t in range(place + 1, place + 21):
                    step(s, t)
                found.append((time.process_time() - begun) / 20 * 1e6)
    shown = ", ".join(f"{statistics.median(found):.0f} at {place}" for place, found in taken.items())
    print(f"microseconds a token, batch 1, block {block}: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("tokens  block  batch  side          a second  pofx / it")
    for block, tokens in ((64, 64), (512, 500)):
        sides: dict[str, Sampler] = {"pofx": pofx(block)}
        if options.nanogpt:
            sides["nanogpt"] = nanogpt(block, options.nanogpt)
        if importlib.util.find_spec("transformers"):
            sides["transformers"] = transformers(block)
        for batch in (1, 16):
            rounds = options.rounds if block == 64 else max(2, options.rounds // 2)
            few = {name: side for name, side in sides.items() if name != "nanogpt" or block * batch < 4096}
            beside(few, batch, block, tokens, rounds)
    by_place(512, 4 * options.rounds)


if __name__ == "__main__":
    main()

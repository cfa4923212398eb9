"""How the codebooks of a model whose latent is symbols are used."""

from typing import Any

import torch

from pofx.data.dataset import Data
from pofx.domains import Tokens
from pofx.evaluate.likelihood import MOST, shuffled
from pofx.evaluate.pace import Clock, Watch, paced
from pofx.evaluate.score import Score
from pofx.nn.quantise import code_shares
from pofx.protocols import Encodes, capabilities

USED = 0.1  # of an even share: what a code needs to count as used


def code_scores(
    model: Any, data: Data, *, split: str, seed: int, clock: Clock, device: str | torch.device, watch: Watch
) -> list[Score]:
    """The share of codes that are used, and their perplexity exp(entropy), over held-out rows; means over codebooks.

    A code is used if more than 1 / (10 K) of the symbols are that code: of 512 codes, more than 1/5120. Empty where
    the model does not encode to symbols. Where the symbols of a code are of several codebooks in turn,
    ``model.codebooks`` says of how many.
    """
    latent = getattr(model, "latent_domain", None)
    if Encodes not in capabilities(model) or not isinstance(latent, Tokens):
        return []
    x, c = shuffled(data, split, seed)
    given = getattr(model, "condition", None) is not None and c is not None
    watch(f"use of the codes: at most {min(len(x), MOST)} of {split}")
    k, books = latent.vocabulary, getattr(model, "codebooks", 1)
    sums, n = torch.zeros(books, k, dtype=torch.float64), 0
    for rows in paced(min(len(x), MOST), clock, largest=256):
        told = c[rows].to(device) if given and c is not None else None
        z = model.encode(x[rows].to(device), told)
        sums, n = sums + len(z) * code_shares(z, k, books).cpu().double(), n + len(z)
    shares = sums / n
    used = (shares > USED / k).double().mean().item()
    perplexity = torch.special.entr(shares).sum(1).exp().mean().item()
    of = f"of {k} codes" + (f", a mean over {books} codebooks" if books > 1 else "")
    return [
        Score("codes used", used, "statistic", "", n, split=split, note=f"{of}; by over 1/{10 * k} of the symbols"),
        Score("code perplexity", perplexity, "statistic", "codes", n, split=split, note=of),
    ]

"""VQ-VAE, and a GPT of its codes given the class: codes in use, bits, and samples that a classifier accepts.

    POFX_DATA=... OMP_NUM_THREADS=1 python benchmarks/autoencoders/vqvae.py --out vqvae/

Fits both with the library's own `fit`, each for its budget, then scores them on the test split:

- the share of the codes that more than 1 / (10 K) of the test tokens are, and perplexity, exp of the codes' entropy;
- -log p(x|c) <= -log p(z|c) - log p(x|z), z the code of x: bits of the indices, and bits of the reconstruction;
- samples asked for by class, as many of each and none left out, that a classifier trained on the training split alone
  takes for that class: draws of the model, and the means of p(x|z) of the same codes, which are not draws. Beside them
  the same of test pictures, as they are and coded and decoded.

`--out` keeps the two runs, sheets of samples and `vqvae.json`; a run that it has, or that `--vq` or `--prior` names, is
not fitted again.
"""

import argparse
import math
from pathlib import Path

import torch

import pofx
from pofx.evaluate.classifier import cached_judge
from pofx.evaluate.codes import USED
from pofx.files import write_json
from pofx.nn.quantise import code_shares
from pofx.randomness import stream
from pofx.rendering import sheet
from pofx.samplers.chunks import sample_many

GPT = {"width": 96, "layers": 3, "position": "learned"}  # not the defaults; see RESULTS.md for how they were chosen
ROWS = 100  # pictures at once
SHOWN = 10  # samples of each class on a sheet


def fitted(model, options, folder, **given):
    """The run in ``folder``, fitted where there is none; one that was interrupted goes on."""
    if (folder / "config.json").exists():
        return pofx.resume(folder, device="cpu")
    return pofx.fit(model, options.source, out=folder, seed=options.seed, device="cpu", **given)


def account(run):
    """How a run was made."""
    kept = ("arguments", "seed", "data_seed", "settings", "planned")
    told = {name: run.config[name] for name in kept}
    learnt = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    return told | {"steps": run.steps, "seconds": run.train_seconds, "parameters": learnt}


def batches(*tensors):
    return zip(*(t.split(ROWS) for t in tensors))


def mean_and_error(values):
    return {"mean": values.mean().item(), "stderr": values.std().item() / math.sqrt(len(values)), "n": len(values)}


@torch.no_grad()
def codes_of(model, x):
    return torch.cat([model.encode(rows) for (rows,) in batches(x)])


def use_of_codes(model, z):
    """The share of codes in use and their perplexity."""
    k = model.latent_domain.vocabulary
    shares = code_shares(z, k)[0].double()
    return {
        "codes": k,
        "tokens": z.numel(),
        "used": (shares > USED / k).double().mean().item(),
        "perplexity": torch.special.entr(shares).sum().exp().item(),
    }


@torch.no_grad()
def bits(model, x, z, c):
    """Bits/dim of x given its class: of its code under the prior, of x given the code, and both."""
    index = torch.cat([-model.log_prior(some, of) for some, of in batches(z, c)])
    rest = torch.cat([-model.decode(some, of).log_prob(rows) for rows, some, of in batches(x, z, c)])
    per_dim = 1 / (model.domain.dims * math.log(2))
    uniform = z.shape[1] * math.log(model.latent_domain.vocabulary)
    return {
        "indices": mean_and_error(index.double() * per_dim),
        "reconstruction": mean_and_error(rest.double() * per_dim),
        "total": mean_and_error((index + rest).double() * per_dim),
        "bits for each index": index.double().mean().item() / math.log(2) / z.shape[1],
        "indices by a uniform prior": uniform * per_dim,
    }


@torch.no_grad()
def decoded(model, z, c, *, seed, role):
    """A draw of p(x|z), and its mean."""
    parts = [model.decode(some, of) for some, of in batches(z, c)]
    draws = [p.sample(generator=stream(seed, role, i)) for i, p in enumerate(parts)]
    return torch.cat(draws), torch.cat([p.mean for p in parts])


def accepted(judge, x, c):
    """The share that the judge takes for its class, and that of each class."""
    right = (judge.predict(x) == c).double()
    share, n = right.mean().item(), len(right)
    each = [right[c == k].mean().item() for k in range(int(c.max()) + 1)]
    return {"share": share, "stderr": math.sqrt(share * (1 - share) / n), "n": n, "each class": each}


def save_sheet(path, x, c, domain):
    """A row for each class: its first samples, not chosen."""
    shown = torch.cat([x[c == k][:SHOWN] for k in range(int(c.max()) + 1)])
    sheet(shown, domain, columns=SHOWN).save(path)


def judged(options, model, judge, x, c):
    """What the judge says of samples at each temperature, and of test pictures coded and decoded."""
    classes, out = model.condition.count, Path(options.out)
    asked = torch.arange(classes).repeat_interleave(options.samples // classes)
    found = {}
    for temperature in options.temperatures:
        z = sample_many(model.prior, len(asked), asked, seed=options.seed, temperature=temperature)
        named = f"temperature {temperature:g}"
        pairs = zip(("draws", "means"), decoded(model, z, asked, seed=options.seed, role="pixels"))
        for what, made in pairs:
            found[f"{what}, {named}"] = accepted(judge, made, asked)
            save_sheet(out / f"{what}-{temperature:g}.png", made, asked, model.domain)
    x, c = x[: len(asked)], c[: len(asked)]
    pairs = zip(("draws", "means"), decoded(model, codes_of(model, x), c, seed=options.seed, role="test pixels"))
    for what, made in pairs:
        found[f"test pictures decoded, {what}"] = accepted(judge, made, c)
        save_sheet(out / f"test-{what}.png", made, c, model.domain)
    found["test pictures"] = accepted(judge, x, c)
    save_sheet(out / "test.png", x, c, model.domain)
    return found


def lines(told):
    used, cost = told["codes"], told["bits/dim given class"]
    yield f"codes used       {used['used']:.4f} of {used['codes']} (n = {used['tokens']} test tokens)"
    yield f"perplexity       {used['perplexity']:.1f}"
    for name in ("indices", "reconstruction", "total"):
        sign = "<= " if name == "total" else ""
        yield f"{name:<16} {sign}{cost[name]['mean']:.4f} +- {cost[name]['stderr']:.4f} bits/dim given class"
    yield f"each index       {cost['bits for each index']:.3f} bits, {math.log2(used['codes']):.3f} if uniform"
    yield f"judge            {told['judge']['accuracy']:.4f} on the test split ({told['judge']['steps']} steps)"
    yield "accepted                              share            n"
    for name, a in told["accepted"].items():
        yield f"  {name:<35} {a['share']:.3f} +- {a['stderr']:.3f}  {a['n']}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="fashion-mnist")
    parser.add_argument("--out", required=True, help="folder of the runs, the sheets and vqvae.json")
    parser.add_argument("--vq", help="a run of vq-vae (OUT/vq)")
    parser.add_argument("--prior", help="a run of gpt on that run's codes (OUT/gpt)")
    parser.add_argument("--vq-budget", default="9m")
    parser.add_argument("--gpt-budget", default="13m")
    parser.add_argument("--judge-seconds", type=float, default=300.0, help="of the classifier's training")
    parser.add_argument("--samples", type=int, default=1000, help="as many of each class")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.9], help="of the prior's symbols")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    vq = fitted("vq-vae", options, Path(options.vq or out / "vq"), budget=options.vq_budget)
    print(f"vq-vae: {vq.steps} steps in {vq.train_seconds:.0f} s, {vq.folder}", flush=True)
    run = fitted(
        "gpt", options, Path(options.prior or out / "gpt"),
        budget=options.gpt_budget, latent=vq.folder, condition="class", **GPT,
    )  # fmt: skip
    print(f"gpt: {run.steps} steps in {run.train_seconds:.0f} s, {run.folder}", flush=True)
    judge = cached_judge(run.data, seed=options.seed, seconds=options.judge_seconds)
    model, (x, c) = run.model, run.data.test.rows()
    z = codes_of(model, x)
    told = {
        "source": options.source,
        "split": "test",
        "vq-vae": account(vq),
        "gpt": account(run),
        "codes": use_of_codes(model, z),
        "bits/dim given class": bits(model, x, z, c),
        "judge": {"accuracy": judge.accuracy, "steps": judge.steps, "seed": options.seed},
        "accepted": judged(options, model, judge, x, c),
        "seed of the samples": options.seed,
    }
    write_json(out / "vqvae.json", told)
    print(*lines(told), sep="\n")


if __name__ == "__main__":
    main()

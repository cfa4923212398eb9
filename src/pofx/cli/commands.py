"""One function a command: calls the library and prints what it says."""

import argparse
import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pofx import catalogue, fitting, runs
from pofx import data as sources
from pofx.cli.bar import Bar, page, printer
from pofx.cli.drawing import Destination, beside_what_was_given
from pofx.cli.inputs import chosen, observations, prompt
from pofx.cli.parser import DRAWN_FLAGS, SOURCE_FLAGS
from pofx.domains import Images, in_words
from pofx.errors import Unusable
from pofx.evaluate.score import Score
from pofx.files import write_json, write_text
from pofx.protocols import Completes, Decodes, Encodes, Samples, Transports, capabilities
from pofx.rendering import Sampled, natural_suffix
from pofx.runs import Run
from pofx.train.launch import speaks


def data_command(options: argparse.Namespace) -> int:
    """Shows a source and its problems; 2 only if nothing can be learnt from it."""
    report = sources.inspect(
        options.source, seed=options.seed, condition=options.condition, **chosen(options, SOURCE_FLAGS)
    )
    say = printer(options)
    say(f"{report.source}: {in_words(report.domain) if report.domain else 'no observations'}")
    if report.counts:
        split = f" (split: {report.data.split})" if report.data is not None else ""
        say("  " + ", ".join(f"{n:,} {name}" for name, n in report.counts.items()) + split)
    if report.classes:
        say(
            f"  {len(report.classes)} classes: "
            + ", ".join(f"{name} {n:,}" for name, n in list(report.classes.items())[:20])
        )
    for problem in report.problems:
        say(f"  problem: {problem}")
    if not report.problems:
        say("  no problems found")
    _write_json(options, {
        "source": report.source, "domain": report.domain.to_config() if report.domain else None,
        "counts": report.counts, "classes": report.classes, "problems": list(report.problems), "fatal": report.fatal,
    })  # fmt: skip
    if report.fatal:
        raise Unusable(f"nothing can be learnt from {report.source}: {report.problems[-1]}")
    if report.data is not None:
        x, _ = report.data.train.rows()
        name = f"{runs.named_after('data', options.source)}{natural_suffix(report.data.domain)}"
        n = 64 if isinstance(report.data.domain, Images) else 1000 if report.data.domain.dims <= 2 else 20
        path = Sampled(x[:n], report.data.domain).save(options.output or Path("runs") / name)
        say(f"  first observations: {path}")
    return 0


def models_command(options: argparse.Namespace) -> int:
    """Lists every model: family, paper, domains, capabilities."""
    from rich.table import Table

    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "family": entry.family,
            "summary": entry.summary,
            "domains": list(entry.domains),
            "capabilities": sorted(p.__name__.lower() for p in capabilities(entry.load())),
            "paper": entry.paper,
        }
        for entry in catalogue.entries().values()
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "family", "domains", "what it is", "capabilities", "paper"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("model", "score", "value"))
    for row in rows:
        table.add_row(
            row["name"], row["family"], ", ".join(row["domains"]), row["summary"], ", ".join(row["capabilities"]),
            row["paper"],
        )  # fmt: skip
    page().print(table)
    _write_json(options, {"models": rows})
    return 0


def fit_command(options: argparse.Namespace) -> int:
    """Trains a model and says what came of it."""
    run = fitting.fit(**fit_arguments(options), watch=Bar(quiet=options.quiet))
    return _trained(run, options)


def runs_command(options: argparse.Namespace) -> int:
    """Lists the runs below a folder."""
    from pofx.cli.listing import list_and_show

    return list_and_show(options)


def plan_command(options: argparse.Namespace) -> int:
    """What a run will take, before it is begun."""
    from pofx.cli.planning import plan_and_show

    return plan_and_show(options)


def resume_command(options: argparse.Namespace) -> int:
    """Goes on with a run; a finished one is left as it is."""
    if runs.load(options.run).finished:
        printer(options)(f"{options.run} is finished; nothing to do")
        return 0
    run = fitting.resume(
        options.run, device=options.device, devices=options.devices, strategy=options.strategy, logger=options.logger,
        watch=Bar(quiet=options.quiet),
    )  # fmt: skip
    return _trained(run, options)


def sample_command(options: argparse.Namespace) -> int:
    """Draws from a run's model: into a file, or text onto the screen."""
    run = _run(options)
    run.require(Samples, "sample")
    place = Destination(run, "sample", options)
    n = _how_many(options, 1 if place.on_screen else 64)
    with place.drawing():
        samples = run.sample(n, options.condition, seed=options.seed, **place.given | chosen(options, DRAWN_FLAGS))
    place.take(samples)
    if not place.on_screen:
        printer(options)(f"{n} samples of {run.name}: {place.path}")
    _write_json(options, {"run": str(run.folder), "n": n, "output": place.path})
    return 0


def score_command(options: argparse.Namespace) -> int:
    """Log-likelihood of each observation of a source, in nats, as CSV."""
    run = _run(options)
    if Path(options.output).suffix != ".csv":
        raise Unusable(f"score writes .csv, got {options.output}; name a .csv file")
    x, c = observations(run, options)
    scored = run.score(x, c, samples=options.samples, seed=options.seed)
    table = {"observation": range(len(x)), "log_p": scored.value.tolist()}
    table |= {} if scored.bias is None else {"bias": scored.bias.tolist()}
    _write_csv(options.output, list(table), zip(*table.values()))
    mean = scored.value.mean().item()
    printer(options)(f"{len(x)} observations, mean log p {mean:.4f} nats ({scored.kind}): {options.output}")
    _write_json(options, {"n": len(x), "mean_log_p": mean, "kind": scored.kind, "unit": "nats"})
    return 0


def encode_command(options: argparse.Namespace) -> int:
    """The latent of each observation of a source, as an array."""
    from pofx.cli.latents import encode_and_show

    return _told(encode_and_show(_run(options), options), options)


def reconstruct_command(options: argparse.Namespace) -> int:
    """Observations through the latent and back; pictures above their reconstructions."""
    from pofx.cli.latents import reconstruct_and_show

    return _told(reconstruct_and_show(_run(options), options), options)


def interpolate_command(options: argparse.Namespace) -> int:
    """Walks in latent space between pairs of the test split."""
    from pofx.cli.latents import interpolate_and_show

    return _told(interpolate_and_show(_run(options), options), options)


def traverse_command(options: argparse.Namespace) -> int:
    """What each dimension of the latent does to x, alone."""
    from pofx.cli.latents import traverse_and_show

    return _told(traverse_and_show(_run(options), options), options)


def map_command(options: argparse.Namespace) -> int:
    """Where the test split lies in the latent, in two dimensions; or where a map between data sets takes rows."""
    run = _run(options)
    if Transports in capabilities(run.model):
        from pofx.cli.transports import transport_and_show

        return _told(transport_and_show(run, options), options)
    from pofx.cli.latents import map_and_show

    if options.file is not None:
        run.require(Transports, f"map the rows of {options.file}")
    return _told(map_and_show(run, options), options)


def complete_command(options: argparse.Namespace) -> int:
    """Fills in the rest of a text prompt, of pictures or of a table's rows."""
    run = _run(options)
    run.require(Completes, "complete")
    place = Destination(run, "complete", options)
    x, known = prompt(run, options, _how_many(options, 1 if place.on_screen else 8))
    given = place.given | chosen(options, DRAWN_FLAGS)
    with place.drawing():
        done = run.complete(x, known, options.condition, seed=options.seed, **given)
    to_picture = isinstance(run.domain, Images) and Path(place.path).suffix.lower() == ".png"
    place.take(beside_what_was_given(x, known, done) if to_picture else done)
    if not place.on_screen:
        each = ", after the originals and what was given of them" if to_picture else ""
        printer(options)(f"{len(done)} completions{each}: {place.path}")
    _write_json(options, {"n": len(done), "output": place.path})
    return 0


def compress_command(options: argparse.Namespace) -> int:
    """A text or observations into a file, without loss, as small as the model says they can be."""
    from pofx.cli.compressing import compress_and_tell

    told = compress_and_tell(_run(options), options)
    say = printer(options)
    say(
        f"{told['observations']:,} observations, {told['values']:,} values, {told['bytes']:,} bytes, "
        f"{told['bits_per_value']:.4f} {told['unit']}, {told['seconds']:.1f} s: {told['output']}"
    )
    if told["excess_percent"] is not None:
        say(
            f"  -log2 p says {told['information_bytes']:,.0f} bytes: {told['excess_percent']:.2f}% more on the disk, "
            "of which the header is about 100 bytes"
        )
    _write_json(options, told)
    return 0


def decompress_command(options: argparse.Namespace) -> int:
    """What was compressed, as it was."""
    from pofx.cli.compressing import decompress_and_tell

    told = decompress_and_tell(_run(options), options)
    much = f"{told['observations']:,} observations" if "observations" in told else f"{told['text_bytes']:,} bytes"
    printer(options)(f"{much}: {told['output']}")
    _write_json(options, told)
    return 0


def evaluate_command(options: argparse.Namespace) -> int:
    """Held-out scores, each with its kind, unit and number of observations."""
    from pofx.train.settings import seconds

    run = _run(options)
    limit = None if options.budget is None else seconds(options.budget)
    watch = Bar(quiet=options.quiet)
    scores = run.evaluate(
        options.split, seconds=limit, seed=options.seed, devices=options.devices, stride=options.stride, watch=watch
    )
    if speaks():
        _print_scores(run, scores)
    _write_json(options, {"run": str(run.folder), "scores": [score.to_json() for score in scores]})
    return 0


def compare_command(options: argparse.Namespace) -> int:
    """Every family on the same data, in one table and one page."""
    from pofx.cli.comparing import compare_and_show

    return compare_and_show(options)


def reproduce_command(options: argparse.Namespace) -> int:
    """A whole run by its name, or the names."""
    from pofx.cli.reproducing import reproduce_and_show

    return reproduce_and_show(options)


def fit_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What ``fit`` takes, from the flags, on top of a file where one is given."""
    not_its = ("command", "parser", "name", "json", "quiet", "config")
    given = {key: value for key, value in vars(options).items() if key not in not_its and value is not None}
    if options.config is None:
        return given
    from pofx.configs import fitting_arguments

    if "source" not in given and "model" in given and given["model"] not in catalogue.entries():
        given["source"] = given.pop("model")  # one word beside a file is the source, unless it is a model
    return fitting_arguments(options.config, **given)


def _trained(run: Run, options: argparse.Namespace) -> int:
    say = printer(options)
    progress = run.progress
    best = f", best on validation at {progress['best_step']}" if progress["best_step"] else ""
    say(f"{run.folder}: {progress['step']} steps in {progress['seconds']:.1f} s{best}")
    say(f"  {_look(run)}pofx evaluate {run.folder}")
    _write_json(options, {"run": str(run.folder), "history": run.history} | progress)
    return 0


def _look(run: Run) -> str:
    """The command that shows what a model can do, the first that it can, and some space."""
    able, suffix, source = capabilities(run.model), natural_suffix(run.domain), run.config["source"]
    if Samples in able:
        return f"pofx sample {run.folder} -o samples{suffix}    "
    if {Encodes, Decodes} <= able:
        return f"pofx reconstruct {run.folder} {source} -o reconstructions{suffix}    "
    return f"pofx complete {run.folder} {source} -o completions{suffix}    " if Completes in able else ""


def _run(options: argparse.Namespace) -> Run:
    return runs.load(options.run, device=runs.chosen_device(options.device))


def _how_many(options: argparse.Namespace, usual: int) -> int:
    n = usual if options.n is None else options.n
    if n < 1:
        raise Unusable(f"-n must be at least 1, got {n}; leave it out for {usual}")
    return n


def _print_scores(run: Run, scores: list[Score]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("score", "value", "real", "kind", "n", "given", "split", "note"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("model", "score", "value"))
    for s in scores:
        floor = "" if s.floor is None else f"{s.floor:.4g}"
        table.add_row(s.metric, s.shown(run.domain), floor, s.kind, str(s.n), s.given, s.split, s.note)
    page().print(table)


def _told(figures: dict[str, Any], options: argparse.Namespace) -> int:
    _write_json(options, figures)
    return 0


def _write_json(options: argparse.Namespace, value: dict[str, Any]) -> None:
    if options.json and speaks():
        write_json(Path(options.json), value)


def _write_csv(path: str, columns: list[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(Path(path), text.getvalue())

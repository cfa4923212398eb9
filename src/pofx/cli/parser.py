"""Arguments of every command. Flags of a model and of training are made from the signatures they set."""

import argparse
import inspect
import math
import os
import re
import signal
import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import pofx
from pofx.errors import Unusable, nearest
from pofx.signals import answering
from pofx.train.settings import Settings


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest valid flag."""

    def error(self, message: str) -> NoReturn:
        """Every mistake in the arguments ends here."""
        raise Unusable(f"{message}; see '{self.prog} --help'")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of one command, with ``command`` as the function to call.

    Raises:
        Unusable: an unknown command or flag (the nearest is named), or a value that does not fit.
    """
    parser = _parser(arguments)
    options, rest = parser.parse_known_args(arguments)
    if not hasattr(options, "command"):
        parser.print_help()
        raise SystemExit(0)
    if rest:
        known = [flag for flag in options.parser._option_string_actions if flag.startswith("--")]
        unknown = rest[0].partition("=")[0]
        if unknown.startswith("-"):
            raise Unusable(f"there is no flag {unknown}{nearest(unknown, known)}")
        raise Unusable(f"too many arguments: {' '.join(rest)!r}; see '{options.parser.prog} --help'")
    return options


def _parser(arguments: list[str]) -> Parser:
    parser = Parser(
        prog="pofx",
        description="Learn p(x) from your own data with every family of generative model, and see which serves it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pofx {pofx.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for name, (help_line, build) in _COMMANDS.items():
        sub = commands.add_parser(name, help=help_line, description=help_line, allow_abbrev=False)
        shared = sub.add_argument_group("shared")
        shared.add_argument("--seed", type=int, default=0, metavar="S", help="of everything random (0)")
        shared.add_argument("--device", default="auto", help="cpu, cuda, ... (auto)")
        shared.add_argument("--json", metavar="FILE", help="write every figure that the terminal shows")
        shared.add_argument("--quiet", action="store_true", help="print results only")
        build(sub, arguments)
        sub.set_defaults(command=_lazily(name), parser=sub, name=name)
    first = next((a for a in arguments if not a.startswith("-")), None)
    if first is not None and first not in _COMMANDS:
        raise Unusable(f"there is no command {first!r}{nearest(first, _COMMANDS)}")
    return parser


def _lazily(name: str) -> Callable[[argparse.Namespace], int]:
    def call(options: argparse.Namespace) -> int:
        # Ctrl-C leaves at once: raised while libraries start, an exception would be lost in them, or break them.
        with answering(lambda number, frame: os._exit(130), signal.SIGINT):
            from pofx.cli import commands

        return getattr(commands, f"{name}_command")(options)

    return call


def _source_flags(parser: Parser) -> None:
    group = parser.add_argument_group("source")
    group.add_argument("--size", type=int, help="side of the pictures of a folder")
    group.add_argument("--length", type=int, help="symbols of one observation of a text")
    group.add_argument("--encoding", choices=("characters", "bytes", "bpe"), help="of a text")
    group.add_argument("--vocabulary", type=int, help="symbols of a bpe encoding")
    group.add_argument("--limit", type=int, help="keep so many training observations")
    group.add_argument("--skip-unreadable", action="store_true", default=None, help="leave out unreadable pictures")


SOURCE_FLAGS = ("size", "length", "encoding", "vocabulary", "limit", "skip_unreadable")


def _data(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--condition", default="none", help="none, class, text or a column")
    parser.add_argument(
        "-o",
        dest="output",
        metavar="FILE",
        help="where the first observations are shown (runs/data-SOURCE.png, .txt or .csv)",
    )
    _source_flags(parser)


def _models(parser: Parser, arguments: list[str]) -> None:
    pass


def _fit(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("--out", metavar="RUN", help="the run folder (runs/MODEL-SOURCE, then -2, ...)")
    _logger_flag(parser)
    _process_flags(parser)
    _training_flags(parser, arguments)


def _plan(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("--on", metavar="NxR", help="time on other devices too: 8x400 is 8 devices of 400 TFLOP/s each")
    parser.add_argument("--utilisation", type=float, metavar="SHARE", help="of that rate which is reached (0.4)")
    _training_flags(parser, arguments)


def _training_flags(parser: Parser, arguments: list[str]) -> None:
    """MODEL, SOURCE and every flag that says how to train."""
    config = _config(arguments)
    parser.add_argument("model", metavar="MODEL", nargs="?" if config else None)
    parser.add_argument("source", metavar="SOURCE", nargs="?" if config else None)
    parser.add_argument(
        "--config", metavar="FILE", help="a run's config.json, which repeats it, or a file like it; flags win over it"
    )
    parser.add_argument("--condition", default="none", help="none, class, text or a column")
    parser.add_argument("--latent", metavar="RUN", help="of an autoencoder: MODEL becomes a prior of its codes")
    parser.add_argument(
        "--features",
        metavar="RUN:LAYER",
        help="learn from what a module of another run's model puts out for the source",
    )
    parser.add_argument(
        "--from", dest="from_source", metavar="SOURCE", help="of a model that maps: the data it maps from (noise)"
    )
    if config:  # unsaid, so that what the file says stands
        parser.set_defaults(seed=None, device=None, condition=None, devices=None, strategy=None)
    _source_flags(parser)
    training = parser.add_argument_group("training (default: the model's recipe)")
    described = described_arguments(Settings)
    for field in fields(Settings):
        _add_flag(training, field.name, field.type, field.default, described.get(field.name, ""), recipe=True)
    if arguments[:1] in (["fit"], ["plan"]):
        name = _named_model(arguments[1:])
        if name is not None:
            _model_flags(parser, name)


def _model_flags(parser: Parser, name: str) -> None:
    """Flags from the constructor of the model that the arguments name."""
    from pofx.catalogue import find

    entry = find(name)
    group = parser.add_argument_group(f"{name}")
    described = described_arguments(entry.load())
    for key, p in entry.hyperparameters().items():
        if key in Settings.names():
            raise TypeError(f"{name}'s argument {key} is also a training setting")
        if flag_type(p.annotation) is not None:
            _add_flag(group, key, p.annotation, p.default, described.get(key, ""))


def _runs(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="what holds them (runs)")


def _resume(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    _logger_flag(parser)
    _process_flags(parser)


def _process_flags(parser: Parser) -> None:
    group = parser.add_argument_group("processes")
    group.add_argument("--devices", type=int, default=1, metavar="N", help="cores or GPUs that train together (1)")
    group.add_argument("--strategy", default="ddp", help="ddp: all weights in each; fsdp: a share in each (ddp)")


def _logger_flag(parser: Parser) -> None:
    parser.add_argument(
        "--logger", metavar="NAME,NAME", help="tensorboard, wandb, trackio: get each row of the history too"
    )


def _sample(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("-n", type=int, metavar="N", help="how many (64; of text on the screen 1)")
    _drawn_flags(parser)


def _drawn_flags(parser: Parser) -> None:
    """Where what is drawn goes, and how it is drawn."""
    files = ".png, .npy, .txt or .csv; .gif or .webp: pictures row by row; - or none: text as it is drawn"
    parser.add_argument("-o", dest="output", metavar="FILE", help=files)
    parser.add_argument("--condition", metavar="VALUE", help="a class's name or index, a text, or numbers")
    parser.add_argument(
        "--chunk", type=int, metavar="N", help="drawn together (as the run says; text on the screen: 1)"
    )
    _sampler_flags(parser)


def _sampler_flags(parser: Parser) -> None:
    group = parser.add_argument_group("sampler (those that the model has)")
    group.add_argument("--temperature", type=float, help="below 1: likelier, above: more varied; 0: the likeliest")
    group.add_argument("--top-k", type=int, help="only the k likeliest symbols")
    group.add_argument("--top-p", type=float, help="only the likeliest symbols that hold this mass")
    group.add_argument("--length", type=int, help="symbols of a text; may be more than the model sees at once")
    group.add_argument("--guidance", type=float, help="above 1: follow the condition more")
    group.add_argument("--truncation", type=float, help="of a game's noise; below 1: more typical, less varied")
    group.add_argument("--candidates", type=int, help="of a game: how many its critic chooses each sample from")
    group.add_argument("--steps", type=int, help="of the solver")
    group.add_argument("--method", help="of the solver: heun or euler")


DRAWN_FLAGS = (
    "chunk",
    "temperature",
    "top_k",
    "top_p",
    "length",
    "guidance",
    "truncation",
    "candidates",
    "steps",
    "method",
)


def _run_source(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("-o", dest="output", required=True, metavar="FILE")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test", "all"), help="of the source")
    parser.add_argument("--samples", type=int, default=64, help="of the latent, for a bound (64)")
    _source_flags(parser)


def _interpolate(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("-n", type=int, default=8, metavar="N", help="pairs (8)")
    parser.add_argument("--between", type=int, default=10, help="steps from one to the other (10)")
    _latent_flags(parser, ".png; .npy, .txt, .csv: the observations one after another")


def _traverse(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("-n", type=int, metavar="N", help="dimensions, those that move x most (10)")
    parser.add_argument("--between", type=int, default=9, help="steps from -3 to 3 standard deviations (9)")
    parser.add_argument(
        "--around", default="0", metavar="PLACE", help="the number of a test observation, or mean: the mean code (0)"
    )
    _latent_flags(parser, "a sheet of pictures .png, a table of vectors .csv, either .npy")


def _map(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("file", metavar="FILE", nargs="?", help="of a run that maps one data set to another: its rows")
    parser.add_argument("-n", type=int, default=2000, metavar="N", help="test observations, at most (2000)")
    parser.add_argument("--grid", action="store_true", help="beside it, pictures decoded all over a latent of two")
    _latent_flags(parser, ".png; where the rows of FILE go: .csv or .npy too")


def _latent_flags(parser: Parser, files: str) -> None:
    parser.add_argument("--condition", metavar="VALUE", help="of one class alone, or given one text or vector")
    parser.add_argument("-o", dest="output", required=True, metavar="FILE", help=files)


def _complete(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="a text or its file, to go on with; a picture, or a source whose test part is completed",
    )
    parser.add_argument("-n", type=int, metavar="N", help="completions, or pictures (8; of text on the screen 1)")
    parser.add_argument(
        "--keep", type=float, default=0.5, help="share of a picture's top, or of a table's columns (0.5)"
    )
    _drawn_flags(parser)


def _compress(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("source", metavar="SOURCE", help="a text file, compressed whole, or a source of observations")
    parser.add_argument("-o", dest="output", required=True, metavar="FILE", help=".pofx")
    parser.add_argument(
        "--split", choices=("train", "validation", "test", "all"), help="of a source that is no text file (test)"
    )
    _source_flags(parser)


def _decompress(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("file", metavar="FILE", help=".pofx, compressed by the run")
    parser.add_argument(
        "-o", dest="output", required=True, metavar="OUT", help="the text file; else .npy, .png, .txt or .csv"
    )


def _evaluate(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--split", default="test", choices=("test", "validation", "train"))
    parser.add_argument("--budget", help="time for all scores (as long as training took)")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="cores or GPUs that share the work (1)")
    parser.add_argument("--stride", type=int, metavar="N", help="score a text as one, by windows that move on by N too")


def _compare(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a source, or two or more runs")
    parser.add_argument("--models", help="names, separated by commas (one per family, and the baselines)")
    parser.add_argument("--budget", default="60s", help="training time of each model (60s)")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="runs per model (1)")
    parser.add_argument("--condition", default="auto", help="auto (class, where there are classes), none, class, ...")
    parser.add_argument("--out", metavar="DIR", help="folder of the comparison (runs/compare-SOURCE)")
    _source_flags(parser)


def _reproduce(parser: Parser, arguments: list[str]) -> None:
    parser.add_argument("recipe", metavar="NAME", nargs="?", help="of a recipe; without one, all are listed")
    parser.add_argument("--out", metavar="RUN", help="the run folder (runs/MODEL-SOURCE, then -2, ...)")
    parser.add_argument("--steps", type=int, metavar="N", help="rounds of training, in place of the recipe's length")
    parser.add_argument("--budget", metavar="TIME", help="training time, in place of the recipe's length")
    parser.add_argument("--quick", action="store_true", help="about a minute that shows that it runs")


_COMMANDS: Mapping[str, tuple[str, Callable[[Parser, list[str]], None]]] = {
    "data": ("show a source and its problems", _data),
    "models": ("list the models", _models),
    "fit": ("train a model on a source", _fit),
    "plan": ("what training will take: memory, operations, time", _plan),
    "runs": ("list the runs below a folder", _runs),
    "resume": ("go on with a run", _resume),
    "sample": ("draw from a run's model", _sample),
    "score": ("log-likelihood of each observation", _run_source),
    "encode": ("latent of each observation", _run_source),
    "reconstruct": ("through the latent and back", _run_source),
    "interpolate": ("walk between observations in latent space", _interpolate),
    "traverse": ("what each dimension of the latent does", _traverse),
    "map": ("the test split in the latent, in two dimensions; or where rows are mapped to", _map),
    "complete": ("fill in the rest of a text or a picture", _complete),
    "compress": ("a text or observations into a file, without loss", _compress),
    "decompress": ("what was compressed, as it was", _decompress),
    "evaluate": ("scores on held-out data", _evaluate),
    "compare": ("every family on the same data, in one report", _compare),
    "reproduce": ("a whole run by its name, with the figure to expect", _reproduce),
}


def flag_type(annotation: Any) -> Any:
    """What a flag's text becomes: int, float, bool, str, a Literal's choices, or (int,) for numbers with commas."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [flag_type(kind) for kind in get_args(annotation) if kind is not type(None)]
        return next((kind for kind in kinds if kind is not None), None)
    if get_origin(annotation) is tuple:
        return (get_args(annotation)[0],)
    if annotation in (int, float, bool, str) or get_origin(annotation) is Literal:
        return annotation
    return None


def _add_flag(
    group: argparse._ArgumentGroup, name: str, annotation: Any, default: Any, description: str, *, recipe: bool = False
) -> None:
    flag, kind = "--" + name.replace("_", "-"), flag_type(annotation)
    shown = "" if recipe or default is None else f" ({_shown(default)})"
    text = (description + shown).replace("%", "%%")
    if name == "budget":
        group.add_argument(flag, metavar="TIME", help="training time, such as 90s or 2m")
    elif kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif get_origin(kind) is Literal:
        group.add_argument(flag, choices=get_args(kind), default=None, help=text)
    elif isinstance(kind, tuple):
        several, words = _several(kind[0]), get_args(kind[0])
        group.add_argument(flag, type=several, default=None, metavar=",".join(words) or "N,N", help=text)
    else:
        group.add_argument(flag, type=_finite if kind is float else kind, default=None, help=text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return value


_finite.__name__ = "float"  # what argparse calls it where a text is no number at all


def _several(kind: Any) -> Callable[[str], tuple[Any, ...]]:
    """What reads numbers, or words of a Literal, with commas between them."""
    words = get_args(kind)

    def several(text: str) -> tuple[Any, ...]:
        parts = [part for part in text.split(",") if part]
        unknown = [part for part in parts if words and part not in words]
        if unknown:
            raise argparse.ArgumentTypeError(f"must be some of {', '.join(words)}, got {unknown[0]}")
        return tuple(parts if words else map(kind, parts))

    several.__name__ = "list of words" if words else f"list of {kind.__name__}"
    return several


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _named_model(arguments: list[str]) -> str | None:
    """The model that the arguments name: a word of the catalogue, else what their file names, else the first word."""
    from pofx.catalogue import entries

    words = [word for word in arguments if not word.startswith("-")]
    named, config = next((word for word in words if word in entries()), None), _config(arguments)
    if named is None and config:
        from pofx.configs import named_model

        return named_model(config)
    return named or (words[0] if words else None)


def _config(arguments: list[str]) -> str | None:
    """The value of ``--config`` among arguments that are not yet parsed."""
    flag = Parser(add_help=False, allow_abbrev=False)
    flag.add_argument("--config", nargs="?")
    return flag.parse_known_args(arguments)[0].config


def described_arguments(cls: type) -> dict[str, str]:
    """Argument -> its words in the ``Args:`` section of a class's docstring."""
    docs = "\n".join(inspect.getdoc(part) or "" for part in (cls, vars(cls).get("__init__")))
    section = re.search(r"Args:\n((?:[ ]+.*\n?|\n)+)", docs)
    described: dict[str, str] = {}
    names: list[str] = []
    for line in section.group(1).splitlines() if section else []:
        entry = re.match(r"^ {4}([\w, ]+):\s*(.*)$", line)
        if entry:
            names = [name.strip() for name in entry.group(1).split(",")]
            described |= dict.fromkeys(names, entry.group(2))
        elif names:
            described |= {name: f"{described[name]} {line.strip()}".strip() for name in names}
    return described

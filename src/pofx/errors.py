"""What a user can mend is a ``ValueError`` that gives the rule, the value received and the cure, in one line."""

import difflib
from collections.abc import Iterable


class Unusable(ValueError):
    """Something the user can mend: a file, a flag, a value. The command line prints it on one line and exits with 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where a known word is near, else the list of those known.

    >>> nearest("vea", ["vae", "gpt"])
    "; did you mean 'vae'?"
    """
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(options)}"


def in_brief(error: BaseException) -> str:
    """What an error of another library says, on one short line.

    >>> in_brief(KeyError("step"))
    "KeyError 'step'"
    """
    return " ".join(f"{type(error).__name__} {error}".split())[:160]

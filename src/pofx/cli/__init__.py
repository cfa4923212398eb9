"""The command line: parses, calls, prints."""

import os
import sys
from collections.abc import Sequence

from pofx.errors import Unusable


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    0: done. 2: something the user can mend, one line on standard error. 130: interrupted, everything saved.
    A fault of ours is not caught: it ends in a traceback and status 1.
    """
    from pofx.cli.parser import parse
    from pofx.progress import quietly

    try:
        options = parse(list(sys.argv[1:] if arguments is None else arguments))
        with quietly(getattr(options, "quiet", False)):
            return int(options.command(options) or 0)
    except Unusable as error:
        from pofx.train.launch import speaks

        if speaks():
            print(f"pofx: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2
    except BrokenPipeError:  # whoever read what is printed has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"pofx: {error.filename or 'the disk'}: {error.strerror}; mend that and try again", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        return 130

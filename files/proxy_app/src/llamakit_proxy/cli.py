"""The command line: ``llamakit-proxy`` and ``python -m llamakit_proxy``."""

import os
import sys
from collections.abc import Sequence

from .settings import SettingsError, load

# The commands are imported where they are needed: the master that `serve` runs must stay small.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 2: the settings, the routes or the arguments are wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words == ["serve"]:
            from . import master

            return master.run(load())
        if words[:1] == ["worker"]:
            from . import worker

            return worker.run(words[1:])
        from . import parser

        code = parser.run(words)
        sys.stdout.flush()
        return code
    except SettingsError as error:
        print(f"llamakit-proxy: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read has enough, like head; Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130

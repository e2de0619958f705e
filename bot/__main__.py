"""The command line's edge: every expected error becomes one line on stderr and exit code 1."""

import os
import sys


def main() -> None:
    """Runs `dswbot`."""
    from bot.cli import app
    from bot.errors import DswbotError

    try:
        app(prog_name="dswbot")
    except DswbotError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)


def _fail(message: str) -> None:
    sys.stderr.write(f"dswbot: {' '.join(message.split())}\n")
    sys.exit(1)


if __name__ == "__main__":
    main()

"""Run the command line: `python -m reactor`."""

import sys

from reactor.cli.main import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m reactor"))

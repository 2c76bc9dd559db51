"""`python -m reactor`."""

import sys

from reactor.cli import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m reactor"))

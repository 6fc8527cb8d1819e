"""The command line of the library: ``python -m lpc report FILE``."""

import sys

from lpc.reporting.command import main

if __name__ == "__main__":
    sys.exit(main())

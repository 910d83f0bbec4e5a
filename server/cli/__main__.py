"""`python -m jitney.server.cli` is `jitney`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m rapiddraw`: see :mod:`rapiddraw.cli`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

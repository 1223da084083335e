"""`python -m nunu_async`."""

import sys

from nunu_async.cli import main

if __name__ == "__main__":
    sys.exit(main())

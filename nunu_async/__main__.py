"""`python -m nunu_async`."""

import sys

try:
    from nunu_async.cli import main

    if __name__ == "__main__":
        sys.exit(main())
except KeyboardInterrupt:  # before anything has started
    sys.exit(130)

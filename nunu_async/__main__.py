"""Entry point of `python -m nunu_async`."""

import sys

try:
    from nunu_async.cli import main

    if __name__ == "__main__":
        sys.exit(main())
except KeyboardInterrupt:  # Ctrl-C before `main` can handle it
    sys.exit(130)

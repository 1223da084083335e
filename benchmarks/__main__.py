"""`python -m benchmarks`: a short form of every benchmark; `--full` runs the real ones."""

from __future__ import annotations

import sys

from benchmarks import upload

if __name__ == "__main__":
    sys.exit(upload.main([] if "--full" in sys.argv[1:] else ["--short"]))

"""`python -m benchmarks`: a short form of every benchmark; `--full` runs the real ones.

Two and a half minutes of the short form, and twenty of the full one, are the soak's.
"""

from __future__ import annotations

import sys

from benchmarks import decode, soak, upload, wait

if __name__ == "__main__":
    asked = [] if "--full" in sys.argv[1:] else ["--short"]
    sys.exit(decode.main(asked) or upload.main(asked) or wait.main(asked) or soak.main(asked))

"""`python -m benchmarks`: a short form of every benchmark; `--full` runs the real ones.

Two minutes of the short form, and twenty of the full one, are the soak's. Each one runs, whatever
became of those before it; the exit status tells whether all were content.
"""

from __future__ import annotations

import sys

from benchmarks import calls, decode, files, imports, lag, schedule, soak, upload, wait

if __name__ == "__main__":
    asked = [] if "--full" in sys.argv[1:] else ["--short"]
    failed = []
    for one in (imports, decode, calls, upload, files, lag, schedule, wait, soak):
        print(f"\n{one.__name__}", flush=True)
        if one.main(asked):
            failed.append(one.__name__)
    if failed:
        print(f"\nnot content: {', '.join(failed)}")
    sys.exit(1 if failed else 0)

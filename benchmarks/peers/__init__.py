"""What `benchmarks.upload` measures, each a program of its own that imports what it needs."""

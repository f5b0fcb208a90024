"""Benchmarks: what the runtime does, measured beside small honest references in one run."""

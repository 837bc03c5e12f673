"""Benchmarks, run by `make bench`; nothing here is a test. Read `__main__.py` first."""

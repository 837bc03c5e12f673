"""A webhook relay for Inngest. Start reading at `receiver.py`; ARCHITECTURE.md is the map."""

__version__ = "0.1.0"

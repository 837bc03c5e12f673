"""The command `relay`, and `python -m relay`: Ctrl-C is quiet even while the rest is still being imported."""

import sys


def main() -> int:
    try:
        from relay.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

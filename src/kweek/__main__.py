"""`python -m kweek`: the same as the command `kweek`."""

from __future__ import annotations

from kweek.cli.entry import main

if __name__ == "__main__":
    main()

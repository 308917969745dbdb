"""``python -m eckart``, as ``torchrun -m eckart`` starts it."""

from __future__ import annotations

from eckart.cli.main import main

if __name__ == "__main__":
    main()

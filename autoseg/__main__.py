"""``python -m autoseg``, which is also how torchrun starts it."""

from autoseg.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m puna`, the form in which torchrun starts the command."""

from puna.cli.main import main

if __name__ == "__main__":
    main()

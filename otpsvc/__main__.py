"""`python -m otpsvc`."""

from otpsvc.cli import main

if __name__ == "__main__":
    main()

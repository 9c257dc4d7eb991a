"""`python -m igtl` is the `igtl` command."""

from igtl.cli import main

if __name__ == "__main__":
    main(prog_name="igtl")

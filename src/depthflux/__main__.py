"""`python -m depthflux`: the command line where its script is not on the PATH."""

from depthflux.cli import main

if __name__ == "__main__":
    main()

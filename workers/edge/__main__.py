"""`python -m workers.edge`: the same verbs as `kdpipe edge`, for machines that run nothing else."""

import sys

from pipeline.errors import KdpipeError
from workers.edge.cli import app


def main() -> None:
    """Run a verb; an error is one line and its exit code."""
    try:
        app()
    except KdpipeError as error:
        sys.stderr.write(f"kdpipe edge: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

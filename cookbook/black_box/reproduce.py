"""Guidance of a black box: a llama.cpp server on loopback against its own sampling.

    make llama-cpp                              # builds the server once
    python -m cookbook.black_box.reproduce      # rows, table and plots in results/

It goes on where it stopped; the rows in ``results/`` are committed.
"""

from pathlib import Path

from cookbook.black_box.server import PORT, serve
from cookbook.controlled_sentiment.reproduce import prepare
from w2s_chains.comparison import compare

HERE = Path(__file__).parent


def main() -> None:
    """Start the server, and compare."""
    prepare()
    with serve(PORT):
        compare(HERE / "study.yaml", out=HERE / "results", progress=True).summary.print()


if __name__ == "__main__":
    main()

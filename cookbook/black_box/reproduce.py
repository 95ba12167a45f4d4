"""Guide a black box, and compare it with its own sampling: a llama.cpp server on loopback.

    make llama-cpp                              # builds the server once
    python -m cookbook.black_box.reproduce      # rows, table and plots in results/

Run it again to continue after an interruption; the rows in ``results/`` are committed.
"""

from pathlib import Path

from cookbook.black_box.server import PORT, serve
from cookbook.controlled_sentiment.reproduce import prepare
from w2s_chains.comparison import compare

HERE = Path(__file__).parent


def main() -> None:
    """Start the server, and run the comparison."""
    prepare()
    with serve(PORT):
        compare(HERE / "study.yaml", out=HERE / "results", progress=True).print()


if __name__ == "__main__":
    main()

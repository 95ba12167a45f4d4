"""``python -m w2s_chains.cli`` is the command line ``w2s``."""

from w2s_chains.cli import app

if __name__ == "__main__":
    app(prog_name="w2s")

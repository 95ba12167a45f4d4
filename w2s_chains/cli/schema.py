"""``w2s schema``: the JSON schema of configs."""

from __future__ import annotations

import json

from w2s_chains.cli.options import told_errors


def schema() -> None:
    """Print the JSON schema of configs, for editors; it includes types of installed packages.

    Write it to a file, w2s schema > w2s.schema.json, and begin a config with the line
    # yaml-language-server: $schema=w2s.schema.json
    """
    from w2s_chains.config.json_schema import config_schema

    with told_errors():
        print(json.dumps(config_schema(), indent=2, ensure_ascii=False))

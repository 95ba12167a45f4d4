"""``w2s serve``: guided models behind a URL."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from w2s_chains.cli.options import told_errors
from w2s_chains.errors import ConfigError


def serve(
    configs: Annotated[
        list[str],
        typer.Argument(help="Configs to serve, each under its file's name, or as NAME=FILE."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000,
    api_key_env: Annotated[
        list[str] | None,
        typer.Option(help="Environment variable that holds a key of clients. Repeatable."),
    ] = None,
    api_key_file: Annotated[
        list[Path] | None, typer.Option(help="File with a key of clients per line. Repeatable.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose web pages may ask this server, or '*'. Repeatable."),
    ] = None,
    parallel: Annotated[int, typer.Option(help="Requests that are answered at once.")] = 64,
    queue: Annotated[int, typer.Option(help="Requests that wait; more are refused (429).")] = 256,
    time_limit: Annotated[float, typer.Option(help="Most seconds for a request.")] = 600.0,
    drain: Annotated[
        float, typer.Option(help="Seconds that requests have to end after SIGTERM.")
    ] = 30.0,
    max_body: Annotated[int, typer.Option(help="Most bytes of a request.")] = 4 * 2**20,
    max_candidates: Annotated[
        int, typer.Option(help="Most partial answers that one request may grow at once.")
    ] = 256,
    keep_alive: Annotated[
        float, typer.Option(help="Seconds between comments on a silent stream.")
    ] = 15.0,
) -> None:
    """Answer OpenAI's clients: chats, completions and streams, with a search behind them.

    Keys never stand on the command line, where other users of the machine can read them.
    """
    with told_errors():
        try:
            from w2s_chains.serving import server, telemetry
            from w2s_chains.serving.app import create_app
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"a server needs the package {error.name}; run `pip install 'w2s_chains[serve]'`"
            ) from error
        from w2s_chains.engine.scheduler import Engine
        from w2s_chains.serving.catalog import read_models
        from w2s_chains.serving.limits import Keys, Limits

        limits = Limits(
            parallel=parallel,
            queue=queue,
            seconds=time_limit,
            body_bytes=max_body,
            candidates=max_candidates,
            keep_alive=keep_alive,
            drain=drain,
        )
        keys = Keys.read(api_key_env or (), api_key_file or ())
        telemetry.log_as_json()
        with server.listen(host, port) as listener:
            models = read_models(configs, Engine(max_live=parallel))
            app = create_app(models, limits, keys, cors_origin or ())
            url = f"http://{host if ':' not in host else f'[{host}]'}:{listener.getsockname()[1]}"
            if not keys and not server.is_loopback(host):
                print(
                    f"Warning: everybody who reaches {url} may ask, since there is no key; give "
                    "--api-key-env or --api-key-file",
                    file=sys.stderr,
                )
            names = ", ".join(served.name for served in app.state.catalog)
            told = f"Serving {names} at {url}/v1; {url} is a page to try it; Ctrl-C ends it"
            running = server.DrainingServer(app, lambda: print(told, flush=True))
            running.run(sockets=[listener])

"""The commands `serve` and `dev` with their options. Every option is also an environment variable."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.cli import SERVER_NEEDS
from coordinator.cli.failures import USAGE, CommandFailed
from coordinator.cli.options import Namespace


class LogFormat(StrEnum):
    text = "text"
    json = "json"


def _variable(name: str, *flags: str, **attributes: Any) -> Any:  # Any: as typer.Option
    return typer.Option(*flags, envvar=f"COORDINATOR_{name}", **attributes)


Host = Annotated[
    str,
    _variable(
        "HOST", "--host", metavar="HOST", help="Address to listen on; other than loopback only with keys"
    ),
]
Port = Annotated[
    int,
    _variable(
        "PORT", "--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0 = any free port"
    ),
]
Workers = Annotated[
    int,
    _variable(
        "WORKERS",
        "--workers",
        metavar="N",
        min=1,
        max=256,
        help="Number of worker processes that share the port",
    ),
]
Store = Annotated[
    str | None,
    _variable(
        "STORE", "--store", metavar="URL", help="Store. Default: an SQLite file in the folder .coordinator"
    ),
]
Redis = Annotated[
    str | None,
    _variable(
        "REDIS",
        "--redis",
        metavar="URL",
        help="Redis; '' = none. Default: an embedded server for the default store, if one is installed",
    ),
]
Assistants = Annotated[
    str | None,
    _variable(
        "ASSISTANTS",
        "--assistants",
        metavar="MODULE:OBJECT",
        help="Assistants: a mapping from names to async functions or graphs, or one of them",
    ),
]
Graphs = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="A langgraph.json, or a folder with one: serves its graphs"),
]
Grace = Annotated[
    float | None,
    _variable(
        "GRACE", "--grace", metavar="S", min=0, help="How long runs may continue after SIGTERM. Default: 30"
    ),
]
LeaseTtl = Annotated[
    float | None,
    _variable("LEASE_TTL", "--lease-ttl", metavar="S", help="Duration of a worker's lease. Default: 15"),
]
Logs = Annotated[
    LogFormat,
    _variable("LOG_FORMAT", "--log-format", metavar="text|json", help="Format of log lines"),
]
Demo = Annotated[
    bool | None,
    _variable(
        "DEMO_ASSISTANT",
        "--demo-assistant/--no-demo-assistant",
        help="Offer the demo assistant `agent`. Default: if there is no other assistant",
    ),
]
Keys = Annotated[
    Path | None,
    _variable("API_KEYS", "--api-keys", metavar="FILE", help="File with the hashes of the API keys"),
]

CorsOrigins = Annotated[
    list[str] | None,
    typer.Option(
        "--cors-origin",
        metavar="ORIGIN",
        help="Origin of web pages that may call, e.g. https://app.example.com; repeatable."
        " Variable: COORDINATOR_CORS_ORIGINS, comma-separated",
    ),
]
PageFolder = Annotated[
    Path | None,
    _variable(
        "PAGE",
        "--page",
        metavar="FOLDER",
        help="Folder of a web page, served at /page/. Default: the one that FILE names, if any",
    ),
]
AdmitOnly = Annotated[
    bool,
    _variable(
        "ADMIT_ONLY",
        "--admit-only",
        help="Admit runs, and execute none: workers of other servers on the same store do",
    ),
]
DevGrace = Annotated[
    float | None,
    _variable(
        "GRACE",
        "--grace",
        metavar="S",
        min=0,
        help="How long runs may continue when the server restarts or stops. Default: 0",
    ),
]
Reload = Annotated[
    bool,
    typer.Option("--reload/--no-reload", help="Restart when a Python file or langgraph.json changes"),
]
ReloadDirs = Annotated[
    list[Path] | None,
    typer.Option(
        "--reload-dir",
        metavar="FOLDER",
        exists=True,
        file_okay=False,
        help="Folder watched for changes; repeatable. Default: the folder of FILE, else the working folder",
    ),
]
LOCAL_PAGES = ("http://localhost:*", "http://127.0.0.1:*")
"""Origins of front ends that are developed with `coordinator dev`."""


def serve(
    file: Graphs = None,
    *,
    host: Host = "127.0.0.1",
    port: Port = 2024,
    workers: Workers = 1,
    store: Store = None,
    redis: Redis = None,
    assistants: Assistants = None,
    grace: Grace = None,
    lease_ttl: LeaseTtl = None,
    admit_only: AdmitOnly = False,
    namespace: Namespace = None,
    log_format: Logs = LogFormat.text,
    demo_assistant: Demo = None,
    api_keys: Keys = None,
    cors_origin: CorsOrigins = None,
    page: PageFolder = None,
) -> int:
    """Serve the Runs API with --workers processes on one port; each process is a worker.

    SIGTERM drains all workers, a second SIGTERM ends the grace at once; SIGHUP restarts them one by one.
    """
    from coordinator.cli.serve.graphs import graphs_file
    from coordinator.cli.serve.handover import ServeOptions, exec_supervisor

    _check_installed()
    graphs = graphs_file(file, assistants)
    exec_supervisor(
        ServeOptions(
            host=host,
            port=port,
            workers=workers,
            store=store,
            redis=redis,
            assistants=str(graphs) if graphs else assistants,
            log_format="json" if log_format is LogFormat.json else "text",
            settings=_without_none(
                grace=grace, lease_ttl=lease_ttl, admit_only=admit_only or None, namespace=namespace
            ),
            gateway=_gateway(demo_assistant, api_keys, cors_origin, page),
        )
    )


def dev(
    file: Graphs = None,
    *,
    host: Host = "127.0.0.1",
    port: Port = 2024,
    store: Store = None,
    redis: Redis = None,
    assistants: Assistants = None,
    grace: DevGrace = None,
    namespace: Namespace = None,
    log_format: Logs = LogFormat.text,
    demo_assistant: Demo = None,
    api_keys: Keys = None,
    cors_origin: CorsOrigins = None,
    page: PageFolder = None,
    reload: Reload = True,
    reload_dir: ReloadDirs = None,
) -> int:
    """Serve the Runs API for development: one worker, restarted on every change of a Python file.

    Without FILE and --assistants, a langgraph.json in the working folder is served. A restart or Ctrl-C
    cancels runs in flight after --grace; no run is executed twice.
    """
    from coordinator.cli.serve.graphs import graphs_file
    from coordinator.cli.serve.handover import ServeOptions, exec_supervisor

    _check_installed()
    graphs = graphs_file(file, assistants, search=True)
    exec_supervisor(
        ServeOptions(
            host=host,
            port=port,
            workers=1,
            store=store,
            redis=redis,
            assistants=str(graphs) if graphs else assistants,
            log_format="json" if log_format is LogFormat.json else "text",
            settings=_without_none(grace=grace or 0.0, namespace=namespace),
            gateway=_with_development_defaults(_gateway(demo_assistant, api_keys, cors_origin, page)),
            development=True,
            watched_folders=_watched_folders(reload_dir, graphs) if reload and (assistants or graphs) else [],
        )
    )


def _check_installed() -> None:
    missing = [name for name in SERVER_NEEDS if find_spec(name) is None]
    if missing:
        raise CommandFailed(
            "NotInstalled",
            f"{' and '.join(missing)} not installed",
            "Install the server with: pip install 'run-coordinator[gateway]'",
            code=USAGE,
        )
    if sys.platform == "win32":
        raise CommandFailed(
            "NotSupported",
            "the server requires the signals and sockets of Linux or macOS",
            "On Windows, mount `coordinator.gateway.create_gateway` in your own app",
            code=USAGE,
        )


def _gateway(
    demo_assistant: bool | None, api_keys: Path | None, cors_origin: list[str] | None, page: Path | None
) -> dict[str, object]:
    return _without_none(
        demo_assistant=demo_assistant,
        api_keys=None if api_keys is None else str(api_keys),
        cors_origins=",".join(cors_origin) if cors_origin else None,
        page=None if page is None else str(page),
    )


def _watched_folders(given: list[Path] | None, graphs: Path | None) -> list[str]:
    default = Path.cwd() if graphs is None else graphs.parent
    return [str(folder.resolve()) for folder in given or [default]]


def _with_development_defaults(options: dict[str, object]) -> dict[str, object]:
    """Add the defaults of `dev` that are set by neither an option nor a variable."""
    defaults = {"log_runs": True, "cors_origins": ",".join(LOCAL_PAGES)}
    unset = {
        name: value for name, value in defaults.items() if f"COORDINATOR_{name.upper()}" not in os.environ
    }
    return {**unset, **options}


def _without_none(**options: object) -> dict[str, object]:
    """The options that were given; workers resolve the others from variables and defaults."""
    return {name: value for name, value in options.items() if value is not None}

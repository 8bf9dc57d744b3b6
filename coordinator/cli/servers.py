"""The commands `serve` and `dev` with their options. Every option is a variable of the environment, too."""

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


def _variable(name: str, *flags: str, **more: Any) -> Any:
    return typer.Option(*flags, envvar=f"COORDINATOR_{name}", **more)


Host = Annotated[
    str,
    _variable("HOST", "--host", metavar="HOST", help="Address to listen on; beyond loopback only with keys"),
]
Port = Annotated[
    int,
    _variable("PORT", "--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0 = any free one"),
]
Workers = Annotated[
    int,
    _variable("WORKERS", "--workers", metavar="N", min=1, max=256, help="How many processes share the port"),
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
        help="Redis; '' = none. Default: a server of its own for the default store, if one is installed",
    ),
]
Assistants = Annotated[
    str | None,
    _variable(
        "ASSISTANTS",
        "--assistants",
        metavar="MODULE:OBJECT",
        help="What runs: names to async functions, or one of these alone",
    ),
]
Grace = Annotated[
    float | None,
    _variable(
        "GRACE", "--grace", metavar="S", min=0, help="How long runs may go on after SIGTERM. Default: 30"
    ),
]
LeaseTtl = Annotated[
    float | None,
    _variable("LEASE_TTL", "--lease-ttl", metavar="S", help="How long a worker's lease lasts. Default: 15"),
]
Logs = Annotated[
    LogFormat,
    _variable("LOG_FORMAT", "--log-format", metavar="text|json", help="Log lines for people or machines"),
]
Demo = Annotated[
    bool,
    _variable(
        "DEMO_ASSISTANT", "--demo-assistant/--no-demo-assistant", help="Offer the demo assistant `agent`"
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
        help="Web pages of this origin may call, e.g. https://app.example.com; repeat it for several."
        " Variable: COORDINATOR_CORS_ORIGINS, comma-separated",
    ),
]
DevGrace = Annotated[
    float | None,
    _variable(
        "GRACE",
        "--grace",
        metavar="S",
        min=0,
        help="How long runs may go on when the server is restarted or ended. Default: 0",
    ),
]
LOCAL_PAGES = ("http://localhost:*", "http://127.0.0.1:*")
"""Front ends that are developed beside a `coordinator dev`."""


def serve(
    *,
    host: Host = "127.0.0.1",
    port: Port = 2024,
    workers: Workers = 1,
    store: Store = None,
    redis: Redis = None,
    assistants: Assistants = None,
    grace: Grace = None,
    lease_ttl: LeaseTtl = None,
    namespace: Namespace = None,
    log_format: Logs = LogFormat.text,
    demo_assistant: Demo = True,
    api_keys: Keys = None,
    cors_origin: CorsOrigins = None,
) -> int:
    """Serve the Runs API with --workers processes on one port, each of them a coordinator.

    SIGTERM drains all workers, a second one hurries them; SIGHUP restarts them one by one.
    """
    from coordinator.cli.serve.asked import Asked, hand_over

    _check_installed()
    hand_over(
        Asked(
            host=host,
            port=port,
            workers=workers,
            store=store,
            redis=redis,
            assistants=assistants,
            log_format="json" if log_format is LogFormat.json else "text",
            settings=_given(grace=grace, lease_ttl=lease_ttl, namespace=namespace),
            gateway=_gateway(demo_assistant, api_keys, cors_origin),
        )
    )


def dev(
    *,
    host: Host = "127.0.0.1",
    port: Port = 2024,
    store: Store = None,
    redis: Redis = None,
    assistants: Assistants = None,
    grace: DevGrace = None,
    namespace: Namespace = None,
    log_format: Logs = LogFormat.text,
    demo_assistant: Demo = True,
    api_keys: Keys = None,
    cors_origin: CorsOrigins = None,
    reload: Annotated[
        bool, typer.Option("--reload/--no-reload", help="Start anew when a Python file changes")
    ] = True,
    reload_dir: Annotated[
        list[Path] | None,
        typer.Option(
            "--reload-dir",
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="Where to look for changes; repeat it for several. Default: the working folder",
        ),
    ] = None,
) -> int:
    """Serve the Runs API on this machine while you write assistants: one worker, restarted on every change.

    A run that a restart or Ctrl-C meets is cancelled, unless --grace gives it time; it is never done twice.
    """
    from coordinator.cli.serve.asked import Asked, hand_over

    _check_installed()
    hand_over(
        Asked(
            host=host,
            port=port,
            workers=1,
            store=store,
            redis=redis,
            assistants=assistants,
            log_format="json" if log_format is LogFormat.json else "text",
            settings=_given(grace=grace or 0.0, namespace=namespace),
            gateway=_for_developers(_gateway(demo_assistant, api_keys, cors_origin)),
            develops=True,
            watched=[str(folder.resolve()) for folder in reload_dir or [Path.cwd()]]
            if reload and assistants
            else [],
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
            "a server needs the signals and sockets of Linux or macOS",
            "On Windows, mount `coordinator.gateway.create_gateway` in an app of your own",
            code=USAGE,
        )


def _gateway(demo_assistant: bool, api_keys: Path | None, cors_origin: list[str] | None) -> dict[str, Any]:
    return _given(
        demo_assistant=demo_assistant,
        api_keys=None if api_keys is None else str(api_keys),
        cors_origins=",".join(cors_origin) if cors_origin else None,
    )


def _for_developers(options: dict[str, Any]) -> dict[str, Any]:
    """What is right where assistants are written, unless an option or a variable says otherwise."""
    defaults = {"log_runs": True, "cors_origins": ",".join(LOCAL_PAGES)}
    unset = {
        name: value for name, value in defaults.items() if f"COORDINATOR_{name.upper()}" not in os.environ
    }
    return {**unset, **options}


def _given(**options: Any) -> dict[str, Any]:
    """What was said; the rest a worker looks up itself."""
    return {name: value for name, value in options.items() if value is not None}

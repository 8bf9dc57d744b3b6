"""`langgraph.json`: which graphs are served, and with what."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from coordinator.arguments import MAX_RETRIES
from coordinator.errors import InvalidArgument
from coordinator.schemas import Json
from stores.json_values import JsonObject

logger = logging.getLogger(__name__)

_IMAGE_KEYS = frozenset(
    {
        "api_version",
        "base_image",
        "building",
        "disable_persistence",
        "docker_compose_file",
        "dockerfile_lines",
        "image_distro",
        "internal_docker_tag",
        "keep_pkg_tools",
        "node_version",
        "pip_config_file",
        "pip_installer",
        "python_version",
        "source",
        "$schema",
    }
)
"""Keys that concern images or the editor only."""


class Section(BaseModel):
    """A part of the file. Unknown keys are kept, to be named in the log."""

    model_config = ConfigDict(extra="allow", frozen=True)
    unsupported: ClassVar[dict[str, str]] = {}
    """Known keys without effect, and what to use instead."""
    refused_unknown: ClassVar[bool] = False
    """Whether unknown keys are refused, not only named."""


class GraphSpec(Section):
    path: str
    """`path/file.py:attribute` or `package.module:attribute`."""
    description: str | None = None
    retries: int = Field(default=1, ge=0, le=MAX_RETRIES)
    """An extension: see `GraphAssistant`. Also of the further assistants of the graph."""


class AssistantSpec(Section):
    """A further assistant of a graph. An extension: other servers have an API for these."""

    graph: str
    config: JsonObject = {}
    context: JsonObject = {}
    description: str | None = None


class SerdeSpec(Section):
    """Types that are restored from checkpoints, besides those in the annotations of states."""

    unsupported = {
        "allowed_json_modules": "checkpoints are msgpack: use allowed_msgpack_modules",
        "pickle_fallback": "pickle executes code that a checkpoint contains",
    }
    allowed_msgpack_modules: list[tuple[str, str]] = []
    """Module and class."""


class CheckpointerSpec(Section):
    unsupported = {
        "path": "checkpoints are written by savers of the coordinator, which fence writes and undo them",
        "ttl": "give threads a time to live when they are created (ttl of POST /threads)",
    }
    backend: str | None = None
    url: str | None = None
    """`sqlite:///path` or `postgresql://…`; default: beside the store of the runs."""
    serde: SerdeSpec = SerdeSpec()


class IndexSpec(Section):
    """Semantic search."""

    dims: int = Field(gt=0)
    embed: str
    """`provider:model`, which needs langchain, or `path/file.py:function`."""
    fields: list[str] | None = None


class StoreTtlSpec(Section):
    refresh_on_read: bool = True
    default_ttl: float | None = Field(default=None, gt=0)
    """Minutes."""
    sweep_interval_minutes: int | None = Field(default=None, gt=0)


class StoreSpec(Section):
    unsupported = {"path": "the store is SQLite or PostgreSQL: give its url, or remove the key"}
    url: str | None = None
    """`sqlite:///path` or `postgresql://…`; default: beside the checkpoints."""
    index: IndexSpec | None = None
    ttl: StoreTtlSpec | None = None


class AuthSpec(Section):
    """Unknown keys are refused, as in `WebhookUrlSpec`: a misspelt restriction must not be a missing one."""

    refused_unknown = True
    unsupported = {
        "allow_langsmith_api_keys": "keys of LangSmith are not accepted",
        "cache": "the function authenticate is called for each request",
        "disable_studio_auth": "Studio has no access of its own: its users are authenticated like all others",
        "openapi": "/openapi.json describes API keys",
    }
    path: str | None = None
    """`path/file.py:attribute`: a `langgraph_sdk.Auth` object."""
    timeout: float = Field(default=10, gt=0, le=60)
    """Seconds for each call of a function. An extension."""


class CorsSpec(Section):
    allow_origins: list[str] = []
    allow_origin_regex: str | None = None
    allow_methods: list[str] | None = None
    allow_headers: list[str] | None = None
    allow_credentials: bool = False
    expose_headers: list[str] = []
    max_age: int | None = Field(default=None, ge=0)


class HeadersSpec(Section):
    """Patterns of names of headers; `*` matches any characters."""

    includes: list[str] = Field(default=[], validation_alias=AliasChoices("includes", "include"))
    excludes: list[str] = Field(default=[], validation_alias=AliasChoices("excludes", "exclude"))


class HttpSpec(Section):
    unsupported = {"logging_headers": "headers are never logged"}
    app: str | None = None
    """`path/file.py:attribute`: a Starlette or FastAPI app, whose routes are served beside the API."""
    cors: CorsSpec | None = None
    configurable_headers: HeadersSpec | None = None
    middleware_order: Literal["middleware_first", "auth_first"] = "middleware_first"
    enable_custom_route_auth: bool = False
    mount_prefix: str | None = Field(default=None, pattern=r"^(/[A-Za-z0-9._~-]+)+$")
    disable_assistants: bool = False
    disable_meta: bool = False
    disable_runs: bool = False
    disable_store: bool = False
    disable_threads: bool = False
    disable_webhooks: bool = False
    # Not served anyway.
    disable_a2a: bool = True
    disable_event_streaming: bool = True
    disable_mcp: bool = True
    disable_ui: bool = True


class WebhookUrlSpec(Section):
    """Restrictions, in addition to those of the settings."""

    refused_unknown = True
    require_https: bool = False
    allowed_domains: list[Annotated[str, Field(pattern=r"^(\*\.)?[^*\s/:@]+$")]] = []
    allowed_ports: list[Annotated[int, Field(gt=0, le=65535)]] = []
    max_url_length: int | None = Field(default=None, gt=0)
    disable_loopback: bool = False
    disable_private_ips: bool = False


class WebhooksSpec(Section):
    env_prefix: str = Field(default="LG_WEBHOOK_", min_length=1)
    headers: dict[str, str] = {}
    """Values may have `${{ env.NAME }}`."""
    url: WebhookUrlSpec = WebhookUrlSpec()
    allowed_fields: list[str] | None = None
    """The fields of the body that are sent; None = all."""


def _spec(given: Json) -> Json:
    return {"path": given} if isinstance(given, str) else given


class LanggraphFile(Section):
    unsupported = {
        "encryption": "values are stored as they are: encrypt the disk",
        "ui": "",
        "ui_config": "",
        "priority": "",
    }
    graphs: dict[str, Annotated[GraphSpec, BeforeValidator(_spec)]] = Field(min_length=1)
    dependencies: list[str] = ["."]
    env: str | dict[str, str | int | float | bool] = {}
    checkpointer: CheckpointerSpec = CheckpointerSpec()
    store: StoreSpec = StoreSpec()
    auth: AuthSpec = AuthSpec()
    http: HttpSpec = HttpSpec()
    webhooks: WebhooksSpec = WebhooksSpec()
    assistants: dict[str, AssistantSpec] = {}
    page: str | None = None
    """Folder of a built web page. An extension."""


class Configuration:
    """A file that was read and checked. `folder`: paths in the file are relative to it."""

    def __init__(self, path: Path, content: LanggraphFile) -> None:
        self.path, self.folder, self.content = path, path.parent, content

    def field(self, key: str) -> str:
        """Name a key for messages."""
        return f"{self.path}: {key}"

    def import_folders(self) -> list[Path]:
        """Return the local folders among the dependencies; the others are packages, which must be installed.
        Raises InvalidArgument."""
        folders: list[Path] = []
        for dependency in self.content.dependencies:
            if not dependency.startswith((".", "/")):
                continue
            folder = (self.folder / dependency).resolve()
            if not folder.is_dir():
                raise InvalidArgument(
                    self.field("dependencies"),
                    f"there is no folder {folder}: correct {dependency!r}, a path relative to {self.folder}",
                )
            folders.append(folder)
        return folders

    def environment(self) -> dict[str, str]:
        """Return the variables of the key env. Raises InvalidArgument."""
        given = self.content.env
        if isinstance(given, dict):
            return {name: str(value) for name, value in given.items()}
        path = (self.folder / given).resolve()
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(
                self.field("env"), f"{path} cannot be read ({error}): create it, or remove the key"
            ) from None
        return dict(self._variables(path, lines))

    def _variables(self, path: Path, lines: list[str]) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(lines, 1):
            text = line.strip().removeprefix("export ")
            if not text or text.startswith("#"):
                continue
            name, separator, value = text.partition("=")
            if not separator or not name.strip().isidentifier():
                raise InvalidArgument(
                    self.field("env"), f"{path}, line {number} is not of the form KEY=VALUE"
                )
            yield name.strip(), _unquoted(value.strip())


def read(path: Path) -> Configuration:
    """Read and check the file. Keys without effect are named in the log. Raises InvalidArgument."""
    path = path.resolve()
    content = _checked(path)
    configuration = Configuration(path, content)
    _check(configuration)
    _name_without_effect(path, content)
    return configuration


def page_of(path: Path) -> Path | None:
    """Return the folder that the key page of the file names. Raises InvalidArgument."""
    page = _checked(path.resolve()).page
    return None if page is None else (path.resolve().parent / page).resolve()


def _checked(path: Path) -> LanggraphFile:
    try:
        given: Json = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(str(path), f"cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise InvalidArgument(str(path), f"is not JSON: {error}. Correct it there") from None
    if not isinstance(given, dict):
        raise InvalidArgument(str(path), 'must be an object with the key "graphs"')
    try:
        return LanggraphFile.model_validate(given)
    except ValidationError as error:
        raise InvalidArgument(str(path), _description_of(error)) from None


def _check(configuration: Configuration) -> None:
    content = configuration.content
    cors = content.http.cors
    if cors is not None and cors.allow_credentials and "*" in cors.allow_origins:
        raise InvalidArgument(
            configuration.field("http.cors.allow_credentials"),
            "must not be combined with the origin *: any web page could use the cookies of its visitors",
        )
    for name, assistant in content.assistants.items():
        if assistant.graph not in content.graphs:
            known = ", ".join(content.graphs)
            raise InvalidArgument(
                configuration.field(f"assistants.{name}.graph"),
                f"there is no graph {assistant.graph!r}; the key graphs has {known}",
            )
        if name in content.graphs:
            raise InvalidArgument(
                configuration.field(f"assistants.{name}"), "is the name of a graph: choose another one"
            )


def _name_without_effect(path: Path, section: Section, prefix: str = "") -> None:
    """Raises InvalidArgument for unknown keys where they are refused."""
    extra = section.model_extra or {}
    for key in extra:
        name = f"{prefix}{key}"
        if key in section.unsupported:
            hint = section.unsupported[key]
            logger.warning("%s: the key %s has no effect%s", path, name, f": {hint}" if hint else "")
        elif section.refused_unknown:
            known = ", ".join({**type(section).model_fields, **section.unsupported})
            raise InvalidArgument(f"{path}: {name}", f"is unknown: there are {known}")
        elif prefix or key not in _IMAGE_KEYS:
            logger.warning("%s: the key %s is unknown and has no effect", path, name)
    for key in type(section).model_fields:
        value: object = getattr(section, key)
        if isinstance(value, Section):
            _name_without_effect(path, value, f"{prefix}{key}.")
        elif isinstance(value, dict):
            for part, item in cast("dict[str, object]", value).items():
                if isinstance(item, Section):
                    _name_without_effect(path, item, f"{prefix}{key}.{part}.")


def _description_of(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing" and key == "graphs":
        return 'has no key "graphs": add {"graphs": {"agent": "./agent.py:graph"}}'
    if first["type"] == "too_short" and key == "graphs":
        return 'graphs: names no graph, add one: {"graphs": {"agent": "./agent.py:graph"}}'
    return f"{key}: {first['msg']}"


def _unquoted(value: str) -> str:
    for quote in "\"'":
        if len(value) >= 2 and value[0] == quote and quote in value[1:]:
            return value[1 : value.index(quote, 1)]
    return value.partition(" #")[0].strip()

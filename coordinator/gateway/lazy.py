"""Routes and models that are built at their first use, which shortens the start of a server."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, get_type_hints

from fastapi.params import Depends
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.routing import compile_path


class LazyModel(BaseModel):
    model_config = ConfigDict(defer_build=True)

    @classmethod
    def build(cls) -> None:
        """Builds the model and, from now on, models derived from it. Idempotent."""
        cls.model_config["defer_build"] = False
        cls.model_rebuild()


class LazyRoute(APIRoute):
    """A route that is created with only what is needed to match requests. Everything else, which costs a
    hundred times as much, is built at the first access to a missing attribute: at the first request or for
    the OpenAPI document. Errors in the definition of a route are raised there.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],  # Any: as FastAPI has it
        *,
        methods: Collection[str] | None = None,
        name: str | None = None,
        **options: Any,  # Any: those of FastAPI's APIRoute
    ) -> None:
        self.path, self.endpoint = path, endpoint
        self.methods = {method.upper() for method in methods or ("GET",)}
        self.name = endpoint.__name__ if name is None else name
        self.dependencies: list[Depends] = list(options.get("dependencies") or ())
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self._options: dict[str, Any] | None = options  # Any: those of APIRoute

    def __getattr__(self, name: str) -> Any:  # Any: whatever the route has
        options = self.__dict__.get("_options")
        if options is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._options = None
        # FastAPI expects complete models of bodies: it builds from them with warnings disabled, which an
        # incomplete model would emit later.
        for hint in get_type_hints(self.endpoint).values():
            if isinstance(hint, type) and issubclass(hint, LazyModel):
                hint.build()
        super().__init__(self.path, self.endpoint, methods=self.methods, name=self.name, **options)
        return getattr(self, name)

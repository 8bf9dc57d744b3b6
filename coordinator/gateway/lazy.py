"""Routes and models that are put together when they are first asked for: a server starts without them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, get_type_hints

from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.routing import compile_path


class LazyModel(BaseModel):
    model_config = ConfigDict(defer_build=True)

    @classmethod
    def build(cls) -> None:
        """Now, and so whatever is made of it from here on. Idempotent."""
        cls.model_config["defer_build"] = False
        cls.model_rebuild()


class LazyRoute(APIRoute):
    """Knows at once what it takes to match a request. All the rest, which is a hundred times as much work,
    is made with its first request, or for the description of the API: whoever looks for an attribute that
    is not there yet. A mistake in a route is raised there, too.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: Collection[str] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        self.path, self.endpoint = path, endpoint
        self.methods = {method.upper() for method in methods or ("GET",)}
        self.name = endpoint.__name__ if name is None else name
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self._options: dict[str, Any] | None = options

    def __getattr__(self, name: str) -> Any:
        options = self.__dict__.get("_options")
        if options is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._options = None
        # FastAPI takes what it makes of a body's model for finished, and makes it with warnings off that
        # would come later from one that is not.
        for hint in get_type_hints(self.endpoint).values():
            if isinstance(hint, type) and issubclass(hint, LazyModel):
                hint.build()
        super().__init__(self.path, self.endpoint, methods=self.methods, name=self.name, **options)
        return getattr(self, name)

"""guard: installs the middleware in its order."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware

from coordinator.gateway.authority import parse_authority
from coordinator.gateway.caller import Authenticate, trust_all
from coordinator.gateway.custom_app import CustomApp, CustomMiddleware
from coordinator.gateway.middleware.authentication import Authentication
from coordinator.gateway.middleware.authorization import Authorization
from coordinator.gateway.middleware.bodies import Bodies
from coordinator.gateway.middleware.hosts import Hosts, Names
from coordinator.gateway.middleware.origins import Origins, Pages
from coordinator.gateway.middleware.public import Public
from coordinator.gateway.middleware.rate import Buckets, Rate
from coordinator.gateway.request_id import HEADER
from coordinator.gateway.settings import GatewaySettings
from coordinator.langgraph.extension import Extension

EXPOSED = (
    "Content-Location",
    "Location",
    "Retry-After",
    "X-Pagination-Total",
    "X-Pagination-Next",
    HEADER,
)
"""Response headers that the scripts of a page may read. Clients in a browser need them to resume and to
page."""

_METHODS = ("GET", "POST", "PATCH", "PUT", "DELETE")


def guard(
    app: Starlette,
    settings: GatewaySettings,
    authenticate: Authenticate | None,
    *,
    public: Public,
    extension: Extension,
    custom: CustomApp | None,
) -> None:
    """Installs the middleware; the one that is added last runs first. `authenticate` None = every caller has
    all permissions. `extension` and `custom`: what a configuration adds. Raises LookupError for a route that
    the functions of a configuration cannot authorise."""
    if extension.handlers is not None:
        guarded = [route for route in app.routes if route not in public]
        app.add_middleware(Authorization, handlers=extension.handlers, routes=guarded, custom=custom)
    app.add_middleware(Bodies, max_bytes=settings.max_body_bytes)
    if settings.rate_limit is not None:
        app.add_middleware(Rate, buckets=Buckets(settings.rate_limit))
    if custom is not None and custom.after_authentication:
        app.add_middleware(CustomMiddleware, custom=custom)
    app.add_middleware(
        Authentication,
        authenticate=authenticate or trust_all,
        public=public,
        configurable=extension.configurable,
    )
    if custom is not None and not custom.after_authentication:
        app.add_middleware(CustomMiddleware, custom=custom)
    cors = extension.cors
    pages = Pages(settings.cors_origins, cors.origin_regex)
    if pages:
        # Outside authentication, because preflights carry no key. Without cookies, unless a configuration
        # allows them: pages send their key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=pages.origins,
            allow_origin_regex=pages.pattern,
            allow_methods=_METHODS if cors.methods is None else cors.methods,
            allow_headers=("*",) if cors.headers is None else cors.headers,
            allow_credentials=cors.credentials,
            expose_headers=(*EXPOSED, *cors.exposed),
            max_age=600 if cors.max_age is None else cors.max_age,
        )
    app.add_middleware(Origins, pages=pages, public=public)
    listening = parse_authority(settings.host)
    names = Names(
        (*settings.allowed_hosts, *((listening.host,) if listening is not None else ())),
        any_address=authenticate is not None,
    )
    app.add_middleware(Hosts, names=names)

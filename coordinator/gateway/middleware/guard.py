"""guard: installs the middleware in its order."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware

from coordinator.gateway.authority import parse_authority
from coordinator.gateway.caller import Authenticate, trust_all
from coordinator.gateway.middleware.authentication import Authentication
from coordinator.gateway.middleware.bodies import Bodies
from coordinator.gateway.middleware.hosts import Hosts, Names
from coordinator.gateway.middleware.origins import Origins, Pages
from coordinator.gateway.middleware.public import Public
from coordinator.gateway.middleware.rate import Buckets, Rate
from coordinator.gateway.request_id import HEADER
from coordinator.gateway.settings import GatewaySettings

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
) -> None:
    """Installs the middleware; the one that is added last runs first. `authenticate` None = every caller has
    all permissions."""
    app.add_middleware(Bodies, max_bytes=settings.max_body_bytes)
    if settings.rate_limit is not None:
        app.add_middleware(Rate, buckets=Buckets(settings.rate_limit))
    app.add_middleware(Authentication, authenticate=authenticate or trust_all, public=public)
    pages = Pages(settings.cors_origins)
    if pages:
        # Outside authentication, because preflights carry no key. No cookies: pages send their key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=pages.origins,
            allow_origin_regex=pages.pattern,
            allow_methods=_METHODS,
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )
    app.add_middleware(Origins, pages=pages, public=public)
    listening = parse_authority(settings.host)
    names = Names(
        (*settings.allowed_hosts, *((listening.host,) if listening is not None else ())),
        any_address=authenticate is not None,
    )
    app.add_middleware(Hosts, names=names)

"""The pages: the document for people, and what a browser sees at `/` of the inference port."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .... import __version__
from ..status.page import HEADERS, HTML, SCRIPT, STYLE, send

if TYPE_CHECKING:
    from ...settings.settings import Settings
    from ..torchserve.routing import Exchange

__all__ = ["DOCS", "HTML", "DocsPage", "landing"]

FILES = Path(__file__).parent / "files"
#: What lies under /docs/, and where.
NAMES = {"rapidoc.js": ("vendor/rapidoc.js", SCRIPT), "page.css": ("page.css", STYLE)}
#: The pattern of these files.
DOCS = rf"/docs/(?P<name>{'|'.join(NAMES)})".replace(".", r"\.")
#: As the status page's, but that the viewer writes styles into its elements, and draws arrows of its own.
POLICY = HEADERS["content-security-policy"].replace("blob:", "data:") + "; style-src 'self' 'unsafe-inline'"
_HOST = re.compile(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", re.ASCII)


class DocsPage:
    """The handlers of `/docs` and of the files that it loads. They are read when they are asked for."""

    def html(self, exchange: Exchange) -> None:
        """The page itself."""
        send(exchange, (FILES / "docs.html").read_bytes(), HTML)
        exchange.resp.set_header("content-security-policy", POLICY)

    def file(self, exchange: Exchange, name: str) -> None:
        """One of its files."""
        path, kind = NAMES[name]
        send(exchange, (FILES / path).read_bytes(), kind)


def landing(settings: Settings, host: str) -> bytes:
    """What this port is and where to go. `host`: how the browser calls this machine."""
    page = (FILES / "landing.html").read_text()
    management = settings.management_address
    status = ""
    if settings.status_page == "on" and management.port and _HOST.fullmatch(host):
        url = escape(f"{management.scheme}://{host}:{management.port}/status", quote=True)
        reached = " (from this machine only)" if management.is_local else ""
        status = f'<li><a href="{url}">Status</a>: models, workers, batches, and a form to try each model{reached}</li>'
    return page.replace("{version}", escape(__version__)).replace("{status}", status).encode()

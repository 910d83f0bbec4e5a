"""Server metadata and health of the Open Inference Protocol in TorchServe's form, where ts_open_inference_protocol asks for it.

Without the setting these paths answer as Triton does, which clients of KServe v2 know better. Of both forms the status is what
most clients look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import falcon

from .render import new_request_id, seal, send_json

if TYPE_CHECKING:
    from ...serving.dataplane import DataPlane

#: TorchServe 0.12's own, its spelling included: clients that look for the key look for this one.
METADATA = {"name": "Torchserve", "version": "0.12.0", "extenstion": ["kserve", "kubeflow"]}


class Document:
    """A resource that answers any method with a JSON document; with 503 where its only value is false."""

    def __init__(self, document: Callable[[], dict[str, Any]]) -> None:
        self._document = document

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        document = self._document()
        send_json(resp, document, 503 if False in document.values() else 200)
        seal(req, resp, new_request_id())

    on_post = on_put = on_patch = on_delete = on_head = on_options = on_get


def add_open_inference(app: falcon.App[falcon.Request, falcon.Response], dataplane: DataPlane) -> None:
    """Takes the place of the routes that are there already."""
    app.add_route("/v2", Document(lambda: METADATA))
    app.add_route("/v2/health/live", Document(lambda: {"live": dataplane.live()}))
    app.add_route("/v2/health/ready", Document(lambda: {"ready": dataplane.ready()}))

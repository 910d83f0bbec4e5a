"""`Registration`: what a client asks for when it registers a model (TorchServe's POST /models)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Registration:
    """None = not given: then the archive's model-config.yaml, `models={…}` and the defaults decide, in TorchServe's order.

    url               file in the model store, absolute path or URL; describe shows it as it was given
    max_batch_delay   milliseconds; response_timeout, startup_timeout in seconds
    initial_workers   0 = register without starting any
    synchronous       whether to return only when the workers are ready
    """

    url: str
    model_name: str | None = None
    runtime: str | None = None
    handler: str | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    initial_workers: int | None = None
    synchronous: bool = True
    response_timeout: int | None = None
    startup_timeout: int | None = None
    s3_sse_kms: bool = False

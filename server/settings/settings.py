"""`Settings`: everything the operator decided, from flags, the environment, `config.properties` and defaults, in that order.
Defaults are those of the file that JITNEY_DEFAULTS names, then jitney's own.

`JITNEY_<KEY>` sets any key. TorchServe's `TS_<KEY>` count where the file says `enable_envvars_config=true`, as there (which
lets them win over flags too; here the flag that was typed wins). `settings_unknown` says what becomes of names that no setting
has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import InvalidConfig
from . import grpc
from .addresses import Address
from .grpc import GrpcAddress, GrpcSettings
from .keys import MAX_BYTES
from .restrictions import Restrictions
from .sources import collect
from .trace import TraceConfig

#: Shortest token that JITNEY_TOKEN may hold.
MIN_TOKEN = 8


@dataclass(frozen=True)
class Settings:
    """The server's settings. Times in seconds unless the name says otherwise; paths are absolute, "" or None = not given.

    default_response_timeout, default_startup_timeout  of archives that say nothing; the first also of repository models
    repository_startup_timeout  default_startup_timeout where it was given, else longer: repositories hold large models too
    disable_token_authorization, enable_model_api   None = not said: see `token_auth` and `model_api`
    number_of_gpu     None = all that there are
    models            `models={…}`: name -> version -> the entry's values
    model_snapshot    the `model_snapshot` document to restore, which then replaces `load_models`
    kserve_address    a second address of the inference API, where KServe asks; the main process answers it
    write_snapshots   whether to write snapshots (not with --ncs)
    http_threads      requests that may wait in threads of the inference listener; max_waiting: those that wait without one
    max_held_bytes    of bodies and unread answers that all connections together may have the server hold
    front_ends        processes that answer the inference address; 1 = the main process itself. http_threads is of each of them
    status_page       on or off: /status and what it is made of, on the management port
    log_format        text, json, or ISO8601: text with such times; log_file: in place of the terminal
    access_log        files, or terminal: there too
    backend_config    tritonserver's: backend ("" = all) -> key -> value
    cache_config      bytes of the response cache, 0 = none
    trace_config      which requests are traced, and where traces go
    http_header_forward_pattern  regular expression: matching headers become parameters of KServe requests, "" = none
    http_restricted_api  group of routes -> header and value that its requests need
    server_id         what GET /v2 calls the server (tritonserver's --id)
    allow_client_shm  whether clients may register shared memory
    grpc              what concerns gRPC
    source            the file that was read, "" if none
    live              the properties in effect, as snapshots record them
    notes             sentences for the log: keys that have no meaning here
    warnings          the same of names that no setting has
    """

    inference_address: Address
    management_address: Address
    metrics_address: Address
    model_store: str | None = None
    workflow_store: str | None = None
    load_models: str = ""
    models: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    model_snapshot: Mapping[str, Any] | None = None
    default_workers_per_model: int = 0
    default_response_timeout: int = 120
    default_startup_timeout: int = 120
    repository_startup_timeout: int = 1200
    unregister_model_timeout: int = 120
    job_queue_size: int = 100
    number_of_gpu: int | None = None
    max_request_size: int = MAX_BYTES
    max_response_size: int = MAX_BYTES
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    default_service_handler: str = ""
    service_envelope: str = ""
    install_py_dep_per_model: bool = False
    allowed_urls: tuple[str, ...] = ()
    use_env_allowed_urls: bool = False
    blacklist_env_vars: str = ""
    metrics_config: str = ""
    metrics_mode: str = "log"
    model_metrics_auto_detect: bool = False
    enable_metrics_api: bool = True
    disable_system_metrics: bool = False
    metric_time_interval: int = 60
    cors_allowed_origin: str = ""
    cors_allowed_methods: str = ""
    cors_allowed_headers: str = ""
    keystore: str = ""
    keystore_pass: str = field(default="changeit", repr=False)
    keystore_type: str = "PKCS12"
    certificate_file: str = ""
    private_key_file: str = ""
    disable_token_authorization: bool | None = None
    token_expiration_min: float = 60.0
    enable_model_api: bool | None = None
    ts_open_inference_protocol: bool = False
    initial_worker_port: int = 9000
    enable_envvars_config: bool = False
    model_repository: tuple[str, ...] = ()
    kserve_address: Address | None = None
    http_threads: int = 128
    max_waiting: int = 2048
    max_held_bytes: int = 1 << 30
    front_ends: int = 1
    status_page: str = "on"
    log_format: str = "text"
    log_level: str = "info"
    log_file: str = ""
    access_log: str = "files"
    allow_private_urls: bool = False
    shape_change: str = "lane"
    fast_path: bool = True
    max_archive_bytes: int = 128 * 2**30
    max_archive_entries: int = 100_000
    max_archive_ratio: int = 100
    max_download_bytes: int = 64 * 2**30
    download_timeout: int = 600
    install_timeout: int = 1200
    model_control_mode: str = "none"
    load_model: tuple[str, ...] = ()
    repository_poll_secs: int = 15
    strict_readiness: bool = True
    exit_on_error: bool = True
    exit_timeout_secs: int = 30
    disable_auto_complete_config: bool = False
    backend_config: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cache_config: int = 0
    trace_config: TraceConfig = field(default_factory=TraceConfig)
    http_header_forward_pattern: str = ""
    http_restricted_api: Restrictions = field(default_factory=dict)
    model_config_name: str = ""
    server_id: str = "triton"
    allow_client_shm: bool = True
    grpc: GrpcSettings = field(default_factory=GrpcSettings)
    log_config: str = ""
    log_location: str = "logs"
    metrics_location: str = "logs"
    token: str = field(default="", repr=False)
    write_snapshots: bool = True
    source: str = ""
    live: Mapping[str, str] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, flags: Mapping[str, Any], environ: Mapping[str, str], cwd: str | Path = ".", *, strict: bool = True
    ) -> Settings:
        """Reads all sources. A flag of None or False was not given. InvalidConfig names source, key, value and what was
        expected. Unless `strict`, unknown keys of the file are warned of, as long as they cannot stand for one that guards
        access."""
        return cls(**collect(flags, environ, _absolute(cwd), strict=strict))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the inference and management APIs, over HTTP or gRPC."""
        return (
            self.inference_address.is_local
            and self.management_address.is_local
            and (self.kserve_address is None or self.kserve_address.is_local)
            and all(address.is_local for address in self.grpc_addresses)
        )

    @property
    def grpc_addresses(self) -> list[GrpcAddress]:
        """Where gRPC is to be served."""
        return grpc.addresses(self.grpc, triton=bool(self.model_repository), torchserve=bool(self.model_store))

    @property
    def replaces_triton(self) -> bool:
        """Whether it is tritonserver whose place is taken: models come from repositories only."""
        return bool(self.model_repository) and not self.model_store

    @property
    def token_auth(self) -> bool:
        """Whether requests need a token: as said; unsaid, where a token was given, or where other machines can come in."""
        if self.disable_token_authorization is not None:
            return not self.disable_token_authorization
        return bool(self.token) or not self.is_local

    @property
    def model_api(self) -> bool:
        """Whether models may be registered and unregistered: as said; unsaid, on a loopback management address only."""
        return self.management_address.is_local if self.enable_model_api is None else self.enable_model_api

    @property
    def held_bytes(self) -> int:
        """What one process of the server may hold: its share, but as much as one request and one answer may have in any case.

        What the response cache keeps is counted too, and has a limit of its own.
        """
        processes = self.front_ends + 1 if self.front_ends > 1 else 1
        processes += self.grpc.front_ends if self.grpc_addresses else 0
        least = self.max_request_size + self.max_response_size
        return max(self.max_held_bytes // processes, least) + self.cache_config

    @property
    def snapshot_folder(self) -> Path:
        return Path(self.log_location) / "config"


def _absolute(cwd: str | Path) -> Path:
    try:
        return Path(cwd).absolute()
    except OSError as error:
        raise InvalidConfig(f"the working directory cannot be used: {error.strerror}; change into one that exists") from None


def access_problems(settings: Settings) -> list[str]:
    """Why the server must not start: other machines could use or manage it and no setting says whether requests need tokens."""
    problems = []
    if settings.token and len(settings.token) < MIN_TOKEN:
        problems.append(f"JITNEY_TOKEN has {len(settings.token)} characters, expected at least {MIN_TOKEN}")
    if re.search(r"\s", settings.token):
        problems.append("JITNEY_TOKEN has blanks in it, which an Authorization header cannot carry")
    if settings.disable_token_authorization is not None or settings.token:
        return problems
    for key in ("inference_address", "management_address", "kserve_address"):
        bound: Address | None = getattr(settings, key)
        if bound is not None and not bound.is_local:
            problems.append(_unguarded(f"{key} {bound}"))
    problems += [_unguarded(f"{at.setting} {at}") for at in settings.grpc_addresses if not at.is_local]
    return problems


def _unguarded(bound: str) -> str:
    return (
        f"{bound} can be reached from other machines, and nothing says how requests are authorized. Set "
        "disable_token_authorization=false (tokens as TorchServe's, in key_file.json), or JITNEY_TOKEN in the "
        "environment, or start with --disable-token-auth where something else guards the port"
    )


def start_problems(settings: Settings) -> list[str]:
    """What is missing before models can be served, in the words of `torchserve`."""
    problems = []
    if not settings.model_store and not settings.model_repository:
        problems.append("Missing mandatory parameter --model-store")
    for flag, folder in (("model-store", settings.model_store), ("workflow-store", settings.workflow_store)):
        if folder and not Path(folder).is_dir():
            problems.append(_not_found(flag, folder))
    problems += [_not_found("model-repository", folder) for folder in settings.model_repository if not Path(folder).is_dir()]
    return problems


def _not_found(flag: str, folder: str) -> str:
    return f"--{flag} directory not found: {folder}{', which is a file' if Path(folder).is_file() else ''}"

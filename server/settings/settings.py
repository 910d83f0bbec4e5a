"""`Settings`: everything the operator decided, from flags, the environment, `config.properties` and defaults, in that order.
Defaults are those of the file that JITNEY_DEFAULTS names, then jitney's own.

`JITNEY_<KEY>` sets any key. TorchServe's `TS_<KEY>` count where the file says `enable_envvars_config=true`, as there (which
lets them win over flags too; here the flag that was typed wins). `settings_unknown` says what becomes of names that no setting
has.

The file is long since every setting has its field and its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import InvalidConfig
from ...core.model_config import SEQUENCE_HEADERS
from . import grpc
from .addresses import Address
from .grpc import GrpcAddress, GrpcSettings
from .keys import MAX_BYTES
from .restrictions import Restrictions
from .sources import collect
from .trace import TraceConfig


@dataclass(frozen=True)
class Settings:
    """The server's settings. Times in seconds unless the name says otherwise; paths are absolute, "" or None = not given.

    A line for each field, which docs/configuration.md repeats: its name, two blanks, what it means.

    inference_address  where predictions, health and KServe v2 are answered
    management_address  where models are registered, described and scaled, and where the status page is
    metrics_address  where /metrics is scraped; two listeners with one address are one
    model_store  folder of TorchServe archives, which registrations name by their file names
    workflow_store  accepted and checked to be a folder; workflows are not served
    load_models  archives to load at the start: all, or file names, each with a name before it or not (`m=a.mar`)
    models  `models={…}`: name -> version -> the entry's values: workers, batch size, delay, timeouts of archives
    model_snapshot  the document of a snapshot to restore, which then replaces `load_models`
    default_workers_per_model  workers of an archive that is loaded at the start; 0 = one for each GPU or core (`jitney serve`: 1)
    default_response_timeout  how long a worker may hold a batch in silence, of archives and models that say nothing
    default_startup_timeout  how long a worker may load an archive that says nothing; of repository models where it was given
    repository_startup_timeout  default_startup_timeout where it was given, else 1200: repositories hold large models too
    unregister_model_timeout  how long accepted requests of an unregistered version may take before it is closed
    job_queue_size  requests that may wait for one version of an archive
    number_of_gpu  how many GPUs archives may use; not given = all that there are
    max_request_size  bytes of the largest request body; not given = 64 MiB with a model repository, 6,553,500 otherwise
    max_response_size  bytes of a handler's largest answer; defaults as of max_request_size
    limit_max_image_pixels  whether Pillow refuses pictures with very many pixels in handlers
    decode_input_request  whether handlers get text and JSON decoded; false = bytes
    ipex_enable  whether handlers see TS_IPEX_ENABLE=true; those of the server do not use Intel's extension
    ipex_gpu_enable  whether handlers see TS_IPEX_GPU_ENABLE=true, and the server's take a GPU of Intel's
    default_service_handler  handler of archives that name none: a built-in one, or file:function
    service_envelope  request envelope of handlers: body, json, kserve, kservev2
    install_py_dep_per_model  whether an archive's requirements.txt is installed when it is registered
    allowed_urls  regular expressions of URLs that archives may be fetched from
    use_env_allowed_urls  whether TS_ALLOWED_URLS counts
    blacklist_env_vars  regular expression of environment variables that workers of archives do not get
    metrics_config  metrics.yaml that declares TorchServe's metrics; not given = TorchServe's own
    metrics_mode  prometheus, log or legacy; not given = log with a model store, prometheus otherwise
    model_metrics_auto_detect  whether metrics of handlers count that metrics.yaml does not declare
    enable_metrics_api  whether the metrics port is served
    disable_system_metrics  whether the machine's processor, memory and disk are left out of the metrics
    metric_time_interval  seconds between readings of the machine where they are logged
    cors_allowed_origin  origins that browsers may ask from, or *; not given = no CORS headers
    cors_allowed_methods  methods that a preflight allows
    cors_allowed_headers  headers that a preflight allows
    keystore  PKCS #12 file with the certificate of https addresses
    keystore_pass  its password
    keystore_type  its type
    certificate_file  PEM certificate and chain of https addresses, with private_key_file
    private_key_file  its private key, PEM
    disable_token_authorization  whether requests need no token; not said: see `token_auth`
    token_expiration_min  minutes until a key of key_file.json expires
    enable_model_api  whether models may be registered and unregistered; not said: on a loopback address only
    ts_open_inference_protocol  whether /v2 and its health answer in TorchServe's form
    ts_header_key_sequence_id  header that names a request's sequence, of archives with sequenceBatching
    ts_header_key_sequence_start  header with which a request says that it begins its sequence
    ts_header_key_sequence_end  header with which a request says that it ends its sequence
    initial_worker_port  the number with which ids of workers begin
    enable_envvars_config  whether TS_<KEY> variables of the environment count
    model_repository  folders of models in Triton's layout
    kserve_address  a second address of the inference API, where KServe asks; the main process answers it
    http_threads  requests that may wait in threads of the inference listener: streams, pictures, long JSON
    max_waiting  requests that may wait for models, of all together
    max_held_bytes  bytes of bodies and unread answers that all connections together may have the server hold
    worker_max_memory  bytes of memory of its own that a worker may have, 0 = any number
    worker_max_files  files that a worker may have open, 0 = as many as the server
    worker_sandbox  off; files = workers write below the temporary folder alone; network = and use no TCP: docs/security.md
    max_connections_per_address  connections of one client address to a port, 0 = any number
    front_ends  processes that answer the inference address, each with http_threads; 1 = the main process, auto: front-ends.md
    default_load  at_start or on_demand: when the workers of models start that say nothing of their own
    default_idle_timeout_s  how long a model that was loaded on demand may be without a request; 0 = until memory runs short
    max_loaded_bytes  what all models that were loaded on demand may take together; 0 = what the machine has
    log_format  text, json, or ISO8601: text with such times
    log_level  debug, info, warning, error or critical
    log_file  a file in place of the terminal
    access_log  files, or terminal: there too
    status_page  on or off: /status and what it is made of, on the management port
    allow_private_urls  whether archives may be fetched from loopback and private addresses
    shape_change  lane: an odd shape waits in a lane of its own; flush: it closes the batch before it, as in Triton
    fast_path  whether archives with the built-in image_classifier are decoded before the batch
    max_archive_bytes  bytes that an archive may unpack to
    max_archive_entries  files that an archive may hold
    max_archive_ratio  unpacked bytes for each packed one, of archives over 256 MiB
    max_download_bytes  bytes of an archive that is fetched
    download_timeout  how long fetching an archive may take
    install_timeout  how long installing an archive's requirements may take
    model_control_mode  who loads repository models after the start: none = nobody, poll = changed files, explicit = the API
    load_model  repository models to load at the start, with model_control_mode explicit
    repository_poll_secs  seconds between looks at the repository's files, with model_control_mode poll
    strict_readiness  whether /v2/health/ready asks for every model, not only for a running server
    exit_on_error  whether a model that fails at the start ends the server; not given = false with `jitney serve` or a model store
    exit_timeout_secs  how long accepted requests may take when the server is to end
    disable_auto_complete_config  whether configurations are taken as they are, without completion from model files
    backend_config  tritonserver's: backend ("" = all) -> key -> value
    backend_directory  folder with Python-based backends, each a folder with a model.py; "" = none
    cache_config  bytes of the response cache, 0 = none
    trace_config  which requests are traced, and where traces go
    http_header_forward_pattern  regular expression: matching headers become parameters of KServe requests, "" = none
    http_restricted_api  group of routes -> header and value that its requests need
    model_config_name  configs/NAME.pbtxt is read in place of config.pbtxt
    server_id  what GET /v2 calls the server (tritonserver's --id)
    allow_client_shm  whether clients may register shared memory
    grpc  what concerns gRPC
    log_config  Python's logging configuration (dictConfig), JSON or YAML
    log_location  folder of log files and snapshots, from LOG_LOCATION
    metrics_location  folder of metrics' log files, from METRICS_LOCATION
    token  from JITNEY_TOKEN: what `Authorization: Bearer` has to carry
    write_snapshots  whether to write snapshots (not with --ncs)
    source  the file that was read, "" if none
    live  the properties in effect, as snapshots record them
    notes  sentences for the log: keys that have no meaning here
    warnings  the same of names that no setting has
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
    ipex_enable: bool = False
    ipex_gpu_enable: bool = False
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
    ts_header_key_sequence_id: str = SEQUENCE_HEADERS[0]
    ts_header_key_sequence_start: str = SEQUENCE_HEADERS[1]
    ts_header_key_sequence_end: str = SEQUENCE_HEADERS[2]
    initial_worker_port: int = 9000
    enable_envvars_config: bool = False
    model_repository: tuple[str, ...] = ()
    kserve_address: Address | None = None
    http_threads: int = 128
    max_waiting: int = 2048
    max_held_bytes: int = 1 << 30
    worker_max_memory: int = 0
    worker_max_files: int = 0
    worker_sandbox: str = "off"
    max_connections_per_address: int = 0
    front_ends: int = 1
    status_page: str = "on"
    log_format: str = "text"
    log_level: str = "info"
    log_file: str = ""
    access_log: str = "files"
    allow_private_urls: bool = False
    shape_change: str = "lane"
    fast_path: bool = True
    default_load: str = "at_start"
    default_idle_timeout_s: float = 0.0
    max_loaded_bytes: int = 0
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
    backend_directory: str = ""
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
    def sequence_headers(self) -> tuple[str, str, str]:
        """The headers of stateful requests: which sequence, whether it begins, whether it ends."""
        return self.ts_header_key_sequence_id, self.ts_header_key_sequence_start, self.ts_header_key_sequence_end

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
    def archives_only(self) -> bool:
        """Whether it is TorchServe whose place is taken: models come from archives only."""
        return bool(self.model_store) and not self.model_repository

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
    def connections_per_address(self) -> int:
        """Connections that one address may have to one process that answers the inference address: its share, rounded up."""
        return -(-self.max_connections_per_address // max(self.front_ends, 1))

    @property
    def snapshot_folder(self) -> Path:
        return Path(self.log_location) / "config"


def _absolute(cwd: str | Path) -> Path:
    try:
        return Path(cwd).absolute()
    except OSError as error:
        raise InvalidConfig(f"the working directory cannot be used: {error.strerror}; change into one that exists") from None

"""The application: a deployment of replicas, each an actor with a jitney, and the ingress in front of them."""

import asyncio
import logging
import os
import shlex
import threading
import time
from typing import Any, Literal

import ray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from ..server_process import ServerProcess, free_ports
from . import scaling
from .balancer import Balancer
from .directory import Directory
from .ingress import Ingress
from .record import Record, from_status
from .status import get_json, is_ready

#: From leaving the directory to the end: every ingress has looked by then.
_LEAVE_SECONDS = 1.5
_HEARTBEAT_SECONDS = 1.0
_LOOK_SECONDS = 0.25
_FORGET_SECONDS = 60.0
_LOG = logging.getLogger("ray.serve")


class Options(BaseModel):
    """What `serve run jitney.deploy.ray:app KEY=VALUE…` and `args:` of a configuration may say."""

    model_config = ConfigDict(extra="forbid")

    model_repository: str = Field("", description="folder of models, on every node; several are separated by commas")
    model_store: str = Field("", description="folder of TorchServe archives, on every node")
    flags: str = Field("", description="more flags of `jitney serve`")
    num_replicas: int | Literal["auto"] = Field(1, description="how many, or auto: min_replicas to max_replicas")
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(8, ge=1)
    target_ongoing_requests: float = Field(0, ge=0, description="for each replica; 0 is one full batch")
    upscale_delay_s: float = Field(10, ge=0)
    downscale_delay_s: float = Field(300, ge=0)
    num_cpus: float = Field(1, ge=0)
    num_gpus: float = Field(0, ge=0)
    resources: dict[str, float] = Field(default_factory=dict, description="Ray's custom resources of each replica")
    ingress_replicas: int = Field(1, ge=1)
    idempotent: str = Field("", description="models that may run a request twice beside those of tensor backends; * for all")
    start_timeout_s: float = Field(600, gt=0)
    drain_timeout_s: float = Field(30, ge=0)
    wait_for_replica_s: float = Field(30, ge=0, description="how long a request waits where no replica is up")
    frozen_after_s: float = Field(5, gt=0, description="a replica that leaves a ping unanswered for so long is passed over")

    @model_validator(mode="after")
    def _complete(self) -> "Options":
        if not self.model_repository and not self.model_store:
            raise ValueError("expected model_repository=FOLDER, model_store=FOLDER or both")
        if isinstance(self.num_replicas, int) and self.num_replicas < 1:
            raise ValueError(f"expected num_replicas of 1 or more, or auto; got {self.num_replicas}")
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas is {self.min_replicas}, above max_replicas, {self.max_replicas}")
        return self

    def arguments(self) -> list[str]:
        """Of `jitney serve`, but for its addresses."""
        stores = ["--model-store", self.model_store] if self.model_store else []
        repositories = [
            part for name in filter(None, self.model_repository.split(",")) for part in ("--model-repository", name)
        ]
        return [*repositories, *stores, "--exit-timeout-secs", str(int(self.drain_timeout_s)), *shlex.split(self.flags)]


class Replica:
    """An actor that starts a jitney, tells the ingresses of it, and ends it."""

    def __init__(self, options: Options) -> None:
        context = serve.get_replica_context()
        self._options, self._name = options, context.replica_tag
        self._directory = Directory(context.app_name)
        self._host = ray.util.get_node_ip_address()
        (self._port, self._metrics), (self._management,) = free_ports(self._host, 2), free_ports("127.0.0.1", 1)
        self._server = ServerProcess([*options.arguments(), *self._addresses()], os.environ)
        self._leaving, self._lock = threading.Event(), threading.Lock()
        self._server.wait_started(options.start_timeout_s)
        self._record, self._told = self._look(), 0.0
        self._put(self._record)
        threading.Thread(target=self._tell, name="heartbeat", daemon=True).start()

    def _addresses(self) -> list[str]:
        addresses = ["--http-address", self._host, "--http-port", str(self._port)]
        addresses += ["--management-port", str(self._management)]
        addresses += ["--metrics-address", self._host, "--metrics-port", str(self._metrics), "--allow-grpc", "false"]
        # What guards a Ray cluster is its network: Ray's own ports ask for no token either.
        return addresses if os.environ.get("JITNEY_TOKEN") else [*addresses, "--disable-token-auth"]

    # What Ray calls

    def check_health(self) -> None:
        """Raises what is wrong; Ray replaces a replica that says so three times."""
        if self._leaving.is_set():
            return
        self._server.check()
        if not is_ready(f"http://{self._host}:{self._port}/v2/health/ready"):
            raise RuntimeError("GET /v2/health/ready of this replica's jitney is not 200")

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {scaling.ONGOING: float(self._record.ongoing), scaling.ROOM: float(self._record.room)}

    async def __del__(self) -> None:
        if not hasattr(self, "_leaving"):  # the constructor failed
            return
        await asyncio.to_thread(self._leave)
        await asyncio.sleep(_LEAVE_SECONDS)
        await asyncio.to_thread(self._server.stop, self._options.drain_timeout_s + 5)

    def _leave(self) -> None:
        with self._lock:  # nothing is put after it
            self._leaving.set()
        self._directory.remove(self._name)

    # The heartbeat's thread

    def _tell(self) -> None:
        while not self._leaving.wait(_HEARTBEAT_SECONDS):
            try:
                if self._server.ended:  # `check_health` says so, too
                    return self._directory.remove(self._name)
                before, self._record = self._record, self._look()
                if self._record.ready != before.ready or time.monotonic() > self._told + 5 * _HEARTBEAT_SECONDS:
                    self._put(self._record)
            except Exception as error:  # noqa: BLE001 - Ray's head node, or the server: ingresses see by themselves who answers
                _LOG.warning("This replica could not tell of itself: %s", error)
        return None

    def _put(self, record: Record) -> None:
        with self._lock:
            if not self._leaving.is_set():
                self._directory.put(self._name, record)
                self._told = time.monotonic()

    def _look(self) -> Record:
        status = get_json(f"http://127.0.0.1:{self._management}/status.json", os.environ.get("JITNEY_TOKEN"))
        declared = [name.strip() for name in self._options.idempotent.split(",") if name.strip()]
        return from_status(status, self._host, self._port, self._metrics, declared)


class IngressReplica:
    """What Ray runs of the ingress. `replicas` is not asked by way of Ray: it makes them part of the application."""

    def __init__(self, replicas: Any, options: Options) -> None:
        self._directory = Directory(serve.get_replica_context().app_name)
        self._options = options

    def __serve_build_asgi_app__(self) -> Any:
        balancer = Balancer(self._options.frozen_after_s)
        ingress, tasks = Ingress(balancer, self._options.wait_for_replica_s), list[asyncio.Task[None]]()

        async def answer(scope: Any, receive: Any, send: Any) -> None:  # uvicorn wants a function
            if not tasks:  # the first call is the lifespan's, on the loop that answers
                tasks.extend((asyncio.create_task(self._watch(balancer)), asyncio.create_task(self._ping(balancer))))
            await ingress(scope, receive, send)

        return answer

    async def _watch(self, balancer: Balancer) -> None:
        while True:
            try:
                balancer.update(await asyncio.to_thread(self._directory.all))
            except Exception:  # noqa: BLE001 - whatever Ray's head node has: the replicas that are known go on
                _LOG.exception("The list of replicas cannot be read; the last one holds.")
                await asyncio.sleep(1)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _ping(self, balancer: Balancer) -> None:
        while True:
            await balancer.ping_all()
            for name in balancer.gone(
                _FORGET_SECONDS
            ):  # an actor that was killed could not do it; one that lives comes back
                await asyncio.to_thread(self._directory.remove, name)
            await asyncio.sleep(max(0.5, len(balancer.targets) / 100))


def app(options: Options) -> Any:
    """The application that `serve run` and `serve deploy` build."""
    scale: dict[str, Any] = {"num_replicas": options.num_replicas}
    if options.num_replicas == "auto":
        policy = AutoscalingPolicy(
            policy_function=f"{scaling.__name__}:OngoingRequests", policy_kwargs={"target": options.target_ongoing_requests}
        )
        scale = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=options.min_replicas, max_replicas=options.max_replicas, policy=policy,
                upscale_delay_s=options.upscale_delay_s, downscale_delay_s=options.downscale_delay_s, look_back_period_s=15,
            )
        }  # fmt: skip
    resources = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus, "resources": options.resources}
    replicas = serve.deployment(Replica).options(
        name="jitney", ray_actor_options=resources, health_check_period_s=2, health_check_timeout_s=10,
        graceful_shutdown_timeout_s=options.drain_timeout_s + 15, **scale,
    )  # fmt: skip
    ingress = serve.deployment(serve.ingress()(IngressReplica)).options(
        name="ingress", num_replicas=options.ingress_replicas, max_ongoing_requests=100_000,
        ray_actor_options={"num_cpus": min(1.0, options.num_cpus)},
        health_check_period_s=2, health_check_timeout_s=10,
        logging_config={"enable_access_log": False},  # each jitney has its own
    )  # fmt: skip
    return ingress.bind(replicas.bind(options), options)

"""Small real backends, named by the `factory` of a pool, that run in real worker processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jitney.backends.base import Backend, DeviceLost, Launched
from jitney.core.model_config import ModelConfig
from jitney.core.request import Failure, Instance, Request, Respond, Response
from jitney.core.tensor import Tensor


def factory(name: str) -> str:
    return f"jitney.tests.fakes.worker_backends:{name}"


class Obedient(Backend):
    """Does what the request's parameter `do` says; without one it sends tensors and parts back as they came."""

    model: ModelConfig
    instance: Instance

    def load(self, model: ModelConfig, instance: Instance) -> None:
        self.model, self.instance = model, instance

    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        for index, request in enumerate(requests):
            do = str(request.parameters.get("do", "echo"))
            getattr(self, f"do_{do}")(index, request, respond)

    def do_echo(self, index: int, request: Request, respond: Respond) -> None:
        tensors = [Tensor(t.name, t.datatype, t.shape, t.data) for t in request.tensors]
        body = b"".join(bytes(part.data) for part in request.parts) if request.parts else None
        parameters: dict[str, str | int | float | bool] = {
            "rows": request.rows,
            "batch_id": request.id,
            "outputs": ",".join(request.outputs),
        }
        names = ";".join(f"{part.name}={part.content_type}" for part in request.parts)
        headers = {"parts": names, **request.headers}
        respond(index, Response(tensors, body, 201, "Done", headers, parameters))

    def do_who(self, index: int, request: Request, respond: Respond) -> None:
        torch = "torch" in sys.modules or "falcon" in sys.modules or "psutil" in sys.modules
        facts: dict[str, str | int | float | bool] = {"pid": os.getpid(), "name": self.instance.name}
        facts |= {"threads": self.instance.threads, "heavy": torch}
        facts["omp"], facts["model_variable"] = os.environ["OMP_NUM_THREADS"], os.environ.get("MODEL_VARIABLE", "")
        respond(index, Response(parameters=facts))

    def do_write(self, index: int, request: Request, respond: Respond) -> None:
        """Changes its input in place, as handlers do."""
        request.tensors[0].numpy()[...] += 1
        self.do_echo(index, request, respond)

    def do_refuse(self, index: int, request: Request, respond: Respond) -> None:
        respond(index, Response(error=Failure("not this one", "INVALID_ARG", by_model=True)))

    def do_raise(self, index: int, request: Request, respond: Respond) -> None:
        raise ZeroDivisionError("as asked")

    def do_exhaust(self, index: int, request: Request, respond: Respond) -> None:
        raise MemoryError("no more")

    def do_lose(self, index: int, request: Request, respond: Respond) -> None:
        raise DeviceLost("illegal access")

    def do_nothing(self, index: int, request: Request, respond: Respond) -> None:
        pass

    def do_twice(self, index: int, request: Request, respond: Respond) -> None:
        self.do_echo(index, request, respond)
        self.do_echo(index, request, respond)

    def do_nonsense(self, index: int, request: Request, respond: Respond) -> None:
        respond(index, Response([Tensor("y", "FP32", (3,), b"1234")]))

    def do_object(self, index: int, request: Request, respond: Respond) -> None:
        respond(index, Response(headers={"x": object()}))  # type: ignore[dict-item]

    def do_wrong_type(self, index: int, request: Request, respond: Respond) -> None:
        respond(index, Response(reason=7))  # type: ignore[arg-type]

    def do_large(self, index: int, request: Request, respond: Respond) -> None:
        array = np.full(int(request.parameters["count"]), float(request.parameters["value"]), np.float32)
        respond(index, Response([Tensor.from_numpy("y", array)]))
        array[:] = -1  # the answer must have been taken before `respond` returned

    def do_die(self, index: int, request: Request, respond: Respond) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def do_crash(self, index: int, request: Request, respond: Respond) -> None:
        ctypes.string_at(0)

    def do_die_once(self, index: int, request: Request, respond: Respond) -> None:
        if not Path(str(request.parameters["mark"])).exists():
            _mark(request)
            self.do_die(index, request, respond)
        self.do_echo(index, request, respond)

    def do_exit(self, index: int, request: Request, respond: Respond) -> None:
        sys.exit(3)

    def do_hang(self, index: int, request: Request, respond: Respond) -> None:
        _mark(request)
        threading.Event().wait()

    def do_wait(self, index: int, request: Request, respond: Respond) -> None:
        """Announces itself, and goes on when the file in `until` exists."""
        _mark(request)
        _wait_for(Path(str(request.parameters["until"])))
        self.do_who(index, request, respond)

    def do_print(self, index: int, request: Request, respond: Respond) -> None:
        print("READY Torch worker started.")
        print('["Loaded"] {"done": true}', flush=True)
        print("x" * 100_000)
        sys.stderr.write("a warning without an end of line")
        self.do_who(index, request, respond)

    def do_stream(self, index: int, request: Request, respond: Respond) -> None:
        for n in range(int(request.parameters["count"])):
            size = int(request.parameters.get("size", 1))
            respond(index, Response(body=bytes([n % 256]) * size, final=False))
            time.sleep(float(request.parameters.get("pause", 0)))
        respond(index, Response(body=b"end"))

    def do_half(self, index: int, request: Request, respond: Respond) -> None:
        respond(index, Response(body=b"hello", final=False))

    def do_forever(self, index: int, request: Request, respond: Respond) -> None:
        """Streams until nobody listens any more."""
        while not request.is_cancelled():
            respond(index, Response(body=b"more", final=False))
        respond(index, Response(body=b"end"))

    def do_forever_later(self, index: int, request: Request, respond: Respond) -> None:
        """The same from another thread, after `execute` returned (decoupled models)."""
        threading.Thread(target=self.do_forever, args=(index, request, respond), daemon=True).start()

    def do_listen(self, index: int, request: Request, respond: Respond) -> None:
        """Says nothing until it is cancelled."""
        _mark(request)
        while not request.is_cancelled():
            time.sleep(0.001)
        respond(index, Response(body=b"heard"))

    def do_later(self, index: int, request: Request, respond: Respond) -> None:
        """Answers from another thread after `execute` returned (decoupled models)."""

        def answer() -> None:
            _wait_for(Path(str(request.parameters["until"])))
            respond(index, Response(body=b"first", final=False))
            respond(index, Response(request.tensors))

        threading.Thread(target=answer, daemon=True).start()

    def do_emit(self, index: int, request: Request, respond: Respond) -> None:
        self.host.emit("metric", {"name": "Loss", "value": 0.5})
        respond(index, Response(body=b"emitted"))

    def do_ask(self, index: int, request: Request, respond: Respond) -> None:
        """Sends its tensors to the model named `of` and passes its answers on."""
        other = Request(tensors=request.tensors, rows=request.rows)
        for response in self.host.infer(str(request.parameters["of"]), "", other):
            respond(index, response)

    def do_peek(self, index: int, request: Request, respond: Respond) -> None:
        """Takes the first answer of another model and wants no more."""
        answers = self.host.infer(str(request.parameters["of"]), "", Request())
        first = next(answers)
        answers.close()  # type: ignore[attr-defined]
        respond(index, Response(body=first.body))

    def do_control(self, index: int, request: Request, respond: Respond) -> None:
        value = self.host.control("is_ready", "other", {"deep": [1, 2]})
        respond(index, Response(parameters={"ready": value}))


def _mark(request: Request) -> None:
    if "mark" in request.parameters:
        Path(str(request.parameters["mark"])).write_text(str(os.getpid()))


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.002)


class Unloadable(Obedient):
    """Refuses to load while the file named by the parameter `broken` exists; counts its attempts in `attempts`."""

    def load(self, model: ModelConfig, instance: Instance) -> None:
        with Path(model.parameters["attempts"]).open("a") as attempts:
            attempts.write("x")
        if Path(model.parameters["broken"]).exists():
            raise FileNotFoundError("weights are missing")
        super().load(model, instance)


class Clumsy(Obedient):
    """Its process ends in the middle of loading."""

    def load(self, model: ModelConfig, instance: Instance) -> None:
        sys.stderr.write("last words\n")
        sys.stderr.flush()
        os._exit(5)


class Quitter(Obedient):
    """A script that calls sys.exit while it is imported."""

    def load(self, model: ModelConfig, instance: Instance) -> None:
        sys.exit("cannot go on")


class Endless(Obedient):
    """Never finishes loading."""

    def load(self, model: ModelConfig, instance: Instance) -> None:
        threading.Event().wait()


class Stubborn(Obedient):
    """Never finishes unloading, and keeps a thread that is no daemon."""

    def load(self, model: ModelConfig, instance: Instance) -> None:
        super().load(model, instance)
        threading.Thread(target=threading.Event().wait).start()

    def unload(self) -> None:
        threading.Event().wait()


class Tidy(Obedient):
    """Leaves a file when it is unloaded, although a thread that is no daemon is still running."""

    def load(self, model: ModelConfig, instance: Instance) -> None:
        super().load(model, instance)
        threading.Thread(target=threading.Event().wait).start()

    def unload(self) -> None:
        Path(self.model.parameters["unloaded"]).write_text("yes")


class Fertile(Obedient):
    """Forks a process that outlives it and holds on to its pipes (as data loaders do)."""

    def load(self, model: ModelConfig, instance: Instance) -> None:
        super().load(model, instance)
        child = os.fork()
        if child == 0:
            with Path(model.parameters["forked"]).open("a") as forked:
                forked.write(f"{os.getpid()}\n")
            signal.pause()
            os._exit(0)


class Launcher(Obedient):
    """Has a device: a batch is executed when it is ended, and over when the file in its first request's `until` exists."""

    def begin(self, requests: Sequence[Request], respond: Respond) -> Launched:
        for request in requests:
            if "begun" in request.parameters:
                Path(str(request.parameters["begun"])).write_text("")
            if request.parameters.get("do") == "fall":
                self.do_die(0, request, respond)
        return OnDevice(self, requests, respond)


class OnDevice(Launched):
    def __init__(self, backend: Backend, requests: Sequence[Request], respond: Respond) -> None:
        self._backend, self._requests, self._respond = backend, requests, respond
        self._until = requests[0].parameters.get("until")

    def is_over(self) -> bool:
        return self._until is None or Path(str(self._until)).exists()

    def end(self) -> None:
        if self._until is not None:
            _wait_for(Path(str(self._until)))
        self._backend.execute(self._requests, self._respond)


def obedient(config: ModelConfig) -> Backend:
    return Obedient()


def launcher(config: ModelConfig) -> Backend:
    return Launcher()


def unloadable(config: ModelConfig) -> Backend:
    return Unloadable()


def clumsy(config: ModelConfig) -> Backend:
    return Clumsy()


def quitter(config: ModelConfig) -> Backend:
    return Quitter()


def endless(config: ModelConfig) -> Backend:
    return Endless()


def stubborn(config: ModelConfig) -> Backend:
    return Stubborn()


def tidy(config: ModelConfig) -> Backend:
    return Tidy()


def fertile(config: ModelConfig) -> Backend:
    return Fertile()

"""A CUDA device made of the CPU's memory, whose copies happen as late as CUDA allows: torch's side of a GPU without one.

    pytest -p jitney.tests.fakes.late_device -m gpu tests/backends

What it is strict about:

* a copy with non_blocking=True happens when its stream is waited for; until then the target holds garbage, and what is read from
  page-locked memory is what lies there at that late moment
* kernels see only copies of streams that their own stream waits for
* an operation on a host tensor and a device tensor raises, and so does `.numpy()` of a device tensor
* a graph replays the recorded kernels on its fixed addresses; looking at a value while capturing raises
* an index out of bounds is a device-side assert: from then on every operation and every synchronize raises

What it does not know: speed, sizes of memory, kernels' numerics, cuDNN, ONNX Runtime's CUDA provider, a TorchScript module's
kernels inside a graph. Installed for a whole process: tests start one.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: What happened: kinds of copies, kernels, waits, captures.
COUNTS: Counter[str] = Counter()

#: After so many an event is over, though nobody waited for it.
QUESTIONS = 5

_CPU = torch.device("cpu")
_NO_MODES: Any = torch._C.DisableTorchFunction
_to, _copy = torch.Tensor.to, torch.Tensor.copy_
_on_card: dict[int, Any] = {}  # storages that lie on the device, kept so that their addresses stay theirs
_locked: list[tuple[int, int, Any]] = []  # start, bytes and tensor of page-locked memory
_broken: list[bool] = []
_capturing: list[Any] = []


def cuda_error(text: str, code: int) -> Exception:
    made: Any = torch.AcceleratorError(f"CUDA error: {text}")
    made.error_code = code
    return made  # type: ignore[no-any-return]


# -- streams -------------------------------------------------------------------------------------------------------------


class _Step:
    """Something that a stream does once, when it is waited for. What came before it is done then."""

    running = 0

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action, self.done = action, False

    def run(self) -> None:
        if not self.done:
            self.done = True
            _Step.running += 1
            with _NO_MODES(), torch.inference_mode():
                self._action()
            _Step.running -= 1


class Stream:
    everyone: list[Stream] = []  # noqa: RUF012 - of the process, like CUDA's

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.steps: list[_Step] = []
        Stream.everyone.append(self)

    def push(self, action: Callable[[], Any]) -> None:
        self.steps.append(_Step(action))

    def flush(self) -> None:
        if _Step.running:
            return
        steps, self.steps = self.steps, []
        for step in steps:
            step.run()

    def wait_stream(self, other: Stream) -> None:
        COUNTS["wait_stream"] += 1
        before = list(other.steps)
        self.push(lambda: [step.run() for step in before])

    def synchronize(self) -> None:
        COUNTS["stream.synchronize"] += 1
        self.flush()

    def query(self) -> bool:
        return not self.steps


class Event:
    """Is over when it is waited for, or has been asked for often enough."""

    def __init__(self, **_: Any) -> None:
        self._steps: list[_Step] = []
        self._asked = 0

    def record(self, stream: Stream) -> None:
        self._steps = list(stream.steps)

    def query(self) -> bool:
        if _broken:
            raise cuda_error("device-side assert triggered", 710)
        COUNTS["query"] += 1
        self._asked += 1
        if self._asked >= QUESTIONS:
            self._run()
        return all(step.done for step in self._steps)

    def synchronize(self) -> None:
        COUNTS["event.synchronize"] += 1
        if _broken:
            raise cuda_error("device-side assert triggered", 710)
        self._run()

    def _run(self) -> None:
        for step in self._steps:
            step.run()


_current = [Stream()]


@contextlib.contextmanager
def _stream(stream: Stream) -> Iterator[None]:
    _current.append(stream)
    try:
        yield
    finally:
        _current.pop()


def _synchronize(device: Any = None) -> None:
    COUNTS["synchronize"] += 1
    if _capturing:
        raise cuda_error("operation not permitted when stream is capturing", 900)
    if _broken:
        raise cuda_error("device-side assert triggered", 710)
    for stream in Stream.everyone:
        stream.flush()


# -- memory --------------------------------------------------------------------------------------------------------------


def _is_on_card(tensor: torch.Tensor) -> bool:
    with _NO_MODES():
        try:
            return tensor.untyped_storage().data_ptr() in _on_card
        except (RuntimeError, NotImplementedError):
            return False


def _put_on_card(value: Any) -> Any:
    for tensor in _tensors(value):
        with _NO_MODES():
            storage = tensor.untyped_storage()
            if storage.data_ptr():
                _on_card.setdefault(storage.data_ptr(), storage)
    return value


def _is_locked(tensor: torch.Tensor) -> bool:
    with _NO_MODES():
        at = tensor.data_ptr()
    return any(start <= at < start + size for start, size, _ in _locked)


def _spoil(tensor: torch.Tensor) -> None:
    """What lies in memory that nothing has been copied to yet."""
    with torch.inference_mode(), _NO_MODES():
        if tensor.numel() and tensor.is_contiguous():
            if tensor.dtype is torch.bool:
                tensor.fill_(True)
            else:
                tensor.view(-1).view(torch.uint8).fill_(0xEE)


def _is_cuda(device: Any) -> bool:
    return str(device).split(":")[0] == "cuda" if isinstance(device, str | torch.device) else False


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, tuple | list) else []


def _moved(tensor: torch.Tensor, arguments: list[Any], options: dict[str, Any]) -> torch.Tensor:
    """`Tensor.to`."""
    late, target = options.pop("non_blocking", False), options.pop("device", None)
    if arguments and isinstance(arguments[0], torch.device | str):
        target = arguments.pop(0)
    if arguments and isinstance(arguments[-1], bool):  # Module.to: device, dtype or None, non_blocking
        late = arguments.pop()
    arguments = [each for each in arguments if each is not None]
    with _NO_MODES():
        here = _is_on_card(tensor)
        leaves = target is not None and not _is_cuda(target)
        if here and (arguments or options or (leaves and not late)):
            _current[-1].flush()
        found = _to(tensor, *arguments, **options) if arguments or options else tensor
        if target is None or _is_cuda(target) == here:
            return _put_on_card(found) if here else found
        return _to_card(tensor, found, late) if _is_cuda(target) else _to_host(found, late)


def _to_card(tensor: torch.Tensor, found: torch.Tensor, late: bool) -> torch.Tensor:
    COUNTS["to the card, page-locked" if _is_locked(tensor) else "to the card, pageable"] += 1
    there: torch.Tensor = _put_on_card(torch.empty_like(found))
    if late and _is_locked(tensor):
        _spoil(there)
        _current[-1].push(lambda: there.copy_(found))
    else:
        _current[-1].flush()
        with torch.inference_mode():
            there.copy_(found)
    return there


def _to_host(found: torch.Tensor, late: bool) -> torch.Tensor:
    COUNTS["to the host"] += 1
    if _capturing:
        raise cuda_error("operation not permitted when stream is capturing", 900)
    host = torch.empty_like(found)
    if late:
        _spoil(host)
        _current[-1].push(lambda: host.copy_(found))
    else:
        with torch.inference_mode():
            host.copy_(found)
    return host


def _copied(target: torch.Tensor, source: torch.Tensor, late: bool = False) -> torch.Tensor:
    """`Tensor.copy_`."""
    with _NO_MODES():
        to_card = _is_on_card(target)
        if late and to_card != _is_on_card(source) and _is_locked(source if to_card else target):
            COUNTS["late copy"] += 1
            if to_card:
                _spoil(target)
            _current[-1].push(lambda: _copy(target, source))
            return target
        _current[-1].flush()
        with torch.inference_mode() if target.is_inference() else contextlib.nullcontext():
            return _copy(target, source)


# -- kernels -------------------------------------------------------------------------------------------------------------

#: Questions about a tensor, which are no kernels.
_PLAIN = frozenset(
    (
        "__get__", "__set__", "dim", "size", "stride", "numel", "is_contiguous", "is_floating_point", "untyped_storage",
        "data_ptr", "element_size", "requires_grad_", "storage_offset", "is_complex", "type", "__len__", "__repr__",
        "__format__", "__hash__", "is_inference", "_has_compatible_shallow_copy_type", "backward_hooks", "__deepcopy__",
        "view", "detach", "_version",
    )
)  # fmt: skip


def _is_plain(name: str, args: Any, options: dict[str, Any]) -> bool:
    """Whether nothing is computed: a question, or the same memory seen otherwise."""
    if name == "contiguous" and not options:
        with _NO_MODES():
            return bool(args[0].is_contiguous())
    return name in _PLAIN or (name == "__getitem__" and isinstance(args[1], slice))


#: Kernels that take tensors of both sides.
_ACROSS = frozenset({"allclose", "assert_close", "swap_tensors"})


class _Device(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        special = self._special(func, args, options)
        if special is not None:
            return special()
        return self._kernel(func, args, options)

    def _special(self, func: Any, args: Any, options: dict[str, Any]) -> Callable[[], Any] | None:
        """Copies, and questions about where a tensor lies."""
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return lambda: _is_on_card(args[0])
        if func == torch.Tensor.device.__get__:
            return lambda: torch.device("cuda:0") if _is_on_card(args[0]) else func(*args)
        if func is torch.Tensor.is_pinned:
            return lambda: _is_locked(args[0])
        if func is torch.Tensor.to:
            return lambda: _moved(args[0], list(args[1:]), options)
        if func in (torch.Tensor.cuda, torch.Tensor.cpu):
            return lambda: _moved(args[0], ["cuda" if func is torch.Tensor.cuda else "cpu"], {})
        if func is torch.Tensor.copy_:
            return lambda: _copied(args[0], args[1], options.get("non_blocking", args[2] if len(args) > 2 else False))
        if func is torch.Tensor.numpy and _is_on_card(args[0]):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory"
            )
        if _is_plain(getattr(func, "__name__", ""), args, options):
            return lambda: func(*args, **options)
        return None

    def _kernel(self, func: Any, args: Any, options: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        makes = _is_cuda(options.get("device"))
        if makes:
            options["device"] = _CPU
        lock = options.pop("pin_memory", False)
        sides = {_is_on_card(tensor) for tensor in _tensors([args, options]) if tensor.dim() > 0}
        if len(sides) == 2 and name not in _ACROSS:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found two, cuda:0 and cpu! ({name})")
        here = makes or True in sides
        found = self._run_here(func, args, options) if here else func(*args, **options)
        if lock and isinstance(found, torch.Tensor):
            with _NO_MODES():
                _locked.append((found.data_ptr(), found.numel() * found.element_size(), found))
        elif here:
            _put_on_card(found)
            if makes and name == "empty_like":
                _spoil(found)
        return found

    def _run_here(self, func: Any, args: Any, options: dict[str, Any]) -> Any:
        if _broken:
            raise cuda_error("device-side assert triggered", 710)
        _current[-1].flush()
        COUNTS["kernel"] += 1
        try:
            return func(*args, **options)
        except IndexError as error:
            _broken.append(True)
            raise cuda_error("device-side assert triggered", 710) from error
        except RuntimeError as error:
            if "DefaultCPUAllocator" in str(error):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate too much.") from None
            raise


def queued(compute: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Has the device come to the kernels of `compute` as late as to copies; their shapes must not depend on values."""

    alike: dict[Any, dict[str, Any]] = {}  # outputs for inputs of these shapes

    def later(tensors: dict[str, Any]) -> dict[str, Any]:
        with _NO_MODES():
            shapes = tuple((name, value.shape) for name, value in tensors.items())
            known = alike[shapes] if shapes in alike else alike.setdefault(shapes, compute(tensors))
            outputs = {name: torch.empty_like(value) for name, value in known.items()}
        for value in outputs.values():
            _put_on_card(value)
            _spoil(value)
        _current[-1].push(lambda: [_copy(outputs[name], value) for name, value in compute(tensors).items()])
        return outputs

    return later


# -- graphs --------------------------------------------------------------------------------------------------------------


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            raise cuda_error("operation not permitted when stream is capturing", 900)
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found


class _Graph:
    calls: list[tuple[Any, Any, Any, Any]]

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def replay(self) -> None:
        COUNTS["replay"] += 1
        _current[-1].flush()
        with _NO_MODES(), torch.inference_mode():
            for func, args, options, found in self.calls:
                for old, new in zip(_tensors(found), _tensors(func(*args, **options)), strict=True):
                    if old is not new and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class _Capture:
    def __init__(self, graph: _Graph, pool: Any = None) -> None:
        self._graph, self._tape = graph, _Tape()

    def __enter__(self) -> None:
        _synchronize()
        COUNTS["capture"] += 1
        self._tape.__enter__()  # type: ignore[no-untyped-call]
        _capturing.append(self)

    def __exit__(self, *error: Any) -> None:
        _capturing.pop()
        self._tape.__exit__(*error)  # type: ignore[no-untyped-call]
        self._graph.calls = self._tape.calls


# -- installing ----------------------------------------------------------------------------------------------------------


def install() -> None:
    """Makes it the device of this process, for good."""
    cuda: Any = torch.cuda
    cuda.is_available = cuda.is_initialized = lambda: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.set_device = lambda device: None
    cuda.get_device_name = lambda device=None: "a late device"
    cuda.get_device_capability = lambda device=None: (9, 0)
    cuda.mem_get_info = lambda device=None: (10_000_000, 10_000_000)
    cuda.synchronize = _synchronize
    cuda.empty_cache = lambda: COUNTS.update(["empty_cache"])
    cuda.Stream, cuda.stream, cuda.current_stream = Stream, _stream, lambda device=None: _current[-1]
    cuda.Event = Event
    cuda.CUDAGraph, cuda.graph = _Graph, _Capture
    autocast, load = torch.autocast, torch.jit.load

    def autocast_here(device_type: str, **options: Any) -> Any:
        return autocast("cpu" if device_type == "cuda" else device_type, **options)

    def load_here(path: Any, map_location: Any = None, **options: Any) -> Any:
        module = load(path, map_location=None, **options)  # type: ignore[no-untyped-call]
        if map_location is not None and _is_cuda(map_location):
            _put_on_card([*module.parameters(), *module.buffers()])
        return module

    patched: Any = torch
    patched.Tensor.record_stream = lambda tensor, stream: COUNTS.update(["record_stream"])
    patched.autocast, patched.jit.load = autocast_here, load_here
    _Device().__enter__()  # type: ignore[no-untyped-call]
    _mark_outputs_of_scripts()


def _mark_outputs_of_scripts() -> None:
    """A ScriptModule's kernels run below torch's modes for Python."""
    from jitney.backends.torchscript import TorchScriptBackend

    backend: Any = TorchScriptBackend
    call = backend.call

    def marked(self: Any, tensors: dict[str, Any]) -> Any:
        if self.device.type != "cuda":
            return call(self, tensors)
        _current[-1].flush()
        return _put_on_card(call(self, tensors))

    backend.call = marked


def pytest_configure(config: Any) -> None:
    install()

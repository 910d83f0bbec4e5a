"""`jitney tune MODEL --model-repository DIR`: finds out what makes a model fast on this machine.

Runs the model's own backend with the parameters of `docs/parameters.md` that may help, at batch sizes up to `max_batch_size`,
with different numbers of workers and threads, each in processes of its own and in turns; prints throughput, latency and how
far answers are from the plain model's; and with --write puts the best into config.pbtxt. 16-bit arithmetic is measured wherever
the device is quick at it, and chosen only where --tolerance asks for it.

No server is started. Where requests are images for a codec, decoding them counts as work on the same cores (not on a GPU).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...core.errors import InvalidConfig, JitneyError, ModelNotFound
from ...core.model_config import ModelConfig
from ...server.process.cores import computes_bf16, gpus, usable_cores
from ...server.process.progress import say
from ...server.repository.triton.layout import CONFIG_FILE
from ...server.repository.triton.repository import TritonRepository
from ..bench import batch_time
from . import report
from .accuracy import Accuracy
from .pbtxt_edit import CannotEdit, edit
from .search import Candidate, Plan, Search
from .trial import Subject, TrialFailed
from .variants import NEUTRAL, PLAIN, THREADS, Arrangement, arrangements, variants

SECONDS = 180.0
TOLERANCE = 1e-3
#: What writes a backend's threads, where the share of the cores is not what was measured.
THREAD_PARAMETER = {"onnxruntime": "intra_op_thread_count"}


class CannotTune(ValueError):
    """This model or these options cannot be tuned; the text says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0, or 1 with a sentence on stderr."""
    options = parser().parse_args(argv)
    try:
        return tune(options)
    except (JitneyError, CannotTune, CannotEdit, TrialFailed, ValueError, OSError) as error:
        print(f"jitney tune: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="jitney tune", description=(__doc__ or "").split("\n\n", 1)[1])
    add = made.add_argument
    add("model", metavar="MODEL")
    add("--model-repository", type=Path, required=True, metavar="DIR", help="folder with the model")
    add("--seconds", type=float, default=SECONDS, help="about how long the whole search may take (%(default)g)")
    add("--batch-sizes", metavar="N,N,…", help="batch sizes to measure (1, 2, 4, … max_batch_size)")
    body = "a request as TorchServe's route takes it, or a folder of such (model_warmup's; else made up: numbers, pictures)"
    add("--body", type=Path, metavar="FILE", help=body)
    add("--shape", action="append", default=[], metavar="NAME:D,D,…", help="size of an input's open axes; repeatable")
    tolerance = (
        "largest accepted difference of answers, in parts of the largest output; given, it lets bf16 and fp16 be chosen"
    )
    add("--tolerance", type=float, metavar="BOUND", help=f"{tolerance} ({TOLERANCE:g}, without these)")
    add("--plot", type=Path, metavar="FILE", help="write throughput and latency over the batch size as SVG")
    add("--write", action="store_true", help="put the best parameters and number of workers into config.pbtxt")
    return made


def _read(repository: TritonRepository, model: str) -> ModelConfig:
    """The newest version's configuration; InvalidConfig with the models that there are where this one is none of them."""
    try:
        return repository.read(model)[-1]
    except ModelNotFound as error:
        raise InvalidConfig(f"{error}; the model repository has: {', '.join(repository.names()) or 'no models'}") from None


def tune(options: argparse.Namespace) -> int:
    """Searches, prints, writes."""
    config = _read(TritonRepository([options.model_repository]), options.model)
    plan, left_out = make_plan(config, options)
    search = Search(plan, say)
    print(_headline(config, plan), flush=True)
    search.run()
    best = search.best()
    _report(search, best, plan, left_out)
    if options.plot is not None:
        report.write_chart(options.plot, config.name, search.candidates, best)
        print(f"The chart is in {options.plot}.")
    if options.write:
        print(write(options.model_repository / config.name / CONFIG_FILE, config, best, plan.subject.gpu is not None))
    else:
        print("Nothing was written; --write puts the best into config.pbtxt.")
    return 0


def make_plan(config: ModelConfig, options: argparse.Namespace) -> tuple[Plan, list[str]]:
    """What will be tried, and what is left out. CannotTune for models and options that make no sense."""
    if config.backend == "ensemble":
        raise CannotTune(f"model '{config.name}' is an ensemble: tune the models that it is made of")
    if config.sequence is not None:
        raise CannotTune(f"model '{config.name}' is stateful: its requests depend on one another")
    if options.seconds <= 0 or (options.tolerance or 0) < 0:
        raise CannotTune("--seconds must be above 0 and --tolerance at least 0")
    if options.body is not None and not options.body.exists():
        raise CannotTune(f"--body: {options.body} does not exist")
    if options.body is not None and options.body.is_dir() and not any(file.is_file() for file in options.body.iterdir()):
        raise CannotTune(f"--body: there is no file in {options.body}")
    batch_time.parse_shapes(options.shape)
    gpu = _gpu(config)
    subject = Subject(options.model_repository, config.name, gpu, options.body, tuple(options.shape))
    compiler = any(shutil.which(name) for name in ("g++", "clang++"))
    found, left_out = variants(config, gpu is not None, compiler, computes_bf16())
    ways, sizes = arrangements(usable_cores(), gpu is not None), _sizes(config, options.batch_sizes)
    asked = options.tolerance is not None
    tolerance = options.tolerance if asked else TOLERANCE
    return Plan(subject, found, ways, sizes, options.seconds, tolerance, takes_fewer_bits=asked), left_out


def _gpu(config: ModelConfig) -> int | None:
    """The first GPU that the model's instances are placed on; None for the CPU."""
    group = config.instance_groups[0]
    if group.kind != "KIND_GPU":
        return None
    return group.gpus[0] if group.gpus else next(iter(gpus()), None)


def _sizes(config: ModelConfig, text: str | None) -> list[int]:
    largest = max(1, config.max_batch_size)
    if text is None:
        return batch_time.sizes(largest)
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise CannotTune(f"--batch-sizes must be numbers separated by commas, got '{text}'") from None
    if sizes[0] < 1 or sizes[-1] > largest:
        raise CannotTune(f"--batch-sizes must be between 1 and the model's max_batch_size, {largest}, got '{text}'")
    return sizes


def _headline(config: ModelConfig, plan: Plan) -> str:
    machine = platform.processor() or platform.machine()
    where = f"GPU {plan.subject.gpu}" if plan.subject.gpu is not None else f"{usable_cores()} cores"
    return (
        f"{config.name} ({config.backend}) on {machine}, {where}: {len(plan.variants)} variants, "
        f"batches of {', '.join(map(str, plan.sizes))}, about {plan.seconds:g} s."
    )


def _report(search: Search, best: Candidate, plan: Plan, left_out: Sequence[str]) -> None:
    print("\n" + report.table(search.candidates, best, plan.sizes))
    print("\n" + report.bars(search.candidates, best) + "\n")
    for reason in left_out:
        print(f"Left out: {reason}.")
    if search.skipped:
        print(f"No time for: {'; '.join(search.skipped)}. A larger --seconds tries them.")
    plain = next(c for c in search.candidates if c.variant == PLAIN)
    settings = ", ".join(f"{key} {value}" for key, value in best.variant.parameters.items()) or "the plain model"
    print(
        f"Best: {settings}; {best.arrangement.workers} worker(s) of {best.arrangement.threads} thread(s): {best.rate:,.1f}/s, "
        f"{best.rate / plain.rate:.2f} × the plain model in one worker. Batches of {best.best_batch} are enough for it."
    )
    if best.variant.fewer_bits:
        print(f"Its answers {best.accuracy or Accuracy()}.")
    if (faster := search.faster_but_different()) is not None:
        print(_why_not(faster, plan))


def _why_not(faster: Candidate, plan: Plan) -> str:
    """Why the fastest candidate is not the best, and what would make it so."""
    accuracy = faster.accuracy or Accuracy()
    would = f"{faster} would give {faster.rate:,.1f}/s, but its answers {accuracy}"
    if faster.variant.fewer_bits and not plan.takes_fewer_bits:
        return f"{would}: it computes in fewer bits, which is chosen only where --tolerance BOUND asks for it."
    return f"{would}; --tolerance accepts more than {plan.tolerance:g}."


# -- writing -------------------------------------------------------------------------------------------------------------


def settings_of(config: ModelConfig, best: Candidate, on_gpu: bool) -> dict[str, str]:
    """The parameters to write: the best variant's, and the neutral value where the configuration has another now."""
    settings = {key: value for key, value in NEUTRAL.items() if config.parameters.get(key, value) != value}
    settings |= dict(best.variant.parameters)
    if "compile" in settings and settings["compile"] == "false" and "TORCH_COMPILE_OPTIONAL_PARAMETERS" in config.parameters:
        settings["TORCH_COMPILE_OPTIONAL_PARAMETERS"] = ""
    return settings | _threads(config, best.arrangement, on_gpu)


def _threads(config: ModelConfig, arrangement: Arrangement, on_gpu: bool) -> dict[str, str]:
    """Threads need no parameter where each worker's share of the cores is what was measured, and none is there to be changed."""
    present = [key for key in THREADS if key in config.parameters]
    share = max(1, usable_cores() // arrangement.workers)
    if not present and share == arrangement.threads:
        return {}
    name = THREAD_PARAMETER.get(config.backend, "INTRA_OP_THREAD_COUNT")
    return dict.fromkeys(present or [name], str(arrangement.threads))


def write(file: Path, config: ModelConfig, best: Candidate, on_gpu: bool) -> str:
    """Puts the best into `file`, in one step; says what changed."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    settings = settings_of(config, best, on_gpu)
    changed = edit(text, str(file), settings, best.arrangement.workers)
    if changed == text:
        return f"{file} says all of it already."
    _replace(file.resolve(), changed)
    return f"Written to {file}: {_told(settings, best.arrangement.workers)}. Load the model again for it to take effect."


def _told(settings: Mapping[str, str], workers: int) -> str:
    return ", ".join([*(f'{key} "{value}"' for key, value in settings.items()), f"instance_group count {workers}"])


def _replace(file: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
        Path(name).chmod(file.stat().st_mode & 0o777 if file.exists() else 0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())

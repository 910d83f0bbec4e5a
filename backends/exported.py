"""`ExportedBackend`: a `model.pt2`, which torch.export saved or AOTInductor compiled.

Inputs reach the program as they reach TorchScript: by the names of the exported function's arguments, by `__<index>`, or in the
order of the configuration. A program's file tells shapes and datatypes, which are compared with the configuration; a package
checks them itself, at the first run. `parameters` lists what a configuration may say.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.request import Instance
from . import pt2
from .options import CannotLoad
from .shape_check import check_datatype, check_shape, shows_scalar, with_scalars
from .torch_batch import TorchBackend

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig, TensorSpec

_RESULT = re.compile(r"RESULT\[(\d+)\]")


class ExportedBackend(TorchBackend):
    """Runs a program of torch.export or a package of AOTInductor."""

    module: pt2.Program | None

    def open(self, model: ModelConfig, instance: Instance) -> None:
        super().open(model, instance)
        self.channels_last, self.autocast = False, None  # a program has the layout and precision that it was traced with
        numbers = [_RESULT.fullmatch(spec.name) for spec in model.outputs]
        if all(numbers):
            self.positions = [int(match[1]) for match in numbers if match]
        program = self.module
        if program is None:
            return
        if program.is_compiled:
            self.copies_single = True  # whether it writes into its inputs, nothing tells
            if model.max_batch_size > 1 and not self.sizes:
                self.sizes = (2,)  # AOTInductor takes a size that may differ to be at least 2
        pairs = self._paired(model, program)
        scalars = {spec.name for spec, value in pairs if value.shape == ()}
        self.model = with_scalars(model, scalars, scalars)
        self._check(model, program, pairs)

    def open_module(self, model: ModelConfig) -> pt2.Program:
        return pt2.load(Path(model.version_directory) / (model.filename or "model.pt2"), self.device)

    def argument_names(self) -> tuple[str, ...] | None:
        return () if self.module is None else self.module.names

    def unload(self) -> None:
        self.module = None
        gc.collect()  # a package's files go with it

    def _check(self, model: ModelConfig, program: pt2.Program, pairs: Sequence[tuple[TensorSpec, pt2.Value]]) -> None:
        """Names, types, shapes and the batch axis of the configuration against the program's own."""
        most = len(program.inputs)
        least = 0 if program.is_compiled else most  # a package does not tell which of its arguments are fixed values
        if not least <= len(model.inputs) <= most:
            theirs, ours = (", ".join(each.name for each in those) for those in (program.inputs, model.inputs))
            raise CannotLoad(f"model '{model.name}' takes the inputs {theirs}; its configuration names {ours}")
        for spec, value in pairs:
            if value.shape is None:
                continue
            side = "output" if model.output(spec.name) is spec else "input"
            check_datatype(model, spec, side, value.datatype)
            if value.shape or not shows_scalar(model, spec):
                check_shape(model, spec, value.shape)
            if model.batches and value.most is not None and value.most < model.max_batch_size:
                raise CannotLoad(
                    f"model '{model.name}' was exported for at most {value.most} rows ({side} '{spec.name}'), but max_batch_size "
                    f"is {model.max_batch_size}: lower it, or export the model with a larger bound of that dimension"
                )

    def _paired(self, model: ModelConfig, program: pt2.Program) -> list[tuple[TensorSpec, pt2.Value]]:
        """Each tensor of the configuration with the program's, as far as they can be matched before a run."""
        if isinstance(self.arguments, dict):
            found = {spec.name: program.input(self.arguments[spec.name]) for spec in model.inputs}
        else:
            found = dict(zip(self.arguments or (), program.inputs, strict=False))
        inputs = [(spec, found.get(spec.name)) for spec in model.inputs]
        by_name = {value.name: value for value in program.outputs}
        places = self.positions or list(range(len(model.outputs)))
        outputs = [
            (spec, by_name.get(spec.name) or (program.outputs[place] if place < len(program.outputs) else None))
            for spec, place in zip(model.outputs, places, strict=True)
        ]
        return [(spec, value) for spec, value in (*inputs, *outputs) if value is not None]

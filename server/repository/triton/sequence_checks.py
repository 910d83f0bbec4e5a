"""Triton's validation of `sequence_batching` and of its control tensors (model_config_utils.cc)."""

from __future__ import annotations

from .pbtxt import Message, Source, schema

Control = schema.ModelSequenceBatching.Control
BOOLEAN_CONTROLS = (Control.CONTROL_SEQUENCE_START, Control.CONTROL_SEQUENCE_END, Control.CONTROL_SEQUENCE_READY)
VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")
CORRID_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")


def check_sequence(config: Message, source: Source) -> None:
    """Raises InvalidConfig for the first rule that the model's `sequence_batching` breaks."""
    batcher, name = config.sequence_batching, config.name
    if config.response_cache.enable:
        text = (
            f"Response Cache does not currently support model {name} with sequence batching scheduler. "
            "Please disable the response cache."
        )
        raise source.error(text, "response_cache")
    _check_names(batcher, name, source)
    for kind in (*BOOLEAN_CONTROLS, Control.CONTROL_SEQUENCE_CORRID):
        _check_control(batcher, kind, name, source)
    if batcher.HasField("oldest"):
        _check_oldest(batcher.oldest, config, source)
    if batcher.HasField("direct") and not 0.0 <= batcher.direct.minimum_slot_utilization <= 1.0:
        text = f"sequence batching minimum slot utilization must be in range (0.0, 1.0] for {name}"
        raise source.error(text, "sequence_batching", "minimum_slot_utilization")


def _check_names(batcher: Message, name: str, source: Source) -> None:
    seen: set[str] = set()
    for control_input in batcher.control_input:
        if not control_input.name:
            raise source.error(f"sequence batching control tensor must have a name for {name}", "control_input")
        if control_input.name in seen:
            text = (
                f"sequence batching control tensor '{control_input.name}' is specified for multiple control kinds for {name}"
            )
            raise source.error(text, "control_input", f'"{control_input.name}"')
        seen.add(control_input.name)


def _check_control(batcher: Message, kind: int, name: str, source: Source) -> None:
    kind_name = Control.Kind.Name(kind)
    found = [control for each in batcher.control_input for control in each.control if control.kind == kind]
    if len(found) > 1:
        raise source.error(
            f"sequence batching specifies multiple {kind_name} tensors for {name}", "control_input", kind_name
        )
    for control in found:
        is_corrid = kind == Control.CONTROL_SEQUENCE_CORRID
        reason = _corrid_problem(control, kind_name, name) if is_corrid else _boolean_problem(control, kind_name, name)
        if reason:
            raise source.error(reason, "control_input", kind_name)


def _boolean_problem(control: Message, kind: str, name: str) -> str | None:
    given = [field for field in VALUES if len(getattr(control, field))]
    if not given:
        return (
            "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' "
            f"for {kind} for {name}"
        )
    if len(given) > 1:
        return (
            "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and 'bool_false_true' "
            f"for {kind} for {name}"
        )
    if len(getattr(control, given[0])) != 2:
        return f"sequence batching control '{given[0]}' must have exactly 2 entries for {kind} for {name}"
    return None


def _corrid_problem(control: Message, kind: str, name: str) -> str | None:
    if any(len(getattr(control, field)) for field in VALUES):
        return (
            "sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' "
            f"for {kind} for {name}"
        )
    if schema.DataType.Name(control.data_type) not in CORRID_TYPES:
        return (
            f"unexpected data type for control {kind} for {name}. "
            "Allowed data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
        )
    return None


def _check_oldest(oldest: Message, config: Message, source: Source) -> None:
    for size in oldest.preferred_batch_size:
        if size <= 0:
            reason = f"sequence batching preferred batch size must be positive for {config.name}"
        elif size > config.max_batch_size:
            reason = f"sequence batching preferred batch size must be <= max batch size for {config.name}"
        else:
            continue
        raise source.error(reason, "sequence_batching", "preferred_batch_size")

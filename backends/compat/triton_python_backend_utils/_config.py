"""The model's configuration as a Python model sees it: dicts of the config JSON, and the object of auto-completion."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ._arguments import INT64, elements, integer, text

Properties = dict[str, Any]


def _by_name(entries: list[Properties], name: str) -> Properties | None:
    return next((entry for entry in entries if entry["name"] == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Properties | None:
    """The entry of this input in the config (a dict), or None."""
    return _by_name(model_config.get("input", []), name)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Properties | None:
    """The entry of this output in the config (a dict), or None."""
    return _by_name(model_config.get("output", []), name)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    """Whether the model may answer a request any number of times."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


class ModelConfig:
    """What `auto_complete_config` fills in. Setters refuse what contradicts the model's config file."""

    def __init__(self, model_config: Mapping[str, Any]) -> None:
        self._model_config: Properties = copy.deepcopy(dict(model_config))
        for key in ("input", "output"):
            self._model_config.setdefault(key, [])

    def as_dict(self) -> Properties:
        return self._model_config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        max_batch_size = integer(max_batch_size, "max_batch_size", (0, (1 << 31) - 1))
        declared = self._model_config.get("max_batch_size", 0)
        if declared > max_batch_size:
            raise ValueError(
                f"configuration specified max_batch_size {declared}, but in auto-complete-config function for model "
                f"'{self._model_config.get('name', '')}' specified max_batch_size {max_batch_size}"
            )
        self._model_config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Turns the dynamic batcher on, unless the config file chose a scheduler."""
        schedulers = {"sequence_batching", "ensemble_scheduling"} & set(self._model_config)
        if schedulers:
            raise ValueError(f"configuration specified {min(schedulers)}, which excludes dynamic_batching")
        self._model_config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, transaction_policy_dict: Mapping[str, Any]) -> None:
        unknown = set(transaction_policy_dict) - {"decoupled"}
        if unknown or "decoupled" not in transaction_policy_dict:
            raise ValueError("transaction policy has exactly the property 'decoupled'")
        wanted = bool(transaction_policy_dict["decoupled"])
        declared = self._model_config.get("model_transaction_policy")
        if declared is not None and bool(declared.get("decoupled", False)) != wanted:
            raise ValueError(f"configuration specified decoupled {not wanted}, auto_complete_config {wanted}")
        self._model_config["model_transaction_policy"] = {"decoupled": wanted}

    def add_input(self, input: Mapping[str, Any]) -> None:  # noqa: A002 - Triton's name
        self._add("input", input, {"name", "data_type", "dims", "optional"})

    def add_output(self, output: Mapping[str, Any]) -> None:
        self._add("output", output, {"name", "data_type", "dims"})

    def _add(self, key: str, given: Mapping[str, Any], allowed: set[str]) -> None:
        unknown = set(given) - allowed
        if unknown:
            raise ValueError(f"{key} has no property {min(unknown)!r}; it may have {sorted(allowed)}")
        missing = {"name", "data_type", "dims"} - set(given)
        if missing:
            raise ValueError(f"{key} '{given.get('name', '')}' lacks the property {min(missing)!r}")
        given = _plain(given)
        present = _by_name(self._model_config[key], given["name"])
        if present is None:
            self._model_config[key].append(given)
            return
        for name, value in given.items():
            if present.get(name) not in (None, "", [], "TYPE_INVALID", value) and name != "optional":
                raise ValueError(
                    f"{key} '{given['name']}': the config file says {name} {present[name]}, the model says {value}"
                )
            present[name] = value


def _plain(given: Mapping[str, Any]) -> Properties:
    """The properties of a tensor as JSON has them: names are text, dims are integers, whatever numpy made of them."""
    plain = {**given, "name": text(given["name"], "name"), "data_type": text(given["data_type"], "data_type")}
    plain["dims"] = elements(given["dims"], "dims", lambda dim, what: integer(dim, what, INT64))
    return plain if "optional" not in given else {**plain, "optional": bool(given["optional"])}

"""DeepSpeed's inference engine around a handler's model. A model runs in one process here, so on one device."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ...context import Context

__all__ = ["Context", "create_checkpoints_json", "get_ds_engine"]

logger = logging.getLogger(__name__)


def create_checkpoints_json(model_path: str, checkpoints_json: str) -> None:
    """Writes DeepSpeed's list of the checkpoint files (.bin, .pt and the like) below `model_path`."""
    files = sorted(str(path) for path in Path(model_path).rglob("*.[bp][it][n]") if path.is_file())
    logger.info("DeepSpeed's checkpoint file %s names %d files", checkpoints_json, len(files))
    Path(checkpoints_json).write_text(json.dumps({"type": "ds_model", "checkpoints": files, "version": 1.0}))


def get_ds_engine(model: Any, ctx: Context) -> Any:
    """`deepspeed.init_inference` as model-config.yaml says: `deepspeed: {config: FILE, checkpoint: FILE}` in the archive's
    folder, `handler: {model_path: …}`."""
    try:
        import deepspeed
    except ImportError:
        raise ImportError("ts.handler_utils.distributed.deepspeed needs deepspeed (pip install deepspeed)") from None
    section = ctx.model_yaml_config.get("deepspeed")
    if section is None:
        raise ValueError(f"{ctx.model_name} has no section 'deepspeed' in its model-config.yaml")
    folder, model_path = Path(ctx.system_properties["model_dir"]), ctx.model_yaml_config["handler"]["model_path"]
    config, checkpoint = (str(folder / section[key]) if key in section else None for key in ("config", "checkpoint"))
    if config is not None and not Path(config).is_file():
        raise ValueError(f"{ctx.model_name} has no deepspeed config file {config}")
    if checkpoint is not None:
        create_checkpoints_json(model_path, checkpoint)
    return deepspeed.init_inference(model, config=config, base_dir=model_path, checkpoint=checkpoint)

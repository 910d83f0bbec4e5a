"""Models from the Hugging Face hub."""

from __future__ import annotations

#: Checkpoints of PyTorch with their configuration and tokenizer.
_FILES = ("*.json", "*.pt", "*.bin", "*.txt", "*.model", "*.pth", "*.safetensors", "original/*")


def download_model(
    model_id: str = "meta-llama/Meta-Llama-3.1-8B-Instruct",
    revision: str = "main",
    model_path: str = ".cache",
    use_auth_token: bool | str = True,
) -> str:
    """Downloads a model below `model_path` and returns its folder. `use_auth_token`: a token, or whether to use the saved one."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError("ts.utils.hf_utils.download_model needs huggingface_hub (pip install huggingface_hub)") from None
    found: str = snapshot_download(
        repo_id=model_id,
        revision=revision,
        allow_patterns=list(_FILES),
        cache_dir=model_path,
        token=use_auth_token,
    )
    return found

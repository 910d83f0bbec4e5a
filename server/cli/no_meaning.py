"""tritonserver's options that change nothing here. They are taken, with a word of why, so that its commands work unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from . import grpc_flags, observing

#: Options of tritonserver that change nothing here, with the reason that is printed once.
NO_MEANING = {
    "--reuse-grpc-port": "one server owns each port",
    "--grpc-infer-allocation-pool-size": "there is no such pool here",
    "--grpc-max-response-pool-size": "answers that wait for slow readers are bounded in bytes (docs/limits.md)",
    "--grpc-infer-thread-count": "use --grpc-front-ends",
    **{f"--{name}": "SageMaker's routes share the inference port" for name in ("allow-sagemaker", "sagemaker-port")},
    **{
        f"--sagemaker-{name}": "SageMaker's routes have no port of their own" for name in ("safe-port-range", "thread-count")
    },
    **{f"--{name}": "Vertex AI's routes are not served" for name in ("allow-vertex-ai", "vertex-ai-port")},
    **{f"--vertex-ai-{name}": "Vertex AI's routes are not served" for name in ("thread-count", "default-model")},
    "--host-policy": "set CPU affinity outside of the server",
    "--model-load-gpu-limit": "the framework decides how much of a GPU it takes",
    "--enable-peer-access": "GPUs do not exchange tensors",
    "--metrics-config": "counters and the histograms of jitney are always shown, Triton's summaries never",
    "--allow-http": "HTTP is always served",
    "--allow-gpu-metrics": "GPU metrics need no switch",
    "--allow-cpu-metrics": "CPU metrics need no switch",
    "--metrics-interval-ms": "metrics are read when they are asked for",
    "--http-thread-count": "use http_threads in config.properties",
    "--model-load-thread-count": "models load four at a time",
    "--model-load-retry-count": "a load that fails is not tried again by itself",
    "--model-namespacing": "model names are unique over all repositories",
    "--buffer-manager-thread-count": "there is no such pool here",
    "--pinned-memory-pool-byte-size": "pinned memory belongs to each worker",
    "--cuda-memory-pool-byte-size": "CUDA memory belongs to each worker",
    "--cuda-virtual-address-size": "CUDA memory belongs to each worker",
    "--min-supported-compute-capability": "the framework decides",
    "--repoagent-directory": "repository agents are not supported",
    "--cache-directory": "the response cache is in-process",
    "--strict-model-config": "use --disable-auto-complete-config",
    "--rate-limit": "there is no rate limiter; instance_group.count bounds what runs at once",
    "--rate-limit-resource": "there is no rate limiter; instance_group.count bounds what runs at once",
    "--reuse-http-port": "one process owns each port",
}
#: Options of newer versions of tritonserver that begin so change nothing either, whatever they are called.
NO_MEANING_PREFIXES = {
    "--grpc-": "nothing here has such an option",
    "--sagemaker-": "SageMaker's routes share the inference port",
    "--vertex-ai-": "Vertex AI's routes are not served",
    "--trace-": "--trace-config has no such setting",
}


def without_meaning(arguments: Sequence[str]) -> dict[str, str]:
    """tritonserver's options that change nothing here, with the reason; those in `arguments` that only their beginning tells."""
    options = [argument.split("=")[0] for argument in arguments]
    newer = {option: why for option in options for start, why in NO_MEANING_PREFIXES.items() if option.startswith(start)}
    return {
        option: why
        for option, why in (newer | NO_MEANING).items()
        if option not in grpc_flags.OPTIONS | observing.TRACE_OPTIONS
    }

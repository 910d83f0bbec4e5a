"""gRPC: Triton's service and TorchServe's, in front-end processes of their own; the scheduler's process never imports grpcio.

    scheduler   listener       reserves the ports, starts the processes, answers what they relay
                control        the calls that need no worker: health, metadata, repository, settings, management
    front end   server         grpc.aio servers on one event loop, which also reads what the scheduler sends (`reactor`)
                open_calls     every call: counted, written into the access log (`access_line`)
                draining       its end: clients are sent away while they are answered (`connections`, `open_calls`)
                pressure       what clients have grpcio hold, measured and bounded
                triton         the dialect of inference.GRPCInferenceService
                torchserve     the dialects of TorchServe's inference, management and Open Inference Protocol services
    both        schema         the messages, read from our own .proto texts
                relay          a call on its way to `control`, on a socket of its own

What asks a model goes over the same data plane as from a front end for HTTP (`frontends`), and into the same batches.
"""

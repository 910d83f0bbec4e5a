"""Steps of the Triton demo that need the models of the conformance kit: batches, versions, ensembles, BLS, generate."""

from __future__ import annotations

import json
import time

import numpy as np
import tritonclient.http as triton
import urllib3

from ..bench.served import ServedProcess
from ..steps import expect, heading

#: Models that the steps use.
MODELS = ("identity_fp32", "errors", "versions", "ens", "bls", "textgen", "decoupled", "batch_delay500")


def show(text: object) -> None:
    print("  " + str(text).replace("\n", "\n  "), flush=True)


def steps(server: ServedProcess, client: triton.InferenceServerClient) -> None:
    """All of them, in order."""
    batched_in_one(client)
    versions(client)
    composed(client)
    generated(server)


def batched_in_one(client: triton.InferenceServerClient) -> None:
    heading("Dynamic batching: 8 requests to a model with max_batch_size 8 and max_queue_delay_microseconds 500000")
    tensor = triton.InferInput("INPUT0", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
    began = time.monotonic()
    pending = [client.async_infer("batch_delay500", [tensor]) for _ in range(8)]
    for request in pending:
        request.get_result()
    seconds = time.monotonic() - began
    (found,) = client.get_inference_statistics("batch_delay500")["model_stats"]
    show(f"{found['inference_count']} requests in {found['execution_count']} execution, after {seconds:.3f} s")
    expect(found["execution_count"] == 1 and seconds < 0.45, "a batch that is full leaves before its delay is over")


def versions(client: triton.InferenceServerClient) -> None:
    heading("Versions of a model: client.infer(…, model_version='1')")
    tensor = triton.InferInput("INPUT0", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))
    served = client.get_model_metadata("versions")["versions"]
    answers = {name: client.infer("versions", [tensor], model_version=name).as_numpy("OUTPUT0").tolist() for name in served}
    show(answers)
    newest = client.infer("versions", [tensor]).as_numpy("OUTPUT0").tolist()
    expect(served == ["1", "3"] and newest == answers["3"], "version_policy counts; without a version the highest answers")


def composed(client: triton.InferenceServerClient) -> None:
    heading("An ensemble, and a Python model that calls another one (BLS)")
    for model, name, output, shape in (("ens", "X", "Y", [1, 1]), ("bls", "INPUT0", "OUTPUT0", [1, 1])):
        tensor = triton.InferInput(name, shape, "FP32")
        tensor.set_data_from_numpy(np.full(shape, 3, np.float32))
        answer = client.infer(model, [tensor]).as_numpy(output).tolist()
        show(f"{model}: {answer}")
        expect(answer == [[6.0]], f"{model} answers through the models that it uses, one of which doubles")


def generated(server: ServedProcess) -> None:
    heading("The generate extension: JSON in, JSON or events out")
    url = f"{server.inference}/v2/models/textgen/generate"
    reply = urllib3.request("POST", url, json={"text_input": "hello", "temperature": 0.5}, timeout=30.0).json()
    show(f"$ curl {url} -d …\n{json.dumps(reply)}")
    expect(reply["text_output"].startswith("hello|"), "the parameters reached the model")
    url = f"{server.inference}/v2/models/decoupled/generate_stream"
    events = urllib3.request("POST", url, json={"N": 3}, timeout=30.0).data.decode().strip().split("\n\n")
    show(f"$ curl {url} -d …\n" + "\n".join(events))
    values = [json.loads(event.removeprefix("data: "))["OUT"] for event in events]
    expect(values == [0, 1, 2], "one event for each response of a decoupled model")

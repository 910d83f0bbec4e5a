"""Asks the model over Triton's gRPC stream, and prints the text as it comes."""

import argparse
import queue

import numpy as np
import tritonclient.grpc as triton

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prompt")
parser.add_argument("--address", default="localhost:8001")
parser.add_argument("--tokens", type=int, default=32)
options = parser.parse_args()

text = triton.InferInput("text_input", [1], "BYTES")
text.set_data_from_numpy(np.array([options.prompt.encode()], object))
tokens = triton.InferInput("max_tokens", [1], "INT32")
tokens.set_data_from_numpy(np.array([options.tokens], np.int32))

answers = queue.SimpleQueue()
with triton.InferenceServerClient(options.address) as client:
    client.start_stream(lambda result, error: answers.put(error or result))
    client.async_stream_infer("smollm2", [text, tokens], enable_empty_final_response=True)
    while True:
        answer = answers.get(timeout=120)
        if isinstance(answer, Exception):
            raise answer
        piece = answer.as_numpy("text_output")
        if piece is not None:
            print(piece[0].decode(), end="", flush=True)
        if answer.get_response().parameters["triton_final_response"].bool_param:
            break
    client.stop_stream()
print()

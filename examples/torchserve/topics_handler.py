"""A generalized text handler: one tensor of token ids for the whole batch, padded to its longest text.

This is the shape of TorchServe's Transformer_handler_generalized.py, with a vocabulary of its own in place of a tokenizer from
the transformers package. It takes each text from `data` or `body`, as bytes or as text, and answers a list.

    python make_weights.py
    jitney archive --model-name topics --version 1.0 --model-file topics_model.py --serialized-file topics.pth \
        --handler topics_handler.py --extra-files words.json,topics_setup.json --export-path model_store
    jitney --start --foreground --model-store model_store --models topics.mar
    curl http://localhost:8080/predictions/topics -H "Content-Type: text/plain" -d "the judge and the court"
"""

import json
import logging
from abc import ABC
from pathlib import Path

import torch
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)

PADDING, UNKNOWN = 0, 1


class TopicsHandler(BaseHandler, ABC):
    def __init__(self):
        super().__init__()
        self.initialized = False

    def initialize(self, ctx):
        super().initialize(ctx)
        model_dir = Path(ctx.system_properties.get("model_dir"))
        self.setup_config = json.loads((model_dir / "topics_setup.json").read_text())
        self.words = json.loads((model_dir / "words.json").read_text())
        self.initialized = True

    def preprocess(self, requests):
        texts = []
        for data in requests:
            text = data.get("data")
            if text is None:
                text = data.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            logger.info("Received text: '%s'", text)
            texts.append(text.lower().split()[: self.setup_config["max_length"]])
        longest = max(1, *(len(words) for words in texts)) if texts else 1
        ids = torch.full((len(texts), longest), PADDING)
        for row, words in enumerate(texts):
            ids[row, : len(words)] = torch.tensor([self.words.get(word, UNKNOWN) for word in words], dtype=torch.long)
        return ids.to(self.device), (ids != PADDING).to(self.device)

    def inference(self, input_batch):
        ids, mask = input_batch
        with torch.inference_mode():
            return self.model(ids, mask).softmax(1)

    def postprocess(self, inference_output):
        names = self.setup_config["topics"]
        return [dict(zip(names, row, strict=True)) for row in inference_output.tolist()]

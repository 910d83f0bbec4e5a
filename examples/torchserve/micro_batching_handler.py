"""TorchServe's micro-batching: a batch in pieces, so that one piece is prepared while another is in the model.

    python make_weights.py
    jitney archive --model-name pieces --version 1.0 --model-file colours_model.py --serialized-file colours.pth \
        --handler micro_batching_handler.py --config-file micro_batching.yaml --export-path model_store
    jitney --start --foreground --model-store model_store --models pieces.mar
    curl http://localhost:8080/predictions/pieces -T picture.jpg
"""

from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.image_classifier import ImageClassifier


class MicroBatchingHandler(ImageClassifier):
    def __init__(self):
        super().__init__()
        self.handle = MicroBatching(self)

    def initialize(self, ctx):
        super().initialize(ctx)
        section = ctx.model_yaml_config["micro_batching"]
        self.handle.micro_batch_size = section["micro_batch_size"]
        for step, threads in section["parallelism"].items():
            self.handle.parallelism[step] = threads

    def postprocess(self, data):
        return [{"logits": row, "piece": len(data)} for row in data.tolist()]

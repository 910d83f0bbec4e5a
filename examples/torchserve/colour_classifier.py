"""A handler that subclasses TorchServe's ImageClassifier, as its users write them; it runs here unchanged.

    python make_weights.py
    jitney archive --model-name colours --version 1.0 --model-file colours_model.py --serialized-file colours.pth \
        --handler colour_classifier.py --export-path model_store
    jitney --start --foreground --model-store model_store --models colours.mar
    curl http://localhost:8080/predictions/colours -T picture.jpg
"""

from ts.torch_handler.image_classifier import ImageClassifier

NAMES = ("red", "green", "blue")


class ColourClassifier(ImageClassifier):
    """Names the strongest colour with its share, in place of the five likeliest classes."""

    def postprocess(self, data):
        shares = data.softmax(1)
        best = shares.argmax(1).tolist()
        return [{"colour": NAMES[index], "share": row[index].item()} for row, index in zip(shares, best, strict=True)]

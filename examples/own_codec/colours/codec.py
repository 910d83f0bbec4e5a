"""Pictures in, the name of their colour out."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

NAMES = ("red", "green", "blue")


def decode(request):
    """One row for the model, before it waits for a batch."""
    try:
        picture = Image.open(io.BytesIO(request.body)).convert("RGB").resize((8, 8))
    except UnidentifiedImageError:
        raise ValueError("expected a picture as the body or in the form field 'data'") from None
    return {"PIXELS": np.asarray(picture)}


def encode(outputs, request):
    """The answer to this request, from the model's outputs for it."""
    mean = outputs["MEAN"][0]
    if "text/plain" in request.headers.get("Accept", ""):
        return NAMES[int(mean.argmax())]
    return {"colour": NAMES[int(mean.argmax())], "mean": mean}

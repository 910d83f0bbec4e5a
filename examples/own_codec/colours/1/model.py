"""The mean colour of small pictures, a whole batch at once."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        pixels = [pb_utils.get_input_tensor_by_name(request, "PIXELS").as_numpy() for request in requests]
        means = np.concatenate(pixels).mean(axis=(1, 2), dtype=np.float32)
        parts = np.split(means, np.cumsum([len(rows) for rows in pixels])[:-1])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("MEAN", part)]) for part in parts]

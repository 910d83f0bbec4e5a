"""ResNet-152; the definition is jitney's own, its state dict has torchvision's names."""

import jitney.tools.dev.resnet as definition


class ResNet152(definition.ResNet):
    """[batch, 3, 224, 224] normalised pixels -> [batch, 1000] logits."""

    def __init__(self) -> None:
        super().__init__(152)

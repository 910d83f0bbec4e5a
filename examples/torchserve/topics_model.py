"""A text classifier of the simplest kind: the mean of its words' vectors, then one linear layer."""

import torch


class Topics(torch.nn.Module):
    """[batch, words] ids, 0 where a text has ended, and a mask of the same shape -> [batch, topics] logits."""

    def __init__(self, words: int = 100, width: int = 16, topics: int = 3) -> None:
        super().__init__()
        self.vectors = torch.nn.Embedding(words, width)
        self.topics = torch.nn.Linear(width, topics)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = mask.unsqueeze(2).to(self.vectors.weight.dtype)
        mean = (self.vectors(ids) * weights).sum(1) / weights.sum(1).clamp(min=1)
        return self.topics(mean)

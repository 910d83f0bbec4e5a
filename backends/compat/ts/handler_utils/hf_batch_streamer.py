"""`TextIteratorStreamerBatch`: the texts of a batch while transformers' `generate` makes them.

It takes what `generate(streamer=…)` gives and needs nothing of transformers but a tokenizer, anything with
`decode(ids, **kwargs)`. `generate` runs on one thread, the texts are read on another.
"""

from __future__ import annotations

import queue
import unicodedata
from collections.abc import Iterator
from typing import Any


class TextIteratorStreamerBatch:
    """Each step is a list with {"text": …} for each row of the batch, in which a text may be empty: words come whole.

    `skip_prompt` leaves the first `put`, the prompt, out. `timeout` is how many seconds to wait for a text (queue.Empty after
    that); None waits for ever. Other arguments go to `decode`.
    """

    def __init__(
        self, tokenizer: Any, batch_size: int, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        self.batch_size = batch_size
        self.streamers = [_Row(tokenizer, skip_prompt, timeout, decode_kwargs) for _ in range(batch_size)]

    def put(self, value: Any) -> None:
        """New tokens: of shape [batch] for one step, or [batch, tokens] for a prompt."""
        if value.shape[0] != self.batch_size:
            raise ValueError(f"the streamer is for batches of {self.batch_size}, got tokens of shape {list(value.shape)}")
        for row, tokens in zip(self.streamers, value.tolist(), strict=True):
            row.put(tokens if isinstance(tokens, list) else [tokens])

    def end(self) -> None:
        for row in self.streamers:
            row.end()

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        return self

    def __next__(self) -> list[dict[str, str]]:
        texts = [row.next() for row in self.streamers]  # all of them, so that the rows stay in step
        if None in texts:
            raise StopIteration
        return [{"text": text} for text in texts if text is not None]


class _Row:
    """One text: tokens go in, and what is certain of the text comes out after each step."""

    def __init__(self, tokenizer: Any, skip_prompt: bool, timeout: float | None, decode_kwargs: dict[str, Any]) -> None:
        self._tokenizer, self._decode_kwargs = tokenizer, decode_kwargs
        self._skip_prompt, self._skip_next, self._timeout = skip_prompt, skip_prompt, timeout
        self._tokens: list[int] = []  # of the current line
        self._shown = 0  # characters of the current line that were given out
        self._texts: queue.Queue[str | None] = queue.Queue()  # None ends it

    def _text(self) -> str:
        return str(self._tokenizer.decode(self._tokens, **self._decode_kwargs))

    def put(self, tokens: list[int]) -> None:
        if self._skip_next:
            self._skip_next = False
            return
        self._tokens += tokens
        text = self._text()
        self._texts.put(text[self._shown : _certain(text)])
        self._shown = max(self._shown, _certain(text))
        if text.endswith("\n"):
            self._tokens, self._shown = [], 0

    def end(self) -> None:
        rest = self._text()[self._shown :] if self._tokens else ""
        self._tokens, self._shown, self._skip_next = [], 0, self._skip_prompt
        self._texts.put(rest)
        self._texts.put(None)

    def next(self) -> str | None:
        return self._texts.get(timeout=self._timeout)


def _certain(text: str) -> int:
    """How much of a text later tokens cannot change: whole lines and words, and characters of scripts without blanks."""
    if text.endswith("\n") or (text and unicodedata.name(text[-1], "").startswith("CJK ")):
        return len(text)
    return text.rfind(" ") + 1

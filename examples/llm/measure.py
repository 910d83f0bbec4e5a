"""Tokens per second that 1 and 8 clients get together, in turn so that what else the machine does hits both; their ratio."""

import argparse
import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor

PROMPTS = [
    f"A short story about {what}:" for what in ("a bus", "the sea", "two cats", "rain", "a king", "tea", "snow", "a train")
]


def tokens(address: str, prompt: str, wanted: int) -> int:
    """Asks once, and counts the events with text."""
    connection = http.client.HTTPConnection(address, timeout=600)
    connection.request(
        "POST", "/v2/models/smollm2/generate_stream", json.dumps({"text_input": prompt, "max_tokens": wanted})
    )
    answer = connection.getresponse()
    events = [json.loads(line[6:]) for line in answer.read().split(b"\n\n") if line]
    connection.close()
    if answer.status != 200 or "error" in events[-1]:
        raise RuntimeError(f"status {answer.status}: {events[-1]}")
    return sum(bool(event["text_output"]) for event in events)


def rate(address: str, clients: int, wanted: int) -> float:
    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        total = sum(pool.map(lambda prompt: tokens(address, prompt, wanted), PROMPTS[:clients]))
    return total / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:8080")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = [[rate(options.address, clients, options.tokens) for clients in (1, 8)] for _ in range(options.rounds)]
    for one, eight in found:
        print(f"1 client: {one:.1f} tokens/s; 8 clients: {eight:.1f} tokens/s; ratio {eight / one:.1f}")
    one, eight = (sorted(column)[len(found) // 2] for column in zip(*found, strict=True))
    print(f"medians: {one:.1f} and {eight:.1f} tokens/s, ratio {eight / one:.1f}")


if __name__ == "__main__":
    main()

"""The sessions recorded over gRPC: every record stands alone, with calls before and after it.

accept     codes that a good server may give instead, where TorchServe only shows an uncaught exception
tolerate   worker-status, queue, batching: places that differ; any-text: the error's text; any-outcome: all of it
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .exchange import Run
from .grpc_calls import GrpcClient
from .servers import SessionServer, download_server, wait_for_port
from .wire import Message

#: Places of which only the type counts, always and where a record tolerates it.
VOLATILE = [r"\.workers\[\d+\]\.(id|startTime|memoryUsage|pid|gpuUsage)$", r"\.(request_id|id)$"]
NAMED = {
    "worker-status": r"\.workers\[\d+\]\.status$",
    "queue": r"\.jobQueueStatus\.",
    "batching": r"\.(batch_size|index)$",
}
#: The order of a protobuf map's keys says nothing.
UNORDERED = re.compile(r"\.prediction_json\.keys$")
#: Texts made by the client's own library: only the code counts.
CLIENT_TEXTS = ("Deadline Exceeded", "Locally cancelled by application!")


@dataclass(frozen=True)
class GrpcRecordings:
    """A folder of TorchServe's recordings, in which those over gRPC lie in `grpc`."""

    folder: Path

    def replay(
        self, command: Sequence[str], urls: Mapping[str, str], addresses: Mapping[str, str], folder: Path,
        environment: Mapping[str, str],
    ) -> Iterator[tuple[str, list[str]]]:  # fmt: skip
        """(session.record, what is different) of all records, with a server for each session.

        urls   of the HTTP APIs;  addresses: of gRPC's, as host and port
        """
        places = {**urls, **{f"grpc_{api}": f"http://{address}" for api, address in addresses.items()}}
        golden = self.folder / "grpc" / "golden"
        sessions: list[Message] = json.loads((golden / "sessions.json").read_text())["sessions"]
        records: list[Message] = [json.loads(path.read_text()) for path in sorted((golden / "dev").glob("grpc_*.json"))]
        archives = self.folder / "mars"
        for session in sessions:
            with (
                download_server(archives) as downloads,
                SessionServer(command, session, places, archives, folder, environment) as server,
            ):
                for path in (self.folder / "grpc" / "mars").glob("*.mar"):
                    (server.model_store / path.name).symlink_to(path.resolve())
                for address in addresses.values():
                    wait_for_port(address)
                run = Run(dict(urls), self.folder, server.workdir, server.model_store, downloads)
                with contextlib.closing(GrpcClient(addresses, run)) as client:
                    for step in session.get("ready", ()):
                        client.take_step(step)
                    for record in records:
                        if record["session"] == session["name"]:
                            yield f"{session['name']}.{record['name']}", _judge(client, record)


def _judge(client: GrpcClient, record: Message) -> list[str]:
    """What is different in one record, with the calls before and after it."""
    try:
        for step in record.get("setup", ()):
            client.take_step(step)
        copies = record.get("concurrent", 1)
        with ThreadPoolExecutor(copies) as pool:
            outcomes = list(pool.map(client.call, [record] * copies))
        told = list(_copies(record, outcomes) if copies > 1 else _outcome(record, outcomes[0]))
        for step in record.get("after", ()):
            if "wait" in step or "sleep_s" in step:
                client.take_step(step)
            else:
                outcome = client.call({"port": "management", **step, "request": step.get("request", [{}])})
                told += [f"afterwards {step['method']}: {text}" for text in _outcome(step, outcome)]
        return told
    except Exception as error:  # noqa: BLE001 - nothing that a server sends may end the replay
        return [f"{type(error).__name__}: {error}"]
    finally:
        for step in record.get("teardown", ()):
            with contextlib.suppress(RuntimeError):
                client.take_step({**step, "fails": True})


def _copies(record: Message, outcomes: list[Message]) -> Iterator[str]:
    """The same call several times at once: which one got which answer does not matter."""

    def key(outcome: Message) -> str:
        return json.dumps([outcome.get("error"), [_values(reply) for reply in outcome["response"]]], sort_keys=True)

    shared = {name: record.get(name, ()) for name in ("tolerate", "accept")}
    for wanted, got in zip(sorted(record["responses"], key=key), sorted(outcomes, key=key), strict=True):
        yield from _outcome(wanted | shared, got)


def _values(reply: Message) -> Message:
    """Of what is JSON only the values are compared."""
    texts = [name for name in ("prediction", "health", "msg") if isinstance(reply.get(f"{name}_json"), (dict, list))]
    dropped = {*texts, *(f"{name}_text" for name in texts)}
    return {name: value for name, value in reply.items() if name not in dropped}


def _outcome(record: Message, got: Message) -> Iterator[str]:
    named = record.get("tolerate", ())
    none = {"code": "OK", "details": ""}
    wanted, error = record.get("error") or none, got.get("error") or none
    if "any-outcome" in named or (error["code"] != wanted["code"] and error["code"] in record.get("accept", ())):
        return
    if error["code"] != wanted["code"]:
        yield f"code {error['code']} {error['details']!r} instead of {wanted['code']} {wanted['details']!r}"
        return
    fixed = "any-text" not in named and wanted["details"] not in CLIENT_TEXTS
    if fixed and wanted["details"] != error["details"]:
        yield f"details {error['details']!r} instead of {wanted['details']!r}"
    ours, theirs = ([_values(reply) for reply in side.get("response", [])] for side in (record, got))
    if len(ours) != len(theirs):
        yield f"{len(theirs)} messages instead of {len(ours)}: {json.dumps(theirs)[:200]}"
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        yield from _documents(one, other, f"[{index}]", named)


def _documents(wanted: Any, got: Any, where: str, named: Collection[str]) -> Iterator[str]:
    numbers = all(isinstance(side, (int, float)) and not isinstance(side, bool) for side in (wanted, got))
    volatile = [*VOLATILE, *(NAMED[name] for name in named if name in NAMED)]
    documents = isinstance(wanted, dict) and isinstance(got, dict)  # protobuf makes ordered ones
    if type(wanted) is not type(got) and not numbers and not documents:
        yield f"{where} is {got!r} instead of {wanted!r}"[:300]
    elif any(re.search(place, where) for place in volatile):
        return
    elif isinstance(wanted, dict):
        for name in wanted.keys() | got.keys():
            if name in wanted and name in got:
                yield from _documents(wanted[name], got[name], f"{where}.{name}", named)
            else:
                yield f"{where}.{name} is {'missing' if name in wanted else 'not in the recording'}"
    elif isinstance(wanted, list) and not UNORDERED.search(where):
        if len(wanted) != len(got):
            yield f"{where} has {len(got)} elements instead of {len(wanted)}"
        for index, (one, other) in enumerate(zip(wanted, got, strict=False)):
            yield from _documents(one, other, f"{where}[{index}]", named)
    elif isinstance(wanted, list):
        if sorted(wanted) != sorted(got):
            yield f"{where} is {got!r} instead of {wanted!r}"
    elif wanted != got and not (isinstance(wanted, float) and abs(wanted - got) <= 1e-6 * max(1, abs(wanted))):
        yield f"{where} is {got!r} instead of {wanted!r}"[:300]

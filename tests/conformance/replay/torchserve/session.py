"""A recorded session, replayed against a server that is started for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .compare import differences
from .exchange import Run
from .servers import SessionServer, download_server
from .steps import run_step
from .wire import Message

#: Records that do something and have no answer to compare.
SILENT = ("sleep", "save_tokens")


@dataclass
class Outcome:
    """Records by name: those that went as recorded, and what was otherwise in the others."""

    passed: set[str] = field(default_factory=set)
    mismatches: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Recordings:
    """A folder of recordings: `golden/sessions.json` tells the sessions, their records and how the server was started."""

    folder: Path

    def sessions(self) -> dict[str, Message]:
        found: list[Message] = json.loads((self.folder / "golden" / "sessions.json").read_text())["sessions"]
        return {session["name"]: session for session in found}

    def replay(
        self, name: str, command: Sequence[str], urls: Mapping[str, str], archives: Path, folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Outcome:  # fmt: skip
        """Replays a session.

        command    starts the server in the foreground;  urls: where it is to listen
        archives   the folder of the .mar files;  folder: for working directories
        """
        session, outcome = self.sessions()[name], Outcome()
        with (
            download_server(archives) as downloads,
            SessionServer(command, session, urls, archives, folder, environment or {}) as server,
        ):
            run = Run(dict(urls), self.folder, server.workdir, server.model_store, downloads)
            for file in session["records"]:
                self._replay_record(json.loads((self.folder / "golden" / file).read_text()), run, outcome)
        return outcome

    def _replay_record(self, record: Message, run: Run, outcome: Outcome) -> None:
        try:
            told = differences(record, run_step(record, run))
        except Exception as error:  # noqa: BLE001 - an answer that cannot be read is a mismatch, not the end
            told = [f"{type(error).__name__}: {error}"]
        name = record["name"].partition(".")[2]
        if record.get("kind") in SILENT:
            return
        if told:
            outcome.mismatches[name] = told
        else:
            outcome.passed.add(name)

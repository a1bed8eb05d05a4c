"""What both consumers share: each event is handled once, however often it arrives, and a poisonous one is put aside."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # generated from the JSON Schema that `relay types --schema dsync.user.created` prints
    from event import DsyncUserCreated


class Poison(Exception):
    """The event can never be handled, however often it is tried. Anything else that is raised is tried again."""


def apply(event: DsyncUserCreated) -> dict:
    """Your work. What it returns is stored together with the id of the event."""
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        raise Poison("the body is not an event: it has no data")
    return {"event": event["event"], "about": event["data"].get("id")}


class Ledger:
    """The results, and the ids of the events that they came from: one line each, written to the disk before the message is acknowledged.

    In a service this is a table whose primary key is the event id, and id and result are written in one transaction. One process has
    the files at a time.
    """

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "handled.jsonl")
        self.handled = open(path, "ab+")
        self.parked = open(os.path.join(folder, "parked.jsonl"), "ab")
        self.seen = set()
        self.handled.seek(0)
        whole = 0
        for line in self.handled:
            if not line.endswith(b"\n"):  # torn off by a crash, before it was acknowledged
                break
            self.seen.add(json.loads(line)["event_id"])
            whole += len(line)
        self.handled.truncate(whole)

    def handle(self, event_id, body):
        """Returns when the message may be acknowledged: the event has been handled, was before, or is parked."""
        if event_id in self.seen:
            return
        try:
            if not event_id:
                raise Poison("the header event-id is missing")
            try:
                event = json.loads(body)
            except ValueError as err:
                raise Poison(f"the body is not JSON: {err}") from err
            result = apply(event)
            _append(self.handled, {"event_id": event_id, **result})
            self.seen.add(event_id)
            print(f"handled event {event_id}: {result['event']} {result['about']}", flush=True)
        except Poison as err:  # put aside for a person, so that it does not hold up what comes after it
            text = body.decode("utf-8", "replace")
            _append(self.parked, {"event_id": event_id, "reason": str(err), "at": time.time(), "body": text})
            print(f"parked event {event_id}: {err}", flush=True)


def _append(file, record):
    file.write(json.dumps(record).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())

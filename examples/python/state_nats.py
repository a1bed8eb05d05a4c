"""Follows the state of one entity on NATS: its key-value bucket, and then each change."""

import asyncio
import os
import signal

import nats

URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
ENTITY = os.environ.get("ENTITY", "directory_user")


async def main():
    stopped = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, stopped.set)
    nc = await nats.connect(URL, max_reconnect_attempts=-1)
    bucket = await nc.jetstream().key_value(f"STATE_{ENTITY}")
    watch = await bucket.watchall()  # begins with the newest version of every key
    objects = {}  # a service that must remember it between two starts keeps it in its database
    while not stopped.is_set():
        try:
            entry = await watch.updates(timeout=1)
        except nats.errors.TimeoutError:
            continue
        if entry is None:  # what there was has come; changes follow
            print(f"current\t{len(objects)}", flush=True)
        elif entry.operation in ("DEL", "PURGE"):
            objects.pop(entry.key, None)
            print(f"removed\t{entry.key}", flush=True)
        else:
            objects[entry.key] = entry.value
            print(f"set\t{entry.key}\t{entry.value.decode()}", flush=True)
    await nc.close()


asyncio.run(main())

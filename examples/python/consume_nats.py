"""Consumes one topic of relay from NATS JetStream: a durable pull consumer, each message acknowledged after it has been handled."""

import asyncio
import os
import signal

import nats
from nats.errors import TimeoutError as NothingYet
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from handler import Ledger

URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
STREAM = os.environ.get("STREAM", "WORKOS")
TOPIC = os.environ.get("TOPIC", "dsync.user.created")
NAME = os.environ.get("CONSUMER", "example-python")  # the position is kept on the server under this name
ACK_WAIT = float(os.environ.get("ACK_WAIT", "30"))  # seconds; longer than handling takes, or call msg.in_progress() meanwhile
RETRY_AFTER = 5  # seconds, for what may go better later


async def main():
    stopped = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, stopped.set)
    ledger = Ledger(os.environ.get("DATA", "data"))
    nc = await nats.connect(URL, max_reconnect_attempts=-1)
    js = nc.jetstream()
    await js.add_consumer(
        STREAM,
        ConsumerConfig(
            durable_name=NAME,
            filter_subject=TOPIC,  # without one the messages with relay's own position come, too
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT,
            max_ack_pending=1,  # keeps the order when a message is delivered again; more where order does not matter
        ),
    )
    messages = await js.pull_subscribe_bind(NAME, STREAM)
    while not stopped.is_set():
        try:
            (msg,) = await messages.fetch(1, timeout=1)
        except NothingYet:
            continue
        try:
            ledger.handle((msg.headers or {}).get("event-id"), msg.data)
        except Exception as err:
            print(f"trying again in {RETRY_AFTER} s: {err}", flush=True)
            await msg.nak(delay=RETRY_AFTER)
            continue
        try:
            await msg.ack_sync()
        except NothingYet:
            pass  # it comes again, and is known by its id
    await nc.close()  # nothing is under way: each message has been acknowledged


asyncio.run(main())

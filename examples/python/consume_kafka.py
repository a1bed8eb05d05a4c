"""Consumes one topic of relay from Kafka: committed messages only, the offset committed after they have been handled."""

import os
import signal

from confluent_kafka import Consumer, KafkaError, KafkaException

from handler import Ledger

BROKERS = os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092")
TOPIC = os.environ.get("TOPIC", "dsync.user.created")
GROUP = os.environ.get("CONSUMER", "example-python")  # the position is kept on the cluster under this name


def main():
    running = True

    def stop(*_):
        nonlocal running
        running = False

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    ledger = Ledger(os.environ.get("DATA", "data"))
    consumer = Consumer(
        {
            "bootstrap.servers": BROKERS,
            "group.id": GROUP,
            "isolation.level": "read_committed",  # relay's exactly_once is a transaction: without this its aborted attempts come, too
            "enable.auto.commit": False,  # a timer would commit what has not been handled yet
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 10000,  # for so long a consumer that died keeps its partitions
        }
    )
    consumer.subscribe([TOPIC])
    try:
        while running:
            messages = consumer.consume(num_messages=100, timeout=1)
            for msg in messages:
                if msg.error():
                    if not msg.error().retriable() and msg.error().code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise KafkaException(msg.error())
                    print(f"waiting: {msg.error()}", flush=True)
                    continue
                # What is raised here ends the process before anything more is committed; it starts again at the last commit.
                ledger.handle(dict(msg.headers() or []).get("event-id", b"").decode(), msg.value() or b"")
            if any(not m.error() for m in messages):
                commit(consumer)
    finally:
        consumer.close()  # leaves the group, so that others take the partitions over at once


def commit(consumer):
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as err:
        # The partitions went to another consumer meanwhile: it gets the messages again, and each is known by its id where the ledger
        # is shared between them.
        print(f"not committed: {err}", flush=True)


main()

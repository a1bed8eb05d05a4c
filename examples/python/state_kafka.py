"""Follows the state of one entity on Kafka: its compacted topic from the beginning, and then each change."""

import os
import signal

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

BROKERS = os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092")
TOPIC = os.environ.get("PREFIX", "") + "state." + os.environ.get("ENTITY", "directory_user")


def main():
    running = True

    def stop(*_):
        nonlocal running
        running = False

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    consumer = Consumer(
        {
            "bootstrap.servers": BROKERS,
            "group.id": "unused",  # no group: every instance of a service needs the whole table
            "isolation.level": "read_committed",  # without this it would also see transactions that relay aborts
            "enable.auto.commit": False,
        }
    )
    partitions = consumer.list_topics(TOPIC, timeout=60).topics[TOPIC].partitions
    if not partitions:
        raise SystemExit(f"topic {TOPIC} does not exist: start relay with state for this entity, which creates it")
    consumer.assign([TopicPartition(TOPIC, p, OFFSET_BEGINNING) for p in partitions])
    objects = {}  # a service that must remember it between two starts keeps it in its database
    try:
        while running:
            for msg in consumer.consume(num_messages=100, timeout=1):
                if msg.error():
                    print(f"waiting: {msg.error()}", flush=True)
                    continue
                key = msg.key().decode()
                if msg.value() is None:
                    objects.pop(key, None)
                    print(f"removed\t{key}", flush=True)
                else:
                    objects[key] = msg.value()
                    print(f"set\t{key}\t{msg.value().decode()}", flush=True)
    finally:
        consumer.close()


main()

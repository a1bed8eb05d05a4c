// Consumes one topic of relay from Kafka: committed messages only, the offset committed after they have been handled.
import { setTimeout as sleep } from "node:timers/promises";
import kafkajs from "kafkajs";
import { compressFrameSync, decompressFrameSync } from "lz4-napi";
import { Ledger } from "./handler.js";

const { CompressionCodecs, CompressionTypes, Kafka, KafkaJSProtocolError, logLevel } = kafkajs;
// relay compresses with lz4 unless told otherwise, and kafkajs does not bring it along.
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder: { buffer: Buffer }) => compressFrameSync(encoder.buffer),
  decompress: async (bytes: Buffer) => decompressFrameSync(bytes),
});

const env = process.env;
const ledger = new Ledger(env.DATA ?? "data");
const kafka = new Kafka({
  clientId: "example-typescript",
  brokers: (env.KAFKA_BROKERS ?? "127.0.0.1:9092").split(","),
  logLevel: logLevel.WARN,
});
const consumer = kafka.consumer({
  groupId: env.CONSUMER ?? "example-typescript", // the position is kept on the cluster under this name
  readUncommitted: false, // relay's exactly_once is a transaction: its aborted attempts must not come
  sessionTimeout: 10_000, // milliseconds; for so long a consumer that died keeps its partitions
  allowAutoTopicCreation: false, // relay creates its topics, with the settings that they need
});

let failed: Error | undefined;
let stopping = false;
const stopped = new Promise<void>((resolve) => {
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => {
      stopping = true;
      resolve();
    });
  }
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    if (payload.restart) return; // kafkajs goes on by itself, from the last commit
    failed = payload.error;
    resolve();
  });
});

// subscribe waits for a topic that relay has not created yet.
async function subscribe() {
  const topic = env.TOPIC ?? "dsync.user.created";
  while (!stopping) {
    try {
      return await consumer.subscribe({ topics: [topic], fromBeginning: true });
    } catch (err) {
      if (!(err instanceof KafkaJSProtocolError) || err.type !== "UNKNOWN_TOPIC_OR_PARTITION") throw err;
      console.log(`waiting: topic ${topic}: ${err.message}`);
      await Promise.race([stopped, sleep(1000)]);
    }
  }
}

await consumer.connect();
await subscribe();
if (!stopping) await consumer.run({
  autoCommit: false, // a timer would commit what has not been handled yet
  eachMessage: async ({ topic, partition, message }) => {
    // What is thrown here is tried again from the last commit.
    ledger.handle(message.headers?.["event-id"]?.toString(), message.value ?? Buffer.alloc(0));
    await consumer.commitOffsets([{ topic, partition, offset: (BigInt(message.offset) + 1n).toString() }]);
  },
});
await stopped;
await consumer.disconnect(); // leaves the group, so that others take the partitions over at once
if (failed) {
  console.error(failed);
  process.exitCode = 1;
}

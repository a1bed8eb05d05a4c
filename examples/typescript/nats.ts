// Consumes one topic of relay from NATS JetStream: a durable pull consumer, each message acknowledged after it has been handled.
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos } from "@nats-io/transport-node";
import { Ledger } from "./handler.js";

const env = process.env;
const stream = env.STREAM ?? "WORKOS";
const name = env.CONSUMER ?? "example-typescript"; // the position is kept on the server under this name
const retryAfter = 5_000; // milliseconds, for what may go better later

const ledger = new Ledger(env.DATA ?? "data");
const nc = await connect({ servers: env.NATS_URL ?? "nats://127.0.0.1:4222", maxReconnectAttempts: -1 });
await (await jetstreamManager(nc)).consumers.add(stream, {
  durable_name: name,
  filter_subject: env.TOPIC ?? "dsync.user.created", // without one the messages with relay's own position come, too
  deliver_policy: DeliverPolicy.All,
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(1000 * Number(env.ACK_WAIT ?? 30)), // longer than handling takes, or call msg.working() meanwhile
  max_ack_pending: 1, // keeps the order when a message is delivered again; more where order does not matter
});
const consumer = await jetstream(nc).consumers.get(stream, name);
const messages = await consumer.consume({ max_messages: 1 });
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => messages.stop());

for await (const msg of messages) {
  try {
    ledger.handle(msg.headers?.get("event-id"), msg.data);
  } catch (err) {
    console.log(`trying again in ${retryAfter / 1000} s: ${err}`);
    msg.nak(retryAfter);
    continue;
  }
  // false: the server did not confirm. The message comes again, and is known by its id.
  if (!(await msg.ackAck())) console.log(`not confirmed: message ${msg.seq}`);
}
await nc.drain();

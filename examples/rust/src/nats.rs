//! Consumes one topic of relay from NATS JetStream: a durable pull consumer, each message acknowledged
//! after it has been handled.

use crate::{env, handler::Ledger, Result, Stop};
use async_nats::jetstream::{self, consumer, AckKind};
use futures_util::StreamExt;
use std::time::Duration;

const RETRY_AFTER: Duration = Duration::from_secs(5); // for what may go better later

pub async fn consume() -> Result<()> {
    let mut stop = Stop::new()?;
    let mut ledger = Ledger::open(&env("DATA", "data"))?;
    let client = async_nats::connect(env("NATS_URL", "nats://127.0.0.1:4222")).await?;
    let name = env("CONSUMER", "example-rust"); // the position is kept on the server under this name
    let stream = jetstream::new(client).get_stream(env("STREAM", "WORKOS")).await?;
    let consumer = stream
        .create_consumer(consumer::pull::Config {
            durable_name: Some(name),
            filter_subject: env("TOPIC", "dsync.user.created"), // without one the messages with relay's own position come, too
            deliver_policy: consumer::DeliverPolicy::All,
            ack_policy: consumer::AckPolicy::Explicit,
            ack_wait: Duration::from_secs_f64(env("ACK_WAIT", "30").parse()?), // longer than handling takes, or send AckKind::Progress meanwhile
            max_ack_pending: 1, // keeps the order when a message is delivered again; more where order does not matter
            ..Default::default()
        })
        .await?;
    let mut messages = consumer.stream().max_messages_per_batch(1).messages().await?;
    loop {
        let msg = tokio::select! {
            msg = messages.next() => msg,
            _ = stop.requested() => return Ok(()),
        };
        let msg = match msg {
            Some(Ok(msg)) => msg,
            Some(Err(err)) => {
                eprintln!("waiting: {err}");
                continue;
            }
            None => return Err("the consumer is gone".into()),
        };
        let id = msg.headers.as_ref().and_then(|headers| headers.get("event-id")).map(|value| value.as_str());
        if let Err(err) = ledger.handle(id, &msg.payload) {
            println!("trying again in {} s: {err}", RETRY_AFTER.as_secs());
            msg.ack_with(AckKind::Nak(Some(RETRY_AFTER))).await?;
            continue;
        }
        if let Err(err) = msg.double_ack().await {
            println!("not confirmed: {err}"); // it comes again, and is known by its id
        }
    }
}

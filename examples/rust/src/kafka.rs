//! Consumes one topic of relay from Kafka: committed messages only, the offset committed after they
//! have been handled.

use crate::{env, handler::Ledger, Result, Stop};
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::Headers;
use rdkafka::{ClientConfig, Message};

pub async fn consume() -> Result<()> {
    let mut stop = Stop::new()?;
    let mut ledger = Ledger::open(&env("DATA", "data"))?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", env("KAFKA_BROKERS", "127.0.0.1:9092"))
        .set("group.id", env("CONSUMER", "example-rust")) // the position is kept on the cluster under this name
        .set("isolation.level", "read_committed") // relay's exactly_once is a transaction: without this its aborted attempts come, too
        .set("enable.auto.commit", "false") // a timer would commit what has not been handled yet
        .set("auto.offset.reset", "earliest")
        .set("session.timeout.ms", "10000") // for so long a consumer that died keeps its partitions
        .create()?;
    consumer.subscribe(&[&env("TOPIC", "dsync.user.created")])?;
    loop {
        let msg = tokio::select! {
            msg = consumer.recv() => msg,
            _ = stop.requested() => return Ok(()), // leaves the group, so that others take the partitions over at once
        };
        let msg = match msg {
            Ok(msg) => msg,
            Err(err) => {
                eprintln!("waiting: {err}");
                continue;
            }
        };
        let id = msg.headers().and_then(|headers| headers.iter().find(|h| h.key == "event-id")).and_then(|h| h.value);
        let id = id.map(|id| String::from_utf8_lossy(id).into_owned());
        // After an error nothing more is committed, and the process, started again, goes on from the last commit.
        ledger.handle(id.as_deref(), msg.payload().unwrap_or_default())?;
        if let Err(err) = consumer.commit_message(&msg, CommitMode::Sync) {
            println!("not committed: {err}"); // it comes again, and is known by its id
        }
    }
}

//! Follows the state of one entity: what there is, and then each change.

use crate::{env, Result, Stop};
use async_nats::jetstream::{self, kv::Operation};
use futures_util::StreamExt;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Table has the present objects of one entity. A service that must remember them between two starts
/// keeps them in its database.
#[derive(Default)]
struct Table(HashMap<String, Vec<u8>>);

impl Table {
    /// Takes note of the newest version of an object, or of its removal if there is none.
    fn set(&mut self, key: &str, object: Option<&[u8]>) {
        match object {
            Some(object) => {
                println!("set\t{key}\t{}", String::from_utf8_lossy(object));
                self.0.insert(key.to_owned(), object.to_vec());
            }
            None => {
                println!("removed\t{key}");
                self.0.remove(key);
            }
        }
    }

    /// Says how many objects there are, once all that the bus had have come.
    fn current(&self) {
        println!("current\t{}", self.0.len());
    }
}

/// Reads the bucket of an entity on NATS. A watch with history begins with the newest version of every
/// key.
pub async fn follow_nats() -> Result<()> {
    let mut stop = Stop::new()?;
    let client = async_nats::connect(env("NATS_URL", "nats://127.0.0.1:4222")).await?;
    let bucket = jetstream::new(client).get_key_value(format!("STATE_{}", env("ENTITY", "directory_user"))).await?;
    let mut watch = bucket.watch_with_history(">").await?;
    let mut table = Table::default();
    let mut current = bucket.status().await?.values() == 0; // no entry would tell that there is none
    if current {
        table.current();
    }
    loop {
        let entry = tokio::select! {
            entry = watch.next() => entry.ok_or("the watch has ended")??,
            _ = stop.requested() => return Ok(()),
        };
        table.set(&entry.key, (entry.operation == Operation::Put).then_some(&entry.value[..]));
        if !current && entry.delta == 0 {
            current = true; // what there was has come; changes follow
            table.current();
        }
    }
}

/// Reads the compacted topic of an entity on Kafka from its beginning. It belongs to no group: every
/// instance of a service needs the whole table.
pub async fn follow_kafka() -> Result<()> {
    let mut stop = Stop::new()?;
    let topic = env("PREFIX", "") + "state." + &env("ENTITY", "directory_user");
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", env("KAFKA_BROKERS", "127.0.0.1:9092"))
        .set("group.id", "unused")
        .set("isolation.level", "read_committed") // without this it would also see transactions that relay aborts
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true") // tells when all that there was has come
        .create()?;
    let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(60))?;
    let mut partitions = TopicPartitionList::new();
    let mut unread = HashSet::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        partitions.add_partition_offset(&topic, partition.id(), Offset::Beginning)?;
        unread.insert(partition.id());
    }
    if unread.is_empty() {
        return Err(format!("topic {topic} does not exist: start relay with state for this entity, which creates it").into());
    }
    consumer.assign(&partitions)?;
    let mut table = Table::default();
    loop {
        let change = tokio::select! {
            change = consumer.recv() => change,
            _ = stop.requested() => return Ok(()),
        };
        match change {
            Ok(change) => table.set(&String::from_utf8_lossy(change.key().unwrap_or_default()), change.payload()),
            Err(KafkaError::PartitionEOF(partition)) => {
                if unread.remove(&partition) && unread.is_empty() {
                    table.current(); // changes follow
                }
            }
            Err(err) => eprintln!("waiting: {err}"),
        }
    }
}

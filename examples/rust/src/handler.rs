//! What both consumers share: each event is handled once, however often it arrives, and a poisonous
//! one is put aside.

use crate::event::Data;
use serde::Deserialize;
use serde_json::{json, Map, Value};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why an event was not handled.
enum Failure {
    /// It never can be, however often it is tried.
    Poison(String),
    /// It is tried again.
    Temporary(io::Error),
}

impl From<io::Error> for Failure {
    fn from(err: io::Error) -> Failure {
        Failure::Temporary(err)
    }
}

#[derive(Deserialize)]
struct Event {
    event: String,
    data: Map<String, Value>,
}

/// Apply is your work. What it returns is stored together with the id of the event. The type Data is
/// generated from the JSON Schema that `relay types --schema dsync.user.created` prints; a topic may
/// carry events of other types as well.
fn apply(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    let poison = |err: serde_json::Error| Failure::Poison(format!("the body is not an event: {err}"));
    let event: Event = serde_json::from_slice(body).map_err(poison)?;
    let about = match event.event.as_str() {
        "dsync.user.created" => {
            let user: Data = serde_json::from_value(Value::Object(event.data)).map_err(poison)?;
            Value::String(user.id)
        }
        _ => event.data.get("id").cloned().unwrap_or_default(),
    };
    Ok(Map::from_iter([("event".into(), event.event.into()), ("about".into(), about)]))
}

/// Ledger has the results, and the ids of the events that they came from: one line each, written to
/// the disk before the message is acknowledged.
///
/// In a service this is a table whose primary key is the event id, and id and result are written in
/// one transaction. One process has the files at a time.
pub struct Ledger {
    seen: HashSet<String>,
    handled: File,
    parked: File,
}

impl Ledger {
    pub fn open(folder: &str) -> crate::Result<Ledger> {
        fs::create_dir_all(folder)?;
        let (handled, lines) = open(&Path::new(folder).join("handled.jsonl"))?;
        let (parked, _) = open(&Path::new(folder).join("parked.jsonl"))?;
        let mut seen = HashSet::new();
        for line in lines.lines() {
            let record: Value = serde_json::from_str(line)?;
            seen.insert(record["event_id"].as_str().unwrap_or_default().to_owned());
        }
        Ok(Ledger { seen, handled, parked })
    }

    /// Returns without an error if the message may be acknowledged: the event has been handled, now
    /// or before, or is parked.
    pub fn handle(&mut self, id: Option<&str>, body: &[u8]) -> io::Result<()> {
        let id = id.unwrap_or_default();
        if self.seen.contains(id) {
            return Ok(());
        }
        match self.handle_new(id, body) {
            Err(Failure::Poison(reason)) => self.park(id, body, &reason), // so that it does not hold up what comes after it
            Err(Failure::Temporary(err)) => Err(err),
            Ok(()) => Ok(()),
        }
    }

    fn handle_new(&mut self, id: &str, body: &[u8]) -> Result<(), Failure> {
        if id.is_empty() {
            return Err(Failure::Poison("the header event-id is missing".into()));
        }
        let mut result = apply(body)?;
        result.insert("event_id".into(), id.into());
        append(&mut self.handled, &result)?;
        self.seen.insert(id.to_owned());
        println!("handled event {id}: {} {}", text(&result["event"]), text(&result["about"]));
        Ok(())
    }

    /// Puts an event aside for an operator.
    fn park(&mut self, id: &str, body: &[u8], reason: &str) -> io::Result<()> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        append(&mut self.parked, &json!({"event_id": id, "reason": reason, "at": at, "body": String::from_utf8_lossy(body)}))?;
        println!("parked event {id}: {reason}");
        Ok(())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Opens a file and returns its lines. What follows the last of them was torn off by a crash, before
/// it was acknowledged, and is cut off.
fn open(path: &Path) -> io::Result<(File, String)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut bytes = fs::read(path)?;
    bytes.truncate(bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1));
    file.set_len(bytes.len() as u64)?;
    Ok((file, String::from_utf8_lossy(&bytes).into_owned()))
}

fn append(file: &mut File, record: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    let end = file.metadata()?.len();
    file.write_all(&line).and_then(|()| file.sync_data()).inspect_err(|_| {
        let _ = file.set_len(end); // it is written again
    })
}

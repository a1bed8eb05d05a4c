//! Consumes one topic of relay, or follows the state of one entity.

#[allow(dead_code)] // it has the whole event
#[rustfmt::skip]
mod event;
mod handler;
mod kafka;
mod nats;
mod state;

use std::error::Error;
use tokio::signal::unix::{signal, SignalKind};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("nats") => nats::consume().await,
        Some("kafka") => kafka::consume().await,
        Some("state-nats") => state::follow_nats().await,
        Some("state-kafka") => state::follow_kafka().await,
        _ => {
            eprintln!("usage: cargo run -- nats|kafka|state-nats|state-kafka");
            std::process::exit(2);
        }
    }
}

/// Stop ends a program in order, at SIGINT or SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Stop> {
        Ok(Stop { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Returns when the program is to stop.
    async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn env(name: &str, otherwise: &str) -> String {
    std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| otherwise.into())
}

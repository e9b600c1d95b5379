//! `waypost hbone hold`: many tunnels open at the same time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{ArgMatches, Command};
use serde_json::json;
use tokio::sync::Semaphore;

use super::client::{Client, Renewed, Target, within};
use super::{count_arg, note, print_json, target, target_arg};
use crate::tools::args::{duration, option, value};
use crate::tools::error::Error;
use crate::tools::exchange::exchange;
use crate::tools::tunnel::Tunnel;

/// Tunnels that are opened, or asked, at a time: the test is of how many are held, not of a stampede.
const AT_A_TIME: usize = 256;

/// The command's arguments.
pub fn cli() -> Command {
    Command::new("hold")
        .about("Opens N tunnels, asks on each, holds them all, and asks again; one line of JSON")
        .args(super::client::args())
        .arg(count_arg("count", "100", "how many tunnels"))
        .arg(count_arg("connections", "1", "HBONE connections"))
        .arg(option("hold", "TIME", "how long to hold them in between").default_value("0s").value_parser(duration))
        .arg(target_arg())
}

/// What became of the tunnels.
#[derive(Debug, Default)]
pub struct Held {
    /// Opened, and answered once.
    pub opened: usize,
    /// Answered a second time.
    pub kept: usize,
    /// The first failure.
    pub first_error: Option<String>,
    /// How long the opening took.
    pub opening: Duration,
}

/// Runs and prints the line; every tunnel has to answer twice.
pub async fn run(m: &ArgMatches) -> Result<(), Error> {
    let client = Arc::new(Client::from_args(m)?);
    let (count, connections): (u32, u32) = (value(m, "count"), value(m, "connections"));
    let held = hold(&client, &target(m)?, count as usize, connections as usize, value(m, "hold")).await?;
    print_json(&json!({
        "count": count,
        "connections": connections,
        "opened": held.opened,
        "kept": held.kept,
        "opening_s": held.opening.as_secs_f64(),
    }))?;
    if held.kept == count as usize {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{} of {count} tunnels answered twice; {}",
        held.kept,
        held.first_error.unwrap_or_default()
    )))
}

type Open = (Tunnel, Bytes);

/// Opens `count` tunnels over `connections`, and asks on each before and after `time`.
pub async fn hold(
    client: &Arc<Client>,
    target: &Target,
    count: usize,
    connections: usize,
    time: Duration,
) -> Result<Held, Error> {
    let lanes = Renewed::connect(client, connections).await?;
    let mut held = Held::default();
    let start = Instant::now();
    let opening = (0..count).zip(lanes.iter().cycle()).map(|(_, lane)| {
        let (lane, authority) = (lane.clone(), target.authority.clone());
        async move { Ok((lane.get().await?.open(&authority).await?, Bytes::new())) }
    });
    let mut tunnels = asked(client, target, opening, &mut held.first_error).await;
    held.opened = tunnels.len();
    held.opening = start.elapsed();
    if let (Some(lane), true) = (lanes.first(), tunnels.len() < count) {
        let (each, most) = (count.div_ceil(connections), lane.get().await?.max_streams());
        if each > most {
            note(&format!("{each} tunnels on a connection, but the peer takes {most}: more --connections are needed"))?;
        }
    }
    if !time.is_zero() {
        note(&format!("holding {} tunnels for {time:?}", tunnels.len()))?;
        tokio::time::sleep(time).await;
    }
    let again = tunnels.drain(..).map(|tunnel| async move { Ok(tunnel) }).collect::<Vec<_>>();
    held.kept = asked(client, target, again, &mut held.first_error).await.len();
    Ok(held)
}

/// One request on each tunnel; those that were answered below 400.
async fn asked<F>(
    client: &Client,
    target: &Target,
    tunnels: impl IntoIterator<Item = F>,
    first_error: &mut Option<String>,
) -> Vec<Open>
where
    F: Future<Output = Result<Open, Error>> + Send + 'static,
{
    let gate = Arc::new(Semaphore::new(AT_A_TIME));
    let request = target.get(target.path());
    let tasks: Vec<_> = tunnels
        .into_iter()
        .map(|tunnel| {
            let (gate, request, authority, limit) =
                (gate.clone(), request.clone(), target.authority.clone(), client.timeout);
            tokio::spawn(async move {
                let _turn = gate.acquire_owned().await;
                let (mut tunnel, mut input) = tunnel.await?;
                let answer = within(limit, "an answer", async {
                    exchange(&mut tunnel, &mut input, request).await.map_err(|e| Error::tunnel(&authority, e))
                })
                .await?;
                if answer.status < 400 {
                    Ok((tunnel, input))
                } else {
                    Err(Error::Failed(format!("answered {}", answer.status)))
                }
            })
        })
        .collect();
    let mut answered = Vec::with_capacity(tasks.len());
    for task in tasks {
        match task.await.unwrap_or_else(|e| Err(Error::Failed(e.to_string()))) {
            Ok(open) => answered.push(open),
            Err(e) => _ = first_error.get_or_insert_with(|| e.to_string()),
        }
    }
    answered
}

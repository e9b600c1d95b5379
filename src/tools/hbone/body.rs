//! `waypost hbone body`: one large body, sent or read at a chosen rate, to see what a proxy keeps of it in memory.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;

use super::client::{Client, Target};
use super::{print_json, target, target_arg};
use crate::tools::args::{duration, option, rate, size, value};
use crate::tools::error::Error;
use crate::tools::exchange::{next, response_head};
use crate::tools::sink::page::{Filler, Pace};
use crate::tools::tunnel::Wire;

/// The command's arguments.
pub fn cli() -> Command {
    let flag = |name, help| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("body")
        .about("Sends (--up) or reads (--down, from the sink's /big/SIZE) one large body; one line of JSON")
        .args(super::client::args())
        .arg(option("size", "SIZE", "how much, as 1GiB").required(true).value_parser(size))
        .arg(option("rate", "RATE", "how fast, as 1MB/s; as fast as it goes unless given").value_parser(rate))
        .arg(flag("up", "send it").conflicts_with("down"))
        .arg(flag("down", "read it (unless told otherwise)"))
        .arg(option("limit-seconds", "TIME", "stop then, whole or not").value_parser(duration))
        .arg(target_arg())
}

/// Transfers, and prints how far it came.
pub async fn run(m: &ArgMatches) -> Result<(), Error> {
    let (client, target) = (Client::from_args(m)?, target(m)?);
    let (size, up) = (value::<u64>(m, "size"), m.get_flag("up"));
    let pace = m.get_one::<u64>("rate").map(|r| Pace::new(*r));
    let limit = m.get_one::<Duration>("limit-seconds").copied();
    let mut tunnel = client.connect(0).await?.open(&target.authority).await?;
    let (start, mut done) = (Instant::now(), 0);
    let transfer = async {
        let status = if up {
            send(&mut tunnel, &target, size, pace, &mut done).await
        } else {
            read(&mut tunnel, &target, size, pace, &mut done).await
        };
        status.map_err(|e| Error::tunnel(&target.authority, e))
    };
    let status = match limit {
        Some(limit) => tokio::time::timeout(limit, transfer).await.ok().transpose()?,
        None => Some(transfer.await?),
    };
    let complete = status.is_some() && done == size;
    print_json(&json!({
        "bytes": done,
        "complete": complete,
        "status": status,
        "seconds": start.elapsed().as_secs_f64(),
    }))?;
    match status {
        Some(status) if status >= 400 || !complete => {
            Err(Error::Failed(format!("{done} of {size} bytes, answered {status}")))
        }
        _ => Ok(()),
    }
}

/// Sends `size` bytes; the status of the answer.
pub async fn send<W: Wire>(
    wire: &mut W,
    target: &Target,
    size: u64,
    mut pace: Option<Pace>,
    done: &mut u64,
) -> io::Result<u16> {
    let head = format!("POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {size}\r\n\r\n", target.path(), target.host());
    wire.write(Bytes::from(head)).await?;
    for piece in Filler::new(size) {
        let n = piece.len();
        if let Err(e) = wire.write(piece).await {
            // An answer that came early says why.
            return response_head(wire, &mut Bytes::new()).await.map(|(status, _)| status).map_err(|_| e);
        }
        *done += n as u64;
        if let Some(pace) = &mut pace {
            pace.spend(n).await;
        }
    }
    response_head(wire, &mut Bytes::new()).await.map(|(status, _)| status)
}

/// Reads `size` bytes; the status of the answer.
pub async fn read<W: Wire>(
    wire: &mut W,
    target: &Target,
    size: u64,
    mut pace: Option<Pace>,
    done: &mut u64,
) -> io::Result<u16> {
    wire.write(target.get(&format!("/big/{size}"))).await?;
    let mut input = Bytes::new();
    let (status, framing) = response_head(wire, &mut input).await?;
    let mut body = framing.response_body(status);
    while let Some(data) = next(wire, &mut input, &mut body).await? {
        *done += data.len() as u64;
        if let Some(pace) = &mut pace {
            pace.spend(data.len()).await;
        }
    }
    Ok(status)
}

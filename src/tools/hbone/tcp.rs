//! `waypost hbone tcp`: standard input and output through a tunnel.

use std::io::{self, Read, Write};

use bytes::Bytes;
use clap::{Arg, ArgMatches, Command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::client::Client;
use crate::tools::error::Error;

/// A pipe's usual size.
const BLOCK: usize = 64 * 1024;

/// The command's arguments.
pub fn cli() -> Command {
    Command::new("tcp")
        .about("Pipes standard input and output through a tunnel")
        .args(super::client::args())
        .arg(Arg::new("authority").value_name("VIP:PORT").required(true).help("the CONNECT authority"))
}

/// Runs until the peer ends.
pub async fn run(m: &ArgMatches) -> Result<(), Error> {
    let client = Client::from_args(m)?;
    let authority = m.get_one::<String>("authority").map_or("", String::as_str);
    let authority = authority.strip_prefix("http://").unwrap_or(authority).trim_end_matches('/');
    let failed = |e: io::Error| Error::tunnel(authority, e);
    let tunnel = client.connect(0).await?.open(authority).await?;
    let (mut from, mut to) = tokio::io::split(tunnel);
    let mut input = standard_input();
    let up = tokio::spawn(async move {
        while let Some(data) = input.recv().await {
            to.write_all(&data?).await?;
        }
        to.shutdown().await
    });
    let mut buffer = vec![0; BLOCK];
    loop {
        let n = from.read(&mut buffer).await.map_err(failed)?;
        let Some(data) = buffer.get(..n).filter(|d| !d.is_empty()) else { break };
        let mut out = io::stdout().lock();
        out.write_all(data)?;
        out.flush()?;
    }
    // The peer has ended: what is still to be sent has nowhere to go.
    up.abort();
    Ok(())
}

/// The runtime has no standard input: a thread reads it.
fn standard_input() -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; BLOCK];
        loop {
            let read = match io::stdin().read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default())),
                Err(e) => Err(e),
            };
            let last = read.is_err();
            if sender.blocking_send(read).is_err() || last {
                return;
            }
        }
    });
    receiver
}

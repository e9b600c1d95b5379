//! `waypost hbone abort`: tunnels that are cut at random points, to see whether a proxy lets go of everything they held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::{ArgMatches, Command};
use h2::Reason;
use serde_json::{Map, Value, json};

use super::client::{Client, Renewed, Target, within};
use super::{count_arg, print_json, target, target_arg};
use crate::tools::args::{option, value};
use crate::tools::error::Error;
use crate::tools::tunnel::{Tunnel, Wire};

/// At a time on one connection: enough to keep it busy, far below the hundred that a waypoint takes.
const LANES: usize = 16;

/// The body that a request announces, and the answer that is asked for: more than a proxy buffers.
const BODY: usize = 1 << 20;

/// The command's arguments.
pub fn cli() -> Command {
    Command::new("abort")
        .about("Opens tunnels and cuts each at a random point; one line of JSON")
        .args(super::client::args())
        .arg(count_arg("count", "1000", "how many tunnels"))
        .arg(count_arg("connections", "1", "HBONE connections"))
        .arg(option("seed", "N", "for the same points again").value_parser(clap::value_parser!(u64)))
        .arg(target_arg())
}

/// Where a tunnel is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// CONNECT is sent, the answer is not awaited.
    Connect,
    /// The tunnel is open, nothing was sent.
    Open,
    /// In the head of a request.
    Head,
    /// In its body.
    Body,
    /// While the answer comes.
    Answer,
}

const POINTS: [(Point, &str); 5] = [
    (Point::Connect, "before_answer"),
    (Point::Open, "tunnel_open"),
    (Point::Head, "request_head"),
    (Point::Body, "request_body"),
    (Point::Answer, "answer"),
];

/// How tunnels ended, by point: cut by us, or failed before.
#[derive(Debug, Default)]
pub struct Counts {
    cut: [AtomicU64; POINTS.len()],
    failed: [AtomicU64; POINTS.len()],
}

impl Counts {
    /// All that were cut, and all that failed.
    pub fn totals(&self) -> (u64, u64) {
        let sum = |all: &[AtomicU64]| all.iter().map(|n| n.load(Ordering::Relaxed)).sum();
        (sum(&self.cut), sum(&self.failed))
    }

    fn json(&self) -> Map<String, Value> {
        let number = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let pairs = self.cut.iter().zip(&self.failed);
        POINTS
            .iter()
            .zip(pairs)
            .map(|((_, name), (cut, failed))| {
                ((*name).to_owned(), json!({"cut": number(cut), "failed": number(failed)}))
            })
            .collect()
    }
}

/// Runs and prints the counts. Tunnels may fail; that none could even be asked for is an error.
pub async fn run(m: &ArgMatches) -> Result<(), Error> {
    let client = Arc::new(Client::from_args(m)?);
    let seed = m
        .get_one::<u64>("seed")
        .copied()
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.subsec_nanos().into()));
    let (count, connections): (u32, u32) = (value(m, "count"), value(m, "connections"));
    let counts = abort(&client, &target(m)?, count.into(), connections as usize, seed).await?;
    let (cut, failed) = counts.totals();
    let mut line = Map::from_iter([("count".to_owned(), json!(cut + failed)), ("seed".to_owned(), json!(seed))]);
    line.extend(counts.json());
    print_json(&Value::Object(line))?;
    if cut == 0 { Err(Error::Failed(format!("not one of {failed} tunnels got as far as to be cut"))) } else { Ok(()) }
}

/// Opens `count` tunnels and cuts them.
pub async fn abort(
    client: &Arc<Client>,
    target: &Target,
    count: u64,
    connections: usize,
    seed: u64,
) -> Result<Arc<Counts>, Error> {
    let lanes = Renewed::connect(client, connections).await?;
    let left = Arc::new(AtomicU64::new(count));
    let counts = Arc::new(Counts::default());
    let tasks: Vec<_> = (0..)
        .zip(lanes.iter().flat_map(|lane| std::iter::repeat_n(lane, LANES)))
        .map(|(n, lane)| {
            let (lane, target, left, counts) = (lane.clone(), target.clone(), left.clone(), counts.clone());
            let (mut random, limit) = (Random::new(seed.wrapping_add(n)), client.timeout);
            tokio::spawn(async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    let at = random.below(POINTS.len());
                    let Some((point, name)) = POINTS.get(at) else { continue };
                    let done = within(limit, name, cut(&lane, &target, *point, &mut random)).await;
                    let kind = if done.is_ok() { &counts.cut } else { &counts.failed };
                    if let Some(n) = kind.get(at) {
                        n.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|e| Error::Failed(e.to_string()))?;
    }
    Ok(counts)
}

async fn cut(lane: &Renewed, target: &Target, point: Point, random: &mut Random) -> Result<(), Error> {
    let failed = |e| Error::tunnel(&target.authority, e);
    let connection = lane.get().await?;
    if point == Point::Connect {
        let (_answer, mut send) = connection.start(&target.authority).await?;
        flushed(random).await;
        send.send_reset(Reason::CANCEL);
        return Ok(());
    }
    let mut tunnel = connection.open(&target.authority).await?;
    match point {
        Point::Connect | Point::Open => {}
        Point::Head => {
            let mut head = target.get(target.path());
            head.truncate(1 + random.below(head.len() - 1));
            tunnel.write(head).await.map_err(failed)?;
        }
        Point::Body => {
            let head =
                format!("POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {BODY}\r\n\r\n", target.path(), target.host());
            tunnel.write(Bytes::from(head)).await.map_err(failed)?;
            flushed(random).await;
            tunnel.write(Bytes::from(vec![b'x'; random.below(BODY)])).await.map_err(failed)?;
        }
        Point::Answer => {
            tunnel.write(target.get(&format!("/big/{BODY}"))).await.map_err(failed)?;
            for _ in 0..=random.below(4) {
                if tunnel.read().await.map_err(failed)?.is_empty() {
                    return Err(Error::tunnel(&target.authority, "closed before it could be cut"));
                }
            }
        }
    }
    flushed(random).await;
    end(tunnel, random).await.map_err(failed)
}

/// Lets the connection write what waits; a reset would drop it otherwise, and the peer would never see the stream.
async fn flushed(random: &mut Random) {
    for _ in 0..2 + random.below(4) {
        tokio::task::yield_now().await;
    }
}

/// RST_STREAM, or END_STREAM with RST_STREAM behind it for what the peer still sends.
async fn end(mut tunnel: Tunnel, random: &mut Random) -> std::io::Result<()> {
    match random.below(4) {
        0 => {
            tunnel.close().await?;
            flushed(random).await;
        }
        1 => tunnel.reset(Reason::INTERNAL_ERROR),
        _ => tunnel.reset(Reason::CANCEL),
    }
    Ok(())
}

/// Xorshift: points need to be spread, not unpredictable.
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        // Xorshift never leaves zero; the multiplier (of splitmix64) spreads neighbouring seeds.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1))
    }

    /// A number below `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) as usize) % n.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_taken() {
        let mut random = Random::new(0);
        let mut seen = [0; POINTS.len()];
        (0..1000).for_each(|_| seen[random.below(POINTS.len())] += 1);
        assert!(seen.iter().all(|n| *n > 150), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn a_seed_repeats_itself() {
        let draw = |seed| {
            (0..8)
                .map({
                    let mut r = Random::new(seed);
                    move |_| r.below(1000)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}

//! `waypost explain`: the way a request takes through a configuration, and why.
//!
//! The configuration is compiled by the code that the proxy compiles it with, and every decision is taken by the code that takes it there;
//! what is here only asks, and tells.

mod ask;
mod http;
mod outcome;
mod prepare;
mod source;
mod step;
#[cfg(test)]
mod tests;
mod upstream;
mod walk;
mod world;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use self::ask::Ask;
use self::source::Source;
use self::walk::Walk;
use self::world::World;
use super::args::{command, option};
use super::error::Error;

const EXAMPLES: &str = "\
Examples:
  # The way of a request that a ztunnel sends to a service through a running waypoint
  waypost explain --admin 127.0.0.1:15000 --hbone 10.96.0.10:9080 --peer spiffe://cluster.local/ns/default/sa/client -H 'x-user: jason' /reviews/0

  # Through an ingress, by its configuration file
  waypost explain -c bootstrap.yaml --address 8080 http://shop.example/cart

Decisions that depend on chance are taken for --random. A filter that asks another service is taken for a yes.";

/// The command's arguments.
pub fn cli() -> Command {
    let command = command("explain", "Tells which way a request takes through a configuration, and why")
        .after_help(EXAMPLES)
        .arg(
            option("admin", "IP:PORT", "the admin address of a running proxy")
                .value_parser(clap::value_parser!(SocketAddr))
                .required_unless_present("config")
                .conflicts_with("config"),
        )
        .arg(
            option("config", "FILE", "a bootstrap, or a saved /config_dump?include_eds")
                .short('c')
                .value_parser(clap::value_parser!(PathBuf)),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON"));
    ask::args(command)
}

/// Reads, asks and prints.
pub fn run(m: &ArgMatches) -> Result<(), Error> {
    let ask = ask::ask(m)?;
    let source = match (m.get_one::<SocketAddr>("admin"), m.get_one::<PathBuf>("config")) {
        (Some(address), _) => source::admin(*address)?,
        (None, Some(path)) => source::file(path)?,
        (None, None) => return Err(Error::Usage("--admin or --config says where the configuration is".into())),
    };
    let answer = explain(source, &ask, m.get_flag("json"));
    let mut out = std::io::stdout().lock();
    out.write_all(answer.as_bytes())?;
    Ok(out.flush()?)
}

/// The whole answer, as text or as JSON.
fn explain(source: Source, ask: &Ask, as_json: bool) -> String {
    let world = World::compile(source);
    let (steps, outcome) = Walk::explain(&world, ask);
    let layers: Vec<String> = ask.layers.iter().map(ToString::to_string).collect();
    let request = format!("{} from {}", layers.join(", with "), ask.source);
    let errors: Vec<String> = world
        .broken_clusters
        .iter()
        .map(|(name, e)| format!("cluster {name}: {e}"))
        .chain(world.broken_endpoints.iter().map(|(name, e)| format!("endpoints {name}: {e}")))
        .chain(world.broken_listeners.iter().map(|(name, e)| format!("listener {name}: {e}")))
        .chain(world.broken_routes.iter().map(|(name, e)| format!("route configuration {name}: {e}")))
        .chain(world.broken_extensions.iter().map(|(name, e)| format!("extension {name}: {e}")))
        .chain(chain_errors(&world))
        .collect();
    if as_json {
        let steps: Vec<Value> = steps.iter().map(step::Step::json).collect();
        let answer = json!({ "request": request, "steps": steps, "outcome": outcome.json(), "errors": errors });
        // A value of strings and numbers is always JSON.
        return serde_json::to_string_pretty(&answer).unwrap_or_default() + "\n";
    }
    let mut out = format!("{request}\n");
    steps.iter().for_each(|s| s.write(&mut out, 0));
    out += &format!("=> {}\n", outcome.text());
    if !errors.is_empty() {
        out += "not usable:\n";
        errors.iter().for_each(|e| out += &format!("  {e}\n"));
    }
    out
}

fn chain_errors(world: &World) -> Vec<String> {
    let mut all: Vec<_> = world.broken_chains.iter().collect();
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|((listener, number), e)| format!("listener {listener}, filter chain {number}: {e}")).collect()
}

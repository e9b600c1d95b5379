//! `waypost hbone`: a client for HBONE, the mesh's tunnel (mTLS, HTTP/2, CONNECT), in the place of a ztunnel.

pub mod abort;
pub mod body;
pub mod client;
pub mod get;
pub mod hold;
pub mod load;
mod tcp;

use std::io::{self, Write};

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::args::{command, option};
use super::error::Error;
use client::Target;

/// The command's arguments.
pub fn cli() -> Command {
    command("hbone", "Speaks HBONE to a waypoint or ztunnel")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([get::cli(), tcp::cli(), load::cli(), abort::cli(), hold::cli(), body::cli()])
}

/// Runs one of them.
pub fn run(m: &ArgMatches) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match m.subcommand() {
            Some(("get", m)) => get::run(m).await,
            Some(("tcp", m)) => tcp::run(m).await,
            Some(("load", m)) => load::run(m).await,
            Some(("abort", m)) => abort::run(m).await,
            Some(("hold", m)) => hold::run(m).await,
            Some(("body", m)) => body::run(m).await,
            _ => Err(Error::Usage("no such subcommand".into())),
        }
    });
    // A thread that reads standard input has no end of its own.
    runtime.shutdown_background();
    done
}

fn target_arg() -> Arg {
    Arg::new("url")
        .value_name("URL")
        .required(true)
        .value_parser(Target::parse)
        .help("http://VIP:port/path; VIP:port is the CONNECT authority")
}

fn target(m: &ArgMatches) -> Result<Target, Error> {
    m.get_one::<Target>("url").cloned().ok_or_else(|| Error::Usage("a URL is needed".into()))
}

fn count_arg(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    option(name, "N", help).default_value(default).value_parser(clap::value_parser!(u32).range(1..=10_000_000))
}

fn print_json(value: &Value) -> Result<(), Error> {
    Ok(writeln!(io::stdout(), "{value}")?)
}

/// A line on stderr that is no failure.
fn note(text: &str) -> Result<(), Error> {
    Ok(writeln!(io::stderr(), "{text}")?)
}

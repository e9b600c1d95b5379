//! `waypost demo`.
#[allow(dead_code)]
pub mod certs;
#[allow(dead_code)]
pub mod dir;
use super::error::Error;
pub fn cli() -> clap::Command {
    super::args::command("demo", "")
}
pub fn run(_: &clap::ArgMatches) -> Result<(), Error> {
    Ok(())
}

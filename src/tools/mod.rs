//! Tools in the box: `waypost demo`, `waypost explain`, `waypost hbone`, `waypost sink`, `waypost wire`.

mod args;
mod demo;
mod error;
mod exchange;
mod explain;
mod hbone;
mod histogram;
mod identity;
mod message;
mod sink;
#[cfg(test)]
mod tests;
mod tunnel;
mod wire;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use error::Error;

/// Runs the tool `name` with its arguments (without a program name). One line on stderr and a failure code when it fails.
pub fn run(name: &str, args: Vec<OsString>) -> ExitCode {
    match dispatch(name, args) {
        Ok(code) => code,
        Err(e) => {
            // Where stderr is closed nobody can be told.
            let _ = writeln!(io::stderr(), "waypost {name}: {e}");
            ExitCode::FAILURE
        }
    }
}

type Run = fn(&clap::ArgMatches) -> Result<(), Error>;

fn dispatch(name: &str, args: Vec<OsString>) -> Result<ExitCode, Error> {
    let (cli, run): (_, Run) = match name {
        "sink" => (sink::cli(), sink::run),
        "hbone" => (hbone::cli(), hbone::run),
        "explain" => (explain::cli(), explain::run),
        "demo" => (demo::cli(), demo::run),
        "wire" => (wire::cli(), wire::run),
        _ => return Err(Error::Usage("no such tool: demo, explain, hbone, sink or wire".into())),
    };
    match cli.try_get_matches_from(args) {
        Ok(matches) => run(&matches).map(|()| ExitCode::SUCCESS),
        Err(e) => {
            e.print()?;
            Ok(if e.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS })
        }
    }
}

//! What the tools' arguments have in common: sizes, rates, durations, and who one is.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};

use super::error::Error;
use super::identity::Identity;

/// A command of ours: arguments come without a program name.
pub fn command(name: &'static str, about: &'static str) -> Command {
    Command::new(name).bin_name(format!("waypost {name}")).no_binary_name(true).about(about)
}

/// An option with a value.
pub fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// `--cert --key --ca`.
pub fn identity_args(required: bool) -> [Arg; 3] {
    let file = |name, help| option(name, "FILE", help).required(required).value_parser(clap::value_parser!(PathBuf));
    [
        file("cert", "certificate chain, PEM"),
        file("key", "private key of the chain, PEM"),
        file("ca", "roots the peer must chain to, PEM"),
    ]
}

/// The identity that `--cert --key --ca` name; none where they are left out.
pub fn identity(m: &ArgMatches) -> Result<Option<Identity>, Error> {
    let file = |name: &str| m.get_one::<PathBuf>(name);
    match (file("cert"), file("key"), file("ca")) {
        (Some(cert), Some(key), Some(ca)) => Identity::load(cert, key, ca).map(Some),
        (None, None, None) => Ok(None),
        _ => Err(Error::Usage("--cert, --key and --ca go together".into())),
    }
}

/// A value that clap has already parsed, or its type's zero.
pub fn value<T: Clone + Default + Send + Sync + 'static>(m: &ArgMatches, name: &str) -> T {
    m.get_one::<T>(name).cloned().unwrap_or_default()
}

/// `5s`, `250ms`, `2m`, `1.5h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("{unit} is no unit of time: ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// `1GiB`, `64KiB`, `1MB`; a bare number is bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        _ => return Err(format!("{unit} is no unit of size: B, KB, MB, GB, KiB, MiB or GiB")),
    };
    // Beyond 2^53 a float no longer counts bytes, and no such body is ever sent.
    let bytes = number * scale;
    if bytes > 9.0e15 { Err(format!("{text} is too large")) } else { Ok(bytes as u64) }
}

/// A size per second: `1MB/s`, `64KiB/s`; zero makes no progress and is refused.
pub fn rate(text: &str) -> Result<u64, String> {
    match size(text.strip_suffix("/s").unwrap_or(text))? {
        0 => Err("a rate of zero never ends".into()),
        n => Ok(n),
    }
}

fn split(text: &str) -> Result<(f64, &str), String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number = number.parse().map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(duration("s").is_err() && duration("5 parsecs").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("1.5MB"), Ok(1_500_000));
        assert_eq!(size("512"), Ok(512));
        assert!(size("1 bushel").is_err() && size("99999999999GiB").is_err());
        assert_eq!(rate("64KiB/s"), Ok(65_536));
        assert!(rate("0/s").is_err());
    }
}

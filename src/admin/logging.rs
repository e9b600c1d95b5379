//! `/logging`: levels of the process logs.

use super::page::Page;
use super::query::Query;
use crate::observe::log::{Level, LogHandle, component};

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)\n\
    usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
    usage: /logging?level=<level> (change all levels)\n\
    usage: /logging?group=<group_name>:<level> (change group of loggers)\n\
    levels: trace debug info warning error critical off \n";

/// `POST /logging`.
pub fn page(log: &LogHandle, query: &Query) -> Page {
    match change(log, query.params()) {
        Ok(()) => Page::text(levels(log)),
        Err(reason) => Page::bad_request(format!("error: {reason}\n\n{USAGE}{}", levels(log))),
    }
}

fn levels(log: &LogHandle) -> String {
    let lines = log.levels().map(|(name, level)| format!("  {name}: {}\n", level.name()));
    format!("active loggers:\n{}\n", lines.collect::<String>())
}

fn change(log: &LogHandle, params: &[(String, String)]) -> Result<(), &'static str> {
    let level = |name: &str| Level::parse(name).ok_or("unknown logger level");
    let logger = |name: &str| component(name).ok_or("unknown logger name");
    let [(name, value)] = params else {
        return if params.is_empty() { Ok(()) } else { Err("invalid number of parameters") };
    };
    // An empty level or list is a form that was sent as it was.
    match (name.as_str(), value.as_str()) {
        ("level" | "paths", "") => {}
        ("group", _) => return Err("group parameter requires fine-grain logging to be enabled"),
        ("level", value) => {
            let level = level(value)?;
            log.set_all(level);
            tracing::info!(target: "misc", "change all log levels: level='{}'", level.name());
        }
        ("paths", value) => {
            let pair = |item: &str| {
                let (name, l) = item.split_once(':').ok_or("empty logger name or empty logger level")?;
                Ok((logger(name)?, level(l)?))
            };
            // All or none.
            let changes = value.split(',').map(pair).collect::<Result<Vec<_>, &'static str>>()?;
            changes.into_iter().for_each(|(c, l)| log.set(c, l));
        }
        (name, value) => {
            let (component, level) = (logger(name)?, level(value)?);
            log.set(component, level);
            tracing::info!(target: "admin", "change log level: name='{name}' level='{}'", level.name());
        }
    }
    Ok(())
}

//! `/stats/prometheus`: the text exposition format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::AdminState;
use super::page::Page;
use super::query::Query;
use super::stats::{Buckets, Params, QUANTILES, counts, double, quantile};
use super::stats_config::Stat;
use crate::observe::stats::Snapshot;

/// `GET /stats/prometheus`.
pub fn page(state: &AdminState, query: &Query) -> Page {
    match Params::parse(query) {
        Ok(params) => page_of(state, &params),
        Err(page) => page,
    }
}

/// The page for parameters that have been read.
pub fn page_of(state: &AdminState, params: &Params) -> Page {
    let selection = params.select(state);
    let mut out = String::new();
    numbers(&selection.counters, "counter", &mut out);
    numbers(&selection.gauges, "gauge", &mut out);
    for group in groups(&selection.histograms) {
        let Some((first, _)) = group.first() else { continue };
        let summary = params.buckets == Buckets::Summary;
        // Writing to a string does not fail, here and below.
        let _ = writeln!(out, "# TYPE {} {}", first.metric, if summary { "summary" } else { "histogram" });
        for (stat, snapshot) in group {
            if summary {
                quantiles(stat, snapshot, &mut out);
            } else {
                buckets(stat, snapshot, state.stats_config.bounds(&stat.name), &mut out);
            }
            let Stat { metric, labels, .. } = &**stat;
            let _ = writeln!(out, "{metric}_sum{{{labels}}} {}", snapshot.sum);
            let _ = writeln!(out, "{metric}_count{{{labels}}} {}", snapshot.count);
        }
    }
    Page::text(out)
}

/// Stats of one name beside each other, in the order of their names without tags, part by part as Envoy compares them.
fn groups<T>(stats: &[(Arc<Stat>, T)]) -> Vec<Vec<&(Arc<Stat>, T)>> {
    let mut groups: BTreeMap<Vec<&str>, Vec<&(Arc<Stat>, T)>> = BTreeMap::new();
    for stat in stats {
        groups.entry(stat.0.base.split('.').collect()).or_default().push(stat);
    }
    groups.into_values().collect()
}

fn numbers(stats: &[(Arc<Stat>, u64)], kind: &str, out: &mut String) {
    for group in groups(stats) {
        let Some((first, _)) = group.first() else { continue };
        let _ = writeln!(out, "# TYPE {} {kind}", first.metric);
        for (stat, value) in group {
            let _ = writeln!(out, "{}{{{}}} {value}", stat.metric, stat.labels);
        }
    }
}

fn comma(labels: &str) -> &str {
    if labels.is_empty() { "" } else { "," }
}

fn buckets(stat: &Stat, snapshot: &Snapshot, bounds: &[f64], out: &mut String) {
    let Stat { metric, labels, .. } = stat;
    let c = comma(labels);
    for (bound, n) in counts(snapshot, bounds, false) {
        let _ = writeln!(out, "{metric}_bucket{{{labels}{c}le=\"{}\"}} {n}", double(bound));
    }
    let _ = writeln!(out, "{metric}_bucket{{{labels}{c}le=\"+Inf\"}} {}", snapshot.count);
}

fn quantiles(stat: &Stat, snapshot: &Snapshot, out: &mut String) {
    let Stat { metric, labels, .. } = stat;
    let c = comma(labels);
    for q in QUANTILES {
        let value = if snapshot.count == 0 { f64::NAN } else { quantile(snapshot, q) };
        let _ = writeln!(out, "{metric}{{{labels}{c}quantile=\"{}\"}} {}", double(q / 100.0), double(value));
    }
}

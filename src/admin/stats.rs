//! `/stats` as text, JSON and HTML, and `/reset_counters`.

use std::sync::Arc;

use http::StatusCode;
use regex::Regex;
use serde_json::{Value, json};

use super::json::quoted;
use super::page::{Page, escape};
use super::query::Query;
use super::stats_config::Stat;
use super::{AdminState, prometheus};
use crate::observe::stats::{self as store, Snapshot};

/// What is printed of a histogram.
pub const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// What was asked for.
pub struct Params {
    used_only: bool,
    filter: Option<(Regex, bool)>,
    kind: Kind,
    /// `histogram_buckets`
    pub buckets: Buckets,
}

/// `type`
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    All,
    Counters,
    Gauges,
    Histograms,
    TextReadouts,
}

/// `histogram_buckets`
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Buckets {
    /// Not given.
    Unset,
    /// `cumulative`
    Cumulative,
    /// `disjoint`
    Disjoint,
    /// `detailed`
    Detailed,
    /// `summary`
    Summary,
}

/// The stats that were asked for; each list is sorted by name.
#[derive(Default)]
pub struct Selection {
    /// Counters.
    pub counters: Vec<(Arc<Stat>, u64)>,
    /// Gauges.
    pub gauges: Vec<(Arc<Stat>, u64)>,
    /// Histograms.
    pub histograms: Vec<(Arc<Stat>, Snapshot)>,
}

/// `GET /stats`.
pub fn page(state: &AdminState, query: &Query) -> Page {
    let params = match Params::parse(query) {
        Ok(p) => p,
        Err(page) => return page,
    };
    match query.get("format").unwrap_or("text") {
        "text" => Page::text(text(&params.select(state), params.buckets, state)),
        "json" => Page::raw_json(json_text(&params.select(state), params.buckets, state)),
        "html" | "active-html" => {
            let body = text(&params.select(state), params.buckets, state);
            Page::html(format!(
                "<!DOCTYPE html>\n<html lang='en'>\n<body>\n<pre>\n{}</pre>\n</body>\n</html>\n",
                escape(&body)
            ))
        }
        "prometheus" => prometheus::page_of(state, &params),
        _ => Page::bad_request("usage: /stats?format=(html|active-html|json|prometheus|text)\n\n"),
    }
}

/// `POST /reset_counters`.
pub fn reset(state: &AdminState) -> Page {
    state.shared.stats.each(&mut |_, stat| {
        if let store::Stat::Counter(c) = stat {
            c.reset();
        }
    });
    Page::ok()
}

impl Params {
    /// Reads the parameters; an error is the answer.
    pub fn parse(query: &Query) -> Result<Params, Page> {
        let kind = match query.get("type").unwrap_or("All") {
            "All" => Kind::All,
            "Counters" => Kind::Counters,
            "Gauges" => Kind::Gauges,
            "Histograms" => Kind::Histograms,
            "TextReadouts" => Kind::TextReadouts,
            _ => return Err(Page::bad_request("invalid &type= param")),
        };
        let buckets = match query.get("histogram_buckets") {
            None => Buckets::Unset,
            Some("cumulative") => Buckets::Cumulative,
            Some("disjoint") => Buckets::Disjoint,
            Some("detailed") => Buckets::Detailed,
            Some("summary" | "") => Buckets::Summary,
            Some(_) => {
                let usage = "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n";
                return Err(Page::bad_request(usage));
            }
        };
        if !matches!(query.get("hidden"), None | Some("include" | "only" | "exclude")) {
            return Err(Page::bad_request("usage: /stats?hidden=(include|only|exclude)\n\n"));
        }
        let filter = match query.get("filter") {
            None | Some("") => None,
            Some(text) => match Regex::new(text) {
                Ok(regex) => Some((regex, !query.has("invert_filter"))),
                Err(e) => {
                    let last = e.to_string().lines().last().unwrap_or_default().trim().to_owned();
                    return Err(Page::status(StatusCode::BAD_REQUEST, format!("Invalid re2 regex: {last}")));
                }
            },
        };
        Ok(Params { used_only: query.has("usedonly"), filter, kind, buckets })
    }

    /// The stats that were asked for.
    pub fn select(&self, state: &AdminState) -> Selection {
        state.refresh();
        let config = &state.stats_config;
        let stat = |name: &str| {
            let stat = config.stat(name)?;
            let wanted = self.filter.as_ref().is_none_or(|(regex, wanted)| regex.is_match(&stat.name) == *wanted);
            wanted.then_some(stat)
        };
        let wants = |kind, used: bool| (self.kind == Kind::All || self.kind == kind) && (used || !self.used_only);
        let mut selection = Selection::default();
        state.shared.stats.each(&mut |name, found| match found {
            store::Stat::Counter(c) if wants(Kind::Counters, c.used()) => {
                selection.counters.extend(stat(name).map(|s| (s, c.value())));
            }
            store::Stat::Gauge(g) if wants(Kind::Gauges, g.used()) => {
                selection.gauges.extend(stat(name).map(|s| (s, g.value())));
            }
            store::Stat::Histogram(h) => {
                let snapshot = h.snapshot();
                if wants(Kind::Histograms, snapshot.count > 0) {
                    selection.histograms.extend(stat(name).map(|s| (s, snapshot)));
                }
            }
            _ => {}
        });
        selection.counters.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        selection.gauges.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        selection.histograms.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        selection
    }
}

impl Selection {
    /// Counters and gauges in one order.
    fn numbers(&self) -> Vec<(&Arc<Stat>, u64)> {
        let mut all: Vec<_> = self.counters.iter().chain(&self.gauges).map(|(s, v)| (s, *v)).collect();
        all.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        all
    }
}

fn text(selection: &Selection, buckets: Buckets, state: &AdminState) -> String {
    let mut out = String::new();
    for (stat, value) in selection.numbers() {
        out.push_str(&format!("{}: {value}\n", stat.name));
    }
    for (stat, snapshot) in &selection.histograms {
        out.push_str(&format!("{}:", stat.name));
        out.push_str(&match buckets {
            Buckets::Unset | Buckets::Summary => format!(" {}\n", summary(snapshot)),
            Buckets::Cumulative | Buckets::Disjoint => {
                let bounds = counts(snapshot, state.stats_config.bounds(&stat.name), buckets == Buckets::Disjoint);
                let bounds = bounds.iter().map(|(b, n)| format!(" B{}(0,{n})", general(*b)));
                format!("{}\n", bounds.collect::<String>())
            }
            Buckets::Detailed => {
                let totals = snapshot.buckets.iter().map(|(upper, n)| {
                    let (lower, width) = bin(*upper);
                    format!(" {},{}:{n}", double(lower), double(width))
                });
                let totals = totals.collect::<Vec<_>>().join(",");
                format!("\n  totals={}\n  intervals=\n  summary={}\n", totals.trim_start(), summary(snapshot))
            }
        });
    }
    out
}

/// The quantiles of all values. Envoy prints those of the last flush interval before them; nothing is kept for that here, and so it is what
/// Envoy prints when nothing happened in the interval.
fn summary(snapshot: &Snapshot) -> String {
    if snapshot.count == 0 {
        return "No recorded values".to_owned();
    }
    let one = |q: &f64| format!("P{}(nan,{})", double(*q), double(quantile(snapshot, *q)));
    QUANTILES.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Envoy's approximation: the n-th of m values in a bin lies at n/(m+1) of its width.
pub fn quantile(snapshot: &Snapshot, percent: f64) -> f64 {
    let rank = (snapshot.count as f64 * percent / 100.0).ceil().max(1.0) as u64;
    let mut before = 0;
    for (upper, n) in &snapshot.buckets {
        if rank <= before + n {
            let (lower, width) = bin(*upper);
            return lower + width * ((rank - before) as f64 / (n + 1) as f64);
        }
        before += n;
    }
    0.0
}

/// Lower bound and width of a bin whose inclusive upper bound is given. A whole number below 10 counts as the bin of a tenth that Envoy puts
/// it into, so that a summary reads alike.
fn bin(upper: u64) -> (f64, f64) {
    match upper {
        0 => (0.0, 0.0),
        1..10 => (upper as f64, 0.1),
        10..16 => (upper as f64, 1.0),
        _ => {
            let width = 1u64 << (60 - upper.leading_zeros());
            ((upper - (width - 1)) as f64, width as f64)
        }
    }
}

/// The counts below upper bounds, or between them.
pub fn counts(snapshot: &Snapshot, bounds: &[f64], disjoint: bool) -> Vec<(f64, u64)> {
    let mut before = 0;
    let one = |b: &f64| {
        let n = snapshot.at_most(*b);
        let shown = if disjoint { n - before } else { n };
        before = n;
        (*b, shown)
    };
    bounds.iter().map(one).collect()
}

/// A number as short as it can be.
pub fn double(value: f64) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value}") }
}

/// C's `%g`: six digits, and an exponent from a million on.
fn general(value: f64) -> String {
    if value < 1e6 {
        return double(value);
    }
    let exponent = value.log10().floor() as i32;
    let digits = format!("{:.5}", value / 10f64.powi(exponent));
    format!("{}e+{exponent:02}", digits.trim_end_matches('0').trim_end_matches('.'))
}

fn json_text(selection: &Selection, buckets: Buckets, state: &AdminState) -> String {
    let mut items: Vec<String> = selection
        .numbers()
        .iter()
        .map(|(stat, value)| format!("{{\"name\":{},\"value\":{value}}}", quoted(&stat.name)))
        .collect();
    if !selection.histograms.is_empty() {
        items.push(json!({ "histograms": histograms(selection, buckets, state) }).to_string());
    }
    format!("{{\"stats\":[{}]}}", items.join(","))
}

fn histograms(selection: &Selection, buckets: Buckets, state: &AdminState) -> Value {
    let quantiles = |s: &Snapshot| -> Vec<Value> {
        let one = |q: &f64| if s.count == 0 { Value::Null } else { number(quantile(s, *q)) };
        QUANTILES.iter().map(|q| json!({ "cumulative": one(q), "interval": Value::Null })).collect()
    };
    let supported: Vec<Value> = QUANTILES.iter().map(|q| number(*q)).collect();
    let all = selection.histograms.iter();
    match buckets {
        Buckets::Unset | Buckets::Summary => {
            let computed = all.map(|(stat, s)| json!({ "name": stat.name, "values": quantiles(s) }));
            json!({ "supported_quantiles": supported, "computed_quantiles": computed.collect::<Vec<_>>() })
        }
        Buckets::Cumulative | Buckets::Disjoint => all
            .map(|(stat, s)| {
                let bounds = counts(s, state.stats_config.bounds(&stat.name), buckets == Buckets::Disjoint);
                let bounds = bounds
                    .iter()
                    .map(|(b, n)| json!({ "upper_bound": number(*b), "interval": 0, "cumulative": n }))
                    .collect::<Vec<_>>();
                json!({ "name": stat.name, "buckets": bounds })
            })
            .collect(),
        Buckets::Detailed => {
            let details = all.map(|(stat, s)| {
                let totals = s.buckets.iter().map(|(upper, n)| {
                    let (lower, width) = bin(*upper);
                    json!({ "lower_bound": number(lower), "width": number(width), "count": n })
                });
                let totals: Vec<Value> = totals.collect();
                json!({ "name": stat.name, "totals": totals, "intervals": [], "percentiles": quantiles(s) })
            });
            json!({ "supported_percentiles": supported, "details": details.collect::<Vec<_>>() })
        }
    }
}

/// A double that prints as a whole number if it is one.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

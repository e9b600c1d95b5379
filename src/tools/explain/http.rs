//! A request's way through an HTTP connection manager.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use waypost_filters::connection::Connection;
use waypost_filters::filter::{LocalReply, Verdict};
use waypost_filters::head::{Protocol, RequestHead};
use waypost_filters::stream::{HttpStream, StreamInfo};

use super::ask::{Content, Layer, Layers};
use super::outcome::Outcome;
use super::step::Step;
use super::walk::{Walk, set};
use crate::cluster::UpstreamProtocol;
use crate::cluster::connect::Sharing;
use crate::http::config::HttpConnectionManager;
use crate::http::filters::{Chain, OnRoute};
use crate::http::rules::request::mutate_request;
use crate::http::stream::{chain_of, note_route};
use crate::route::slot::Routes;
use crate::route::{Action, ClusterChoice, FilterEffect, FilterOverrides, Forward, Route, RouteSearch, RouteTable};

impl Walk<'_> {
    /// The way of a request; `rest` is what it carries, if it is a CONNECT.
    pub fn http(
        &mut self,
        hcm: &HttpConnectionManager,
        connection: Arc<Connection>,
        request: RequestHead,
        protocol: Protocol,
        rest: Layers,
    ) -> Step {
        let step = Step::new("http", format!("HTTP connection manager {}", hcm.stat_prefix))
            .fact("stat_prefix", &*hcm.stat_prefix);
        let mut info = StreamInfo::new(connection, 0, Instant::now(), SystemTime::now());
        info.protocol = Some(protocol);
        let came = request.clone();
        let mut stream = HttpStream {
            info,
            request,
            response: None,
            response_trailers: None,
            reroute: false,
            body: Default::default(),
        };
        let mut steps = Vec::new();
        let scoped = stream.request.clone();
        let loaded = hcm.routes.load(&scoped);
        let table = loaded.get();
        let internal_only = table.map_or(&[][..], |t| &t.internal_only_headers);
        if let Err(reply) = mutate_request(hcm, internal_only, &mut stream) {
            steps.push(self.answered(&reply, "the connection manager"));
            return step.with(steps);
        }
        steps.extend(changed(&came, &stream.request, "is normalised"));
        let mut route = table.and_then(|t| t.find(&stream, self.random)).cloned();
        note_route(&mut stream.info, route.as_ref());
        let mut search = self.search(hcm, table, &stream);
        let Some(chain) = chain_of(&stream, hcm, route.as_deref()) else {
            steps.extend(search);
            let reply = LocalReply::new(http::StatusCode::FORBIDDEN, "upgrade_failed");
            steps.push(self.answered(&reply, "the upgrade is not enabled"));
            return step.with(steps);
        };
        let overrides = route.as_ref().map(|r| r.filters.clone()).unwrap_or_default();
        let before_filters = steps.len();
        if !self.filters(&chain, &overrides, &mut stream, &mut steps) {
            // The route is of interest where it had a say in what filters do.
            if !overrides.is_empty() {
                steps.splice(before_filters..before_filters, search);
            }
            return step.with(steps);
        }
        if std::mem::take(&mut stream.reroute) {
            steps.push(Step::new("reroute", "a filter has changed what routing depends on"));
            route = table.and_then(|t| t.find(&stream, self.random)).cloned();
            note_route(&mut stream.info, route.as_ref());
            search = self.search(hcm, table, &stream);
            if let Some(details) = route.as_ref().and_then(|r| chain.closed_on(&r.filters)) {
                steps.extend(search);
                let reply = LocalReply::new(http::StatusCode::INTERNAL_SERVER_ERROR, details);
                steps.push(self.answered(&reply, "a filter that this route wants, and that is not built,"));
                return step.with(steps);
            }
        }
        steps.extend(search);
        let keep_original = !chain.router.suppress_envoy_headers;
        match route.as_ref().map(|r| (r, &r.action)) {
            None => {
                let reply = LocalReply::new(http::StatusCode::NOT_FOUND, "route_not_found");
                steps.push(self.answered(&reply, "no route"));
            }
            Some((route, Action::Forward(to))) => {
                self.forward(route, to, stream, keep_original, rest, &mut steps);
            }
            Some((_, Action::DirectResponse(direct))) => {
                steps.push(self.answered(&LocalReply::new(direct.status, "direct_response"), "direct_response"));
            }
            Some((route, Action::Redirect(redirect))) => {
                let location = route.redirect_location(&mut stream, keep_original);
                let location = location.map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned()).unwrap_or_default();
                let answer = self.answered(&LocalReply::new(redirect.status, "direct_response"), "redirect");
                steps.push(Step::new("redirect", format!("redirect to {location}")).fact("location", location));
                steps.push(answer);
            }
            Some((_, Action::NonForwarding)) => {
                let reply = LocalReply::new(http::StatusCode::SERVICE_UNAVAILABLE, "cluster_not_found");
                steps.push(self.answered(&reply, "non_forwarding_action"));
            }
        }
        step.with(steps)
    }

    /// The verdict of each filter; false where one of them answers.
    fn filters(
        &mut self,
        chain: &Chain,
        overrides: &FilterOverrides,
        stream: &mut HttpStream,
        steps: &mut Vec<Step>,
    ) -> bool {
        for OnRoute { name, type_name, runs, has_work } in chain.each_on_route(overrides) {
            let type_name = if type_name.is_empty() { "no configuration that is known" } else { type_name };
            let text = format!("filter {name} ({type_name})");
            if let Some(filter) = runs {
                if !self.filter(filter.as_ref(), name, &text, stream, steps) {
                    return false;
                }
                continue;
            }
            let why = match overrides.get(name) {
                _ if !has_work => "left out, it changes no request",
                Some(FilterEffect::Off(_)) => "switched off on this route",
                _ => "disabled",
            };
            let step = Step::new("filter", format!("{text}: {why}"));
            steps.push(step.fact("name", name).fact("verdict", "left out"));
        }
        true
    }

    /// Virtual host and route, or why there is no table to look in.
    fn search(&self, hcm: &HttpConnectionManager, table: Option<&RouteTable>, stream: &HttpStream) -> Vec<Step> {
        if let Some(table) = table {
            return search_steps(&table.explain(stream, self.random), &table.name);
        }
        let name = match &hcm.routes {
            Routes::Slot(slot) => slot.name.as_str(),
            Routes::Here(_) => "",
            Routes::Scoped(_) => {
                return vec![Step::new("virtual_host", "no scope is the request's, or none with routes".to_owned())];
            }
        };
        let why = match self.world.broken_routes.get(name) {
            Some(error) => format!("cannot be used: {error}"),
            None => "has not come over RDS".to_owned(),
        };
        vec![Step::new("virtual_host", format!("route configuration {name:?} {why}"))]
    }

    fn filter(
        &mut self,
        filter: &dyn waypost_filters::filter::HttpFilter,
        name: &str,
        text: &str,
        stream: &mut HttpStream,
        steps: &mut Vec<Step>,
    ) -> bool {
        let before = stream.info.filter_state.clone();
        let came = stream.request.clone();
        let verdict = filter.explain(stream);
        let because = |why: &str| if why.is_empty() { String::new() } else { format!(", {why}") };
        let (kind, said, reply) = match &verdict {
            Verdict::Continue(why) => ("continue", format!("goes on{}", because(why)), None),
            Verdict::Asks(why) => ("asks", format!("waits{}; here it is taken for a yes", because(why)), None),
            Verdict::Respond(reply, why) => {
                ("respond", format!("answers {} ({}){}", reply.status.as_u16(), told(reply), because(why)), Some(reply))
            }
        };
        let text = format!("{text}: {said}{}", set(&before, &stream.info.filter_state));
        steps.push(Step::new("filter", text).fact("name", name).fact("verdict", kind));
        steps.extend(changed(&came, &stream.request, "is changed"));
        if let Some(reply) = reply {
            steps.push(self.answered(reply, &format!("filter {name}")));
        }
        reply.is_none()
    }

    fn forward(
        &mut self,
        route: &Arc<Route>,
        to: &Forward,
        mut stream: HttpStream,
        keep_original: bool,
        mut rest: Layers,
        steps: &mut Vec<Step>,
    ) {
        if let ClusterChoice::Weighted(weighted) = &to.cluster {
            let (clusters, total) = weighted.weights();
            for (slot, weight) in clusters {
                let text = format!("cluster {} has weight {weight} of {total}", slot.name);
                steps.push(Step::new("weight", text).fact("cluster", &*slot.name).fact("weight", weight));
            }
            steps.push(Step::new("random", format!("random number {}", self.random)).fact("random", self.random));
        }
        let Some(pick) = route.pick_cluster(&stream.request, self.random) else { return };
        let cluster = match self.cluster(pick.slot) {
            Ok(cluster) => cluster,
            Err(missing) => {
                steps.push(*missing);
                let reply = LocalReply::new(to.cluster_not_found, "cluster_not_found");
                return steps.push(self.answered(&reply, "the router (flag NC)"));
            }
        };
        steps.push(Step::new("policy", policy(to)));
        let came = stream.request.clone();
        route.finalize_request(&mut stream, &pick, keep_original);
        steps.extend(changed(&came, &stream.request, "becomes"));
        stream.info.upstream.cluster = Some(cluster.names.clone());
        let connection = stream.info.connection.clone();
        let ends_here = stream.request.is_connect() && to.upgrades.get(b"CONNECT").is_some_and(|u| u.connect.is_some());
        let sharing = if ends_here || cluster.shares {
            Sharing::of(&connection, Some(&stream.info.filter_state))
        } else {
            Sharing::default()
        };
        let headers = Some(&stream.request.headers);
        if ends_here {
            steps.push(Step::new("connect", "the CONNECT ends here; what it carries goes on"));
        } else {
            let protocol = match cluster.http.protocol {
                UpstreamProtocol::Http1 => Protocol::Http11,
                UpstreamProtocol::Http2 | UpstreamProtocol::Alpn => Protocol::Http2,
                UpstreamProtocol::Downstream if stream.info.protocol == Some(Protocol::Http2) => Protocol::Http2,
                UpstreamProtocol::Downstream => Protocol::Http11,
            };
            rest.push_front(Layer { tls: None, content: Content::Http(Box::new(stream.request.clone()), protocol) });
        }
        steps.push(self.upstream(&cluster, &stream.info, headers, &sharing, rest));
    }

    fn answered(&mut self, reply: &LocalReply, by: &str) -> Step {
        self.outcome = Outcome::Answered { status: reply.status.as_u16(), details: reply.details.to_string() };
        Step::new("answer", format!("{by} answers {} ({})", reply.status.as_u16(), told(reply)))
            .fact("status", reply.status.as_u16())
            .fact("details", &*reply.details)
    }
}

/// The details of a reply, or its flag where it has none.
fn told(reply: &LocalReply) -> String {
    match (&*reply.details, reply.flag) {
        ("", Some(flag)) => format!("flag {}", flag.short()),
        (details, _) => details.to_owned(),
    }
}

/// Virtual host and route.
fn search_steps(search: &RouteSearch<'_>, table: &str) -> Vec<Step> {
    let Some((host, domain)) = &search.virtual_host else {
        return vec![Step::new(
            "virtual_host",
            format!("route configuration {table:?}: no virtual host has this authority"),
        )];
    };
    let text = format!("virtual host {host} (domain {domain:?}) of route configuration {table:?}");
    let mut within: Vec<Step> = Vec::new();
    let name = |route: &Route| if route.name.is_empty() { "without a name".to_owned() } else { route.name.to_string() };
    for (i, (route, why)) in search.passed.iter().enumerate() {
        let text = format!("route {i} {} does not match: {why}", name(route));
        within.push(Step::new("passed", text).fact("index", i).fact("name", &*route.name).fact("why", &**why));
    }
    within.push(match search.found {
        Some((_, _)) if search.wants_tls => Step::new("route", "require_tls: the request has not come over TLS"),
        Some((i, route)) => Step::new("route", format!("route {i} {} matches: {}", name(route), route.condition()))
            .fact("index", i)
            .fact("name", &*route.name),
        None => Step::new("route", "no route matches"),
    });
    vec![Step::new("virtual_host", text).fact("name", &**host).fact("domain", &**domain).with(within)]
}

/// Timeout and retries.
fn policy(to: &Forward) -> String {
    let timeout = to.timeout.map_or_else(|| "no timeout".to_owned(), |t| format!("timeout {t:?}"));
    match to.retry.as_ref().filter(|r| r.num_retries > 0) {
        Some(retry) => {
            let each = retry.per_try_timeout.map(|t| format!(", {t:?} for each try")).unwrap_or_default();
            format!("{timeout}, {} retries{each}", retry.num_retries)
        }
        None => format!("{timeout}, no retries"),
    }
}

/// What has become of path and authority.
fn changed(before: &RequestHead, after: &RequestHead, how: &str) -> Vec<Step> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut steps = Vec::new();
    for (kind, old, new) in [
        ("path", before.path_bytes(), after.path_bytes()),
        ("authority", before.authority_bytes(), after.authority_bytes()),
    ] {
        if old != new {
            steps
                .push(Step::new("rewrite", format!("{kind} {} {how}: {}", text(old), text(new))).fact(kind, text(new)));
        }
    }
    steps
}

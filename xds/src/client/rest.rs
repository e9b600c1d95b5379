//! `api_type: REST`: a `DiscoveryRequest` as JSON by HTTP, again and again.

use super::{Command, Event, Service, Update, WILDCARD, backoff, file, interest::Interest};
use crate::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    },
    json,
};
use std::{collections::VecDeque, future::Future, pin::pin, time::Duration};
use tokio::{
    select,
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    time::{sleep, timeout},
};

/// Carries the exchange: a POST of JSON (`content-type: application/json`).
pub trait Http {
    /// The status and the body, or why there is none.
    fn post(&self, path: &'static str, body: Vec<u8>) -> impl Future<Output = Result<(u16, Vec<u8>), String>>;
}

/// What is asked, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// The one type that is asked for.
    pub type_url: String,
    /// Who asks.
    pub node: Node,
    /// `refresh_delay`: the wait between two exchanges is this and up to as much again.
    pub refresh_delay: Duration,
    /// `request_timeout`; Envoy's default is a second.
    pub request_timeout: Duration,
    /// For the log: the cluster's name.
    pub destination: String,
}

/// Polls until the channel of commands is closed or nobody listens to the events. Without a known path for the type it ends at once, with an
/// [`Event::Disconnected`]. [`Event::Connected`] does not come: there is no stream.
pub async fn run<H: Http>(
    http: H,
    options: Options,
    mut commands: UnboundedReceiver<Command>,
    events: UnboundedSender<Event>,
) {
    let Some(path) = Service::of_type(&options.type_url).and_then(Service::rest_path) else {
        let reason = format!("REST has no path for {}", options.type_url);
        let _ = events.send(Event::Disconnected { reason });
        return;
    };
    let mut state = State::new(&options);
    loop {
        let Some(()) = state.taking(&mut commands, std::future::ready(())).await else { return };
        if let Some(body) = state.request() {
            let exchange = timeout(options.request_timeout, http.post(path, body));
            let Some(answer) = state.taking(&mut commands, exchange).await else { return };
            let answer = answer.unwrap_or_else(|_| Err("the request timed out".to_owned()));
            if let Some(event) = state.answer(answer, &options.destination)
                && events.send(event).is_err()
            {
                return;
            }
        }
        let Some(()) = state.taking(&mut commands, sleep(delay(options.refresh_delay, backoff::random()))).await else {
            return;
        };
    }
}

/// Envoy's jitter. A delay of nothing would be a hot loop.
fn delay(refresh: Duration, random: u64) -> Duration {
    let refresh = refresh.max(Duration::from_millis(1));
    let nanos = u64::try_from(refresh.as_nanos()).unwrap_or(u64::MAX);
    refresh.saturating_add(Duration::from_nanos(random % nanos))
}

/// The conversation, without I/O.
#[derive(Debug)]
struct State {
    type_url: String,
    node: Node,
    wanted: Interest,
    /// Of the last response that was accepted.
    version: String,
    /// Nonces and versions without a verdict.
    judged_next: VecDeque<(String, String)>,
    count: u64,
}

impl State {
    fn new(options: &Options) -> Self {
        Self {
            type_url: options.type_url.clone(),
            node: options.node.clone(),
            wanted: Interest::default(),
            version: String::new(),
            judged_next: VecDeque::new(),
            count: 0,
        }
    }

    /// Waits for something, and takes commands before and meanwhile; `None` when there will be no more.
    async fn taking<T>(
        &mut self,
        commands: &mut UnboundedReceiver<Command>,
        other: impl Future<Output = T>,
    ) -> Option<T> {
        let mut other = pin!(other);
        loop {
            select! {
                biased;
                command = commands.recv() => self.command(command?),
                done = &mut other => return Some(done),
            }
        }
    }

    fn command(&mut self, command: Command) {
        let (type_url, names, wanted) = match command {
            Command::Wildcard { type_url } => (type_url, vec![WILDCARD.to_owned()], true),
            Command::Subscribe { type_url, names } => (type_url, names, true),
            Command::Unsubscribe { type_url, names } => (type_url, names, false),
            Command::Verdict { type_url: _, nonce, error } => {
                let at = self.judged_next.iter().position(|(pending, _)| *pending == nonce);
                if let (Some((_, version)), None) = (at.and_then(|at| self.judged_next.remove(at)), error) {
                    self.version = version;
                }
                return;
            }
        };
        if type_url != self.type_url {
            tracing::warn!("{type_url} is not to be had here, only {}", self.type_url);
            return;
        }
        for name in names {
            if wanted {
                self.wanted.add(&name);
            } else {
                self.wanted.remove(&name);
            }
        }
    }

    /// The body of the next request; none while nothing is wanted.
    fn request(&self) -> Option<Vec<u8>> {
        if self.wanted.is_empty() {
            return None;
        }
        let request = DiscoveryRequest {
            version_info: self.version.clone(),
            node: Some(self.node.clone()),
            resource_names: self.wanted.list(),
            type_url: self.type_url.clone(),
            ..DiscoveryRequest::default()
        };
        match json::to_value(&request, false) {
            Ok(value) => Some(value.to_string().into_bytes()),
            Err(error) => {
                tracing::warn!("the node cannot be written as JSON: {error}");
                None
            }
        }
    }

    fn answer(&mut self, answer: Result<(u16, Vec<u8>), String>, destination: &str) -> Option<Event> {
        let body = match answer {
            Ok((200, body)) => body,
            Ok((304, _)) => return None,
            Ok((status, _)) => return Some(failed(destination, &format!("the answer is {status}"))),
            Err(reason) => return Some(failed(destination, &reason)),
        };
        Some(match self.read(&body) {
            Ok(update) => Event::Update(update),
            Err(reason) => {
                tracing::warn!("REST config for {} rejected: {reason}", self.type_url);
                Event::Rejected { type_url: self.type_url.clone(), version: String::new(), reason }
            }
        })
    }

    fn read(&mut self, body: &[u8]) -> Result<Update, String> {
        let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        let read = |text| json::from_value::<DiscoveryResponse>(&json::parse(text)?, &json::Options::ignore_unknown());
        let mut update = file::update(read(text).map_err(|error| error.to_string())?, &self.type_url)?;
        update.resources.retain(|resource| self.wanted.covers(&resource.name));
        update.complete = self.wanted.wildcard;
        // HTTP has no use for a nonce, and the verdicts need one.
        self.count += 1;
        update.nonce = self.count.to_string();
        self.judged_next.push_back((update.nonce.clone(), update.version.clone()));
        Ok(update)
    }
}

fn failed(destination: &str, reason: &str) -> Event {
    let reason = format!("REST config fetch from {destination} failed: {reason}");
    tracing::warn!("{reason}");
    Event::Disconnected { reason }
}

#[cfg(test)]
mod tests;

//! What has been asked for, and until when it is waited for (`initial_fetch_timeout`).

use std::collections::HashMap;
use std::time::Instant;

use super::Type;
use super::source::{Fetch, Source};

/// What is asked for: a resource by name, or all of a type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The type.
    pub kind: Type,
    /// Where from.
    pub source: Source,
    /// Its name; empty for all.
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has come yet.
    Waiting(Option<Instant>),
    /// It came, or was refused, or is known not to exist.
    Answered,
    /// Nothing came in time.
    Expired,
}

/// Everything that has been asked for.
#[derive(Debug, Default)]
pub struct Fetches {
    all: HashMap<Subject, State>,
    /// How many have a deadline: most of the time none has.
    timed: usize,
}

impl Fetches {
    /// Asks for something; false where it has been asked for already.
    pub fn add(&mut self, kind: Type, fetch: &Fetch, name: &str, now: Instant) -> bool {
        let subject = Subject { kind, source: fetch.source.clone(), name: name.to_owned() };
        if self.all.contains_key(&subject) {
            return false;
        }
        let deadline = fetch.timeout.map(|t| now + t);
        self.timed += usize::from(deadline.is_some());
        self.all.insert(subject, State::Waiting(deadline));
        true
    }

    /// Asks for it no more; whether it had been asked for.
    pub fn remove(&mut self, subject: &Subject) -> bool {
        let state = self.all.remove(subject);
        self.timed -= usize::from(matches!(state, Some(State::Waiting(Some(_)))));
        state.is_some()
    }

    /// Something was said of it. Whether that is asked for at all.
    pub fn answered(&mut self, subject: &Subject) -> bool {
        self.set(subject, State::Answered)
    }

    /// Whether nobody waits for it any more.
    pub fn settled(&self, subject: &Subject) -> bool {
        !matches!(self.all.get(subject), Some(State::Waiting(_)))
    }

    /// When the first one expires.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.timed == 0 {
            return None;
        }
        self.all
            .values()
            .filter_map(|s| match s {
                State::Waiting(deadline) => *deadline,
                _ => None,
            })
            .min()
    }

    /// Gives up what is over time.
    pub fn expire(&mut self, now: Instant) -> Vec<Subject> {
        let over = |s: &State| matches!(s, State::Waiting(Some(at)) if *at <= now);
        let expired: Vec<Subject> = self.all.iter().filter(|(_, s)| over(s)).map(|(k, _)| k.clone()).collect();
        for subject in &expired {
            self.set(subject, State::Expired);
        }
        expired
    }

    /// The names that are asked for of a type at a source.
    pub fn subjects(&self, kind: Type) -> impl Iterator<Item = &Subject> {
        self.all.keys().filter(move |s| s.kind == kind)
    }

    fn set(&mut self, subject: &Subject, state: State) -> bool {
        let Some(at) = self.all.get_mut(subject) else { return false };
        self.timed -= usize::from(matches!(at, State::Waiting(Some(_))));
        *at = state;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_not_answered_in_time_is_given_up_and_what_has_no_time_waits_for_ever() {
        let (mut fetches, now) = (Fetches::default(), Instant::now());
        let fetch = |seconds: Option<u64>| Fetch { source: Source::Ads, timeout: seconds.map(Duration::from_secs) };
        for (name, seconds) in [("a", Some(5)), ("b", Some(9)), ("c", None)] {
            assert!(fetches.add(Type::Route, &fetch(seconds), name, now));
        }
        assert!(!fetches.add(Type::Route, &fetch(Some(1)), "a", now), "asked for once");
        let subject = |name: &str| Subject { kind: Type::Route, source: Source::Ads, name: name.to_owned() };
        assert_eq!(fetches.next_deadline(), Some(now + Duration::from_secs(5)));
        assert!(fetches.answered(&subject("b")) && fetches.settled(&subject("b")));
        assert_eq!(fetches.expire(now + Duration::from_secs(20)), [subject("a")]);
        assert!(fetches.settled(&subject("a")) && !fetches.settled(&subject("c")));
        assert_eq!(fetches.next_deadline(), None);
        assert!(fetches.remove(&subject("c")) && fetches.settled(&subject("c")) && !fetches.answered(&subject("c")));
    }
}

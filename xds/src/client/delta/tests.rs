use super::*;
use crate::client::{
    Event,
    tests::{Talk, accept, body, cds, delta_response as response, eds, reject, subscribe, unsubscribe, wildcard},
};
use crate::google::protobuf::Duration;

/// What Envoy 1.40 said to a scripted server, less that its changes of interest overtake its ACKs.
#[test]
fn the_conversation_of_envoy() {
    let mut envoy = Talk::<Delta>::begin();
    assert_eq!(envoy.told([wildcard(cds())]), ["CDS node:waypoint"]);
    assert_eq!(envoy.hears(response(cds(), "c1", "a=1 b=1", "")), ["a", "b"]);
    assert_eq!(envoy.told([subscribe(eds(), "b a"), accept(cds(), "c1")]), ["EDS sub:a,b", "CDS nonce:c1"]);
    assert_eq!(envoy.hears(response(eds(), "e1", "a=1 b=1", "")), ["a", "b"]);
    assert_eq!(envoy.told([accept(eds(), "e1")]), ["EDS nonce:e1"]);
    assert_eq!(envoy.hears(response(cds(), "c2", "c=2 bad=2", "")), ["c", "bad"]);
    assert_eq!(envoy.told([reject(cds(), "c2", "no timeout")]), ["CDS nonce:c2 error:13 no timeout"]);
    assert_eq!(envoy.hears(response(cds(), "c3", "", "b")), ["-b"]);
    assert_eq!(envoy.told([unsubscribe(eds(), "b"), accept(cds(), "c3")]), ["EDS unsub:b", "CDS nonce:c3"]);
    // Nothing of what was rejected counts as had, and nothing that is gone.
    assert_eq!(envoy.reconnects(), ["CDS node:waypoint have:a=1", "EDS sub:a have:a=1"]);
    assert_eq!(envoy.hears(response(cds(), "c4", "", "a")), ["-a"]);
    assert_eq!(envoy.told([unsubscribe(eds(), "a"), accept(cds(), "c4")]), ["EDS unsub:a", "CDS nonce:c4"]);
    // Nothing is wanted of EDS: an empty list would be the wildcard.
    assert_eq!(envoy.reconnects(), ["CDS node:waypoint"]);
    assert_eq!(envoy.told([subscribe(eds(), "a")]), ["EDS sub:a"]);
}

#[test]
fn changes_of_interest_never_travel_with_an_ack() {
    let mut talk = Talk::<Delta>::begin();
    talk.told([subscribe(eds(), "a")]);
    talk.hears(response(eds(), "1", "a=1", ""));
    assert_eq!(talk.told([subscribe(eds(), "b"), accept(eds(), "1")]), ["EDS nonce:1", "EDS sub:b"]);
}

#[test]
fn what_is_taken_back_before_it_is_sent_is_not_sent() {
    let mut talk = Talk::<Delta>::begin();
    talk.told([subscribe(eds(), "a")]);
    assert_eq!(talk.told([subscribe(eds(), "b"), unsubscribe(eds(), "b")]), [""; 0]);
    assert_eq!(talk.told([subscribe(eds(), "a"), unsubscribe(eds(), "x")]), [""; 0]);
    // Whoever forgot what it had is sent it again.
    assert_eq!(talk.told([unsubscribe(eds(), "a"), subscribe(eds(), "a")]), ["EDS sub:a"]);
    assert_eq!(talk.told([unsubscribe(eds(), "a"), subscribe(eds(), "a"), unsubscribe(eds(), "a")]), ["EDS unsub:a"]);
    assert_eq!(talk.told([unsubscribe(eds(), "a")]), [""; 0]);
}

#[test]
fn commands_are_summed_up_until_they_are_sent() {
    let mut talk = Talk::<Delta>::begin();
    assert_eq!(
        talk.told([subscribe(eds(), "a"), wildcard(cds()), subscribe(eds(), "b")]),
        ["EDS node:waypoint sub:a,b", "CDS"]
    );
}

#[test]
fn names_beside_a_wildcard_are_said_with_it() {
    let mut talk = Talk::<Delta>::begin();
    assert_eq!(talk.told([wildcard(cds())]), ["CDS node:waypoint"]);
    assert_eq!(talk.told([subscribe(cds(), "extra")]), ["CDS sub:extra"]);
    talk.hears(response(cds(), "1", "a=1 extra=2", ""));
    assert_eq!(talk.told([accept(cds(), "1")]), ["CDS nonce:1"]);
    assert_eq!(talk.reconnects(), ["CDS node:waypoint sub:*,extra have:a=1,extra=2"]);
    // What was asked for by name may be part of the wildcard as well: it is had until the server says otherwise.
    assert_eq!(talk.told([unsubscribe(cds(), "extra")]), ["CDS unsub:extra"]);
    assert_eq!(talk.reconnects(), ["CDS node:waypoint have:a=1,extra=2"]);
    assert_eq!(talk.told([unsubscribe(cds(), "*")]), ["CDS unsub:*"]);
    assert_eq!(talk.reconnects(), [""; 0]);
}

#[test]
fn verdicts_may_come_late_and_on_the_next_stream() {
    let mut talk = Talk::<Delta>::begin();
    talk.told([wildcard(cds())]);
    talk.hears(response(cds(), "1", "a=1", ""));
    talk.hears(response(cds(), "2", "a=2 b=2", ""));
    assert_eq!(talk.0.unjudged(), 2);
    assert_eq!(talk.told([accept(cds(), "1")]), ["CDS nonce:1"]);
    assert_eq!(talk.reconnects(), ["CDS node:waypoint have:a=1"]);
    // There is nobody to tell, but it is had now.
    assert_eq!(talk.told([accept(cds(), "2")]), [""; 0]);
    assert_eq!(talk.reconnects(), ["CDS node:waypoint have:a=2,b=2"]);
    // A verdict that nobody awaits changes nothing.
    assert_eq!(talk.told([accept(cds(), "2"), reject(cds(), "7", "no")]), [""; 0]);
}

#[test]
fn what_nobody_asked_for_is_not_passed_on() {
    let mut talk = Talk::<Delta>::begin();
    talk.told([subscribe(eds(), "a")]);
    assert_eq!(talk.hears(response(eds(), "1", "a=1 b=1", "c")), ["a"]);
    assert_eq!(talk.told([accept(eds(), "1")]), ["EDS nonce:1"]);
    talk.hears(response(eds(), "2", "a=2", ""));
    // Interest lost while the verdict is awaited: it is not had.
    assert_eq!(
        talk.told([unsubscribe(eds(), "a"), subscribe(eds(), "a"), accept(eds(), "2")]),
        ["EDS nonce:2", "EDS sub:a"]
    );
    assert_eq!(talk.reconnects(), ["EDS node:waypoint sub:a"]);
}

#[test]
fn a_response_that_contradicts_itself_is_refused_at_once() {
    let mut talk = Talk::<Delta>::begin();
    talk.told([wildcard(cds())]);
    assert_eq!(
        talk.hears(response(cds(), "1", "a=1 a=2", "")),
        ["rejected: duplicate name a found among added/updated resources"]
    );
    assert_eq!(talk.says(), ["CDS nonce:1 error:13 duplicate name a found among added/updated resources"]);
    assert_eq!(
        talk.hears(response(cds(), "2", "a=1", "a")),
        ["rejected: duplicate name a found in the union of added+removed resources"]
    );
    let mut other = response(cds(), "3", "a=1", "");
    other.resources[0].resource = Some(body(&eds(), "a"));
    assert!(talk.hears(other)[0].contains("does not match the message-wide type URL"));
    let mut empty = response(cds(), "4", "a=1", "");
    empty.resources[0].resource = None;
    assert!(talk.hears(empty)[0].ends_with("has no body"));
    assert_eq!(talk.says().len(), 3);
    assert_eq!(talk.0.unjudged(), 0);
}

#[test]
fn a_heartbeat_carries_nothing() {
    let mut talk = Talk::<Delta>::begin();
    talk.told([wildcard(cds())]);
    talk.hears(response(cds(), "1", "a=1", ""));
    talk.told([accept(cds(), "1")]);
    let mut heartbeat = response(cds(), "2", "a=1", "");
    heartbeat.resources[0].resource = None;
    heartbeat.resources[0].ttl = Some(Duration { seconds: 5, nanos: 0 });
    let Some(Event::Update(update)) = talk.0.response(heartbeat) else { panic!("an update, to be accepted") };
    assert!(update.resources.is_empty() && !update.complete);
    assert_eq!(talk.told([accept(cds(), "2")]), ["CDS nonce:2"]);
    assert_eq!(talk.reconnects(), ["CDS node:waypoint have:a=1"]);
}

#[test]
fn aliases_are_told_with_what_they_lead_to_and_apart_where_that_is_nothing() {
    let mut delta = Delta::new("t");
    delta.subscribe(WILDCARD);
    let alias = |name: &str, alias: &str, body: Option<crate::google::protobuf::Any>| Wrapped {
        name: name.into(),
        aliases: vec![alias.into()],
        version: "1".into(),
        resource: body,
        ..Wrapped::default()
    };
    let there = crate::google::protobuf::Any { type_url: "t".into(), value: Vec::new() };
    let update = delta.response(DeltaDiscoveryResponse {
        type_url: "t".into(),
        resources: vec![alias("r/1", "r/a", Some(there)), alias("r/no", "r/b", None)],
        ..DeltaDiscoveryResponse::default()
    });
    let Update { resources, aliases, missing, .. } = update.unwrap();
    assert_eq!(resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["r/1"]);
    assert_eq!((aliases, missing), (vec!["r/a".to_owned()], vec!["r/b".to_owned()]));
}

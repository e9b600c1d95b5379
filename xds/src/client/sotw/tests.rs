use super::*;
use crate::client::{
    Event,
    tests::{Talk, accept, body, cds, eds, reject, sotw_response as response, subscribe, unsubscribe, wildcard},
};
use crate::envoy::service::discovery::v3;

/// What Envoy 1.40 said to a scripted server, up to where its empty list of the second stream would ask for all there is.
#[test]
fn the_conversation_of_envoy() {
    let mut envoy = Talk::<Sotw>::begin();
    assert_eq!(envoy.told([wildcard(cds())]), ["CDS node:waypoint"]);
    assert_eq!(envoy.hears(response(cds(), "c1", "1", "a b")), ["a", "b"]);
    assert_eq!(envoy.told([subscribe(eds(), "a b"), accept(cds(), "c1")]), ["EDS names:a,b", "CDS version:1 nonce:c1"]);
    assert_eq!(envoy.hears(response(eds(), "e1", "1", "a b")), ["a", "b"]);
    assert_eq!(envoy.told([accept(eds(), "e1")]), ["EDS version:1 names:a,b nonce:e1"]);
    assert_eq!(envoy.hears(response(cds(), "c2", "2", "a bad")), ["a", "bad"]);
    assert_eq!(envoy.told([reject(cds(), "c2", "no timeout")]), ["CDS version:1 nonce:c2 error:13 no timeout"]);
    assert_eq!(envoy.hears(response(cds(), "c3", "3", "a")), ["a"]);
    assert_eq!(
        envoy.told([unsubscribe(eds(), "b"), accept(cds(), "c3")]),
        ["EDS version:1 names:a nonce:e1", "CDS version:3 nonce:c3"]
    );
    assert_eq!(envoy.reconnects(), ["CDS node:waypoint version:3", "EDS version:1 names:a"]);
    assert_eq!(envoy.hears(response(cds(), "c4", "4", "")), [""; 0]);
    assert_eq!(envoy.told([unsubscribe(eds(), "a"), accept(cds(), "c4")]), ["EDS version:1", "CDS version:4 nonce:c4"]);
    // An answer to that needs none.
    assert_eq!(envoy.hears(response(eds(), "e4", "4", "")), [""; 0]);
    assert_eq!(envoy.told([accept(eds(), "e4")]), [""; 0]);
    assert_eq!(envoy.reconnects(), ["CDS node:waypoint version:4"]);
    assert_eq!(envoy.told([subscribe(eds(), "a")]), ["EDS version:4 names:a"]);
}

#[test]
fn a_change_of_interest_refers_to_the_last_response_judged() {
    let mut talk = Talk::<Sotw>::begin();
    talk.told([subscribe(eds(), "a")]);
    talk.hears(response(eds(), "1", "v1", "a"));
    talk.told([reject(eds(), "1", "bad")]);
    assert_eq!(talk.told([subscribe(eds(), "b")]), ["EDS names:a,b nonce:1"]);
    talk.hears(response(eds(), "2", "v2", "a b"));
    // An ACK has the whole list, so one request is enough.
    assert_eq!(talk.told([subscribe(eds(), "c"), accept(eds(), "2")]), ["EDS version:v2 names:a,b,c nonce:2"]);
    assert_eq!(talk.told([subscribe(eds(), "c"), unsubscribe(eds(), "x")]), [""; 0]);
}

#[test]
fn only_a_wildcard_is_told_all_there_is() {
    let mut talk = Talk::<Sotw>::begin();
    talk.told([wildcard(cds()), subscribe(eds(), "a")]);
    let Some(Event::Update(all)) = talk.0.response(response(cds(), "1", "v", "a b")) else { panic!("an update") };
    assert!(all.complete);
    let Some(Event::Update(some)) = talk.0.response(response(eds(), "1", "v", "a b")) else { panic!("an update") };
    assert!(!some.complete);
    assert_eq!(
        some.resources.iter().map(|resource| (&*resource.name, &*resource.version)).collect::<Vec<_>>(),
        [("a", "v")]
    );
}

#[test]
fn names_beside_a_wildcard_are_said_with_it() {
    let mut talk = Talk::<Sotw>::begin();
    talk.told([wildcard(cds())]);
    assert_eq!(talk.told([subscribe(cds(), "extra")]), ["CDS names:*,extra"]);
    assert_eq!(talk.told([unsubscribe(cds(), "extra")]), ["CDS"]);
}

#[test]
fn a_verdict_of_the_last_stream_is_not_told_on_this_one() {
    let mut talk = Talk::<Sotw>::begin();
    talk.told([wildcard(cds())]);
    talk.hears(response(cds(), "1", "v1", "a"));
    assert_eq!(talk.reconnects(), ["CDS node:waypoint"]);
    assert_eq!(talk.told([accept(cds(), "1")]), [""; 0]);
    // The same nonce by another server's count.
    talk.hears(response(cds(), "1", "v2", "a"));
    assert_eq!(talk.told([reject(cds(), "1", "bad")]), ["CDS version:v1 nonce:1 error:13 bad"]);
}

#[test]
fn a_wrapped_resource_has_a_name_and_a_version_of_its_own() {
    let wrap = |name: &str, resource| {
        any::pack(&v3::Resource { name: name.into(), version: "own".into(), resource, ..v3::Resource::default() })
    };
    let mut talk = Talk::<Sotw>::begin();
    talk.told([wildcard(cds())]);
    let mut wrapped = response(cds(), "1", "v", "plain");
    wrapped.resources.push(wrap("called", Some(body(&cds(), "inner"))));
    wrapped.resources.push(wrap("", Some(body(&cds(), "inner"))));
    wrapped.resources.push(wrap("heartbeat", None));
    let Some(Event::Update(update)) = talk.0.response(wrapped) else { panic!("an update") };
    let seen: Vec<_> = update.resources.iter().map(|resource| (&*resource.name, &*resource.version)).collect();
    assert_eq!(seen, [("plain", "v"), ("called", "own"), ("inner", "own")]);
}

#[test]
fn a_resource_of_another_type_is_refused_at_once() {
    let mut talk = Talk::<Sotw>::begin();
    talk.told([wildcard(cds())]);
    let mut other = response(cds(), "1", "v", "a");
    other.resources.push(body(&eds(), "b"));
    assert!(talk.hears(other)[0].contains("does not match the message-wide type URL"));
    let said = talk.says();
    assert!(said.len() == 1 && said[0].starts_with("CDS nonce:1 error:13 "), "{said:?}");
    assert_eq!(talk.told([subscribe(cds(), "x")]), ["CDS names:*,x nonce:1"]);
}

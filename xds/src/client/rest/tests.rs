use super::*;
use crate::client::tests::{Noise, accept, cds, eds, node, reject, sotw_response, subscribe, unsubscribe, wildcard};
use serde_json::json;
use std::{cell::RefCell, rc::Rc};
use tokio::{sync::mpsc, task::LocalSet, time::Instant};

fn options() -> Options {
    Options {
        type_url: eds(),
        node: node(),
        refresh_delay: Duration::from_secs(10),
        request_timeout: Duration::from_secs(1),
        destination: "rest".into(),
    }
}

fn response(version: &str, list: &str) -> Vec<u8> {
    json::to_value(&sotw_response(eds(), "", version, list), false).unwrap().to_string().into_bytes()
}

fn asked(state: &State) -> crate::Value {
    serde_json::from_slice(&state.request().unwrap()).unwrap()
}

#[test]
fn the_version_accepted_last_goes_with_each_request() {
    let mut state = State::new(&options());
    assert_eq!(state.request(), None);
    state.command(subscribe(eds(), "b a"));
    state.command(subscribe(cds(), "not here"));
    assert_eq!(asked(&state), json!({"node": {"id": "waypoint"}, "resource_names": ["a", "b"], "type_url": eds()}));
    let Some(Event::Update(update)) = state.answer(Ok((200, response("v1", "a other"))), "rest") else {
        panic!("an update")
    };
    assert_eq!(update.resources.len(), 1);
    assert!(!update.complete);
    assert!(asked(&state).get("version_info").is_none());
    state.command(accept(eds(), &update.nonce));
    assert_eq!(asked(&state)["version_info"], "v1");

    let Some(Event::Update(update)) = state.answer(Ok((200, response("v2", "a"))), "rest") else { panic!("an update") };
    state.command(reject(eds(), &update.nonce, "bad"));
    assert_eq!(asked(&state)["version_info"], "v1");
    assert_eq!(state.answer(Ok((304, Vec::new())), "rest"), None);
    state.command(unsubscribe(eds(), "a b"));
    assert_eq!(state.request(), None);
}

#[test]
fn answers_that_are_none_are_events() {
    let mut state = State::new(&options());
    state.command(wildcard(eds()));
    let failed =
        |reason: &str| Some(Event::Disconnected { reason: format!("REST config fetch from rest failed: {reason}") });
    assert_eq!(state.answer(Ok((503, Vec::new())), "rest"), failed("the answer is 503"));
    assert_eq!(state.answer(Err("reset".into()), "rest"), failed("reset"));
    assert!(matches!(state.answer(Ok((200, b"{".to_vec())), "rest"), Some(Event::Rejected { .. })));
    let mut noise = Noise(3);
    let text = response("v1", "a b");
    for _ in 0..2000 {
        state.answer(Ok((200, noise.bend(&text))), "rest");
    }
}

/// Answers with what is in the list, then never.
struct Script(RefCell<Vec<Vec<u8>>>, Rc<RefCell<Vec<(Instant, String)>>>);

impl Http for Script {
    async fn post(&self, path: &'static str, body: Vec<u8>) -> Result<(u16, Vec<u8>), String> {
        self.1.borrow_mut().push((Instant::now(), format!("{path} {}", String::from_utf8(body).unwrap())));
        let Some(answer) = self.0.borrow_mut().pop() else { return std::future::pending().await };
        Ok((200, answer))
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_again_and_again_with_jitter_and_not_for_long() {
    let test = async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let (commands, for_driver) = mpsc::unbounded_channel();
        let (sender, mut events) = mpsc::unbounded_channel();
        commands.send(wildcard(eds())).unwrap();
        let script = Script(RefCell::new(vec![response("v1", "a")]), log.clone());
        let task = tokio::task::spawn_local(run(script, options(), for_driver, sender));
        let Some(Event::Update(update)) = events.recv().await else { panic!("an update") };
        assert!(update.complete);
        commands.send(accept(eds(), &update.nonce)).unwrap();
        let Some(Event::Disconnected { reason }) = events.recv().await else { panic!("a failure") };
        assert_eq!(reason, "REST config fetch from rest failed: the request timed out");
        {
            let log = log.borrow();
            assert!(log[0].1.starts_with("/v3/discovery:endpoints {\"node\""), "{}", log[0].1);
            assert!(log[1].1.contains(r#""version_info":"v1""#), "{}", log[1].1);
            let waited = log[1].0 - log[0].0;
            assert!((Duration::from_secs(10)..Duration::from_secs(21)).contains(&waited), "{waited:?}");
        }
        drop(commands);
        task.await.unwrap();
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_type_without_a_path_is_said_to_have_none() {
    let (_commands, for_driver) = mpsc::unbounded_channel();
    let (sender, mut events) = mpsc::unbounded_channel();
    let options = Options { type_url: "type.googleapis.com/istio.workload.Workload".into(), ..options() };
    run(Script(RefCell::default(), Rc::default()), options, for_driver, sender).await;
    assert!(matches!(events.recv().await, Some(Event::Disconnected { .. })));
}

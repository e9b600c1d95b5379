use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Control, Drain, DrainStrategy, ServerState, Stage, gradually};
use crate::cluster::ClusterTable;
use crate::worker::{Command, LoadGuard, Shared, WorkerHandle};

#[test]
fn a_gradual_drain_closes_ever_more() {
    let whole = Duration::from_secs(10);
    let closed = |passed| (0..1000u64).filter(|r| gradually(passed, whole, r * 10)).count();
    assert_eq!((closed(0), closed(2500), closed(5000), closed(10_000), closed(99_999)), (0, 250, 500, 1000, 1000));
}

#[test]
fn draining_and_failing_health_checks_end_on_their_own() {
    let drain = Drain::new(DrainStrategy::Gradual, Duration::from_secs(3600));
    let told = drain.subscribe();
    assert!(!drain.closes(true, 0) && !*told.borrow());
    drain.begin();
    assert!(drain.is_on() && *told.borrow() && !drain.closes(true, u64::MAX / 3_600_000 * 3_600_000 - 1));
    drain.fail_health_checks();
    assert!(drain.closes(true, u64::MAX / 3_600_000 * 3_600_000 - 1));
    drain.cancel();
    assert!(drain.is_on() && !drain.fails_health_checks() && *told.borrow());
    let failing = Drain::default();
    failing.fail_health_checks();
    failing.cancel();
    assert!(!failing.is_on() && !failing.closes(true, 0));
}

#[test]
fn an_inbound_drain_spares_other_connections() {
    let drain = Drain::new(DrainStrategy::Immediate, Duration::from_secs(3600));
    drain.begin_inbound();
    assert!(drain.is_on() && drain.closes(true, 0) && !drain.closes(false, 0));
    drain.begin();
    assert!(drain.closes(false, 0));
}

#[test]
fn stages_have_envoys_names_and_numbers() {
    let (stage, drain) = (Stage::default(), Drain::default());
    for (state, name, number) in [
        (ServerState::PreInitializing, "PRE_INITIALIZING", 2),
        (ServerState::Initializing, "INITIALIZING", 3),
        (ServerState::Live, "LIVE", 0),
        (ServerState::Draining, "DRAINING", 1),
    ] {
        stage.set(state);
        assert_eq!((stage.state(&drain), state.name(), state as u64), (state, name, number));
        assert_eq!(stage.workers_started(), number < 2);
    }
    stage.set(ServerState::Live);
    drain.fail_health_checks();
    assert_eq!(stage.state(&drain), ServerState::Draining);
}

fn control(
    strategy: DrainStrategy,
    time: Duration,
) -> (Arc<Control>, WorkerHandle, tokio::sync::mpsc::UnboundedReceiver<Command>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let worker = WorkerHandle { sender, load: Arc::default() };
    let shared = Shared {
        clusters: ClusterTable::default(),
        listeners: Default::default(),
        stats: Arc::default(),
        drain: Drain::new(strategy, time),
        workers: OnceLock::from(vec![worker.clone()]),
        overload: Default::default(),
    };
    (Control::new(Arc::new(shared)), worker, receiver)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn the_process_ends_when_the_last_connection_has() {
    runtime().block_on(async {
        let (control, worker, mut commands) = control(DrainStrategy::Immediate, Duration::from_secs(3600));
        let guard = LoadGuard::new(&worker.load);
        let drain = tokio::spawn(control.clone().drain_and_quit());
        assert!(matches!(commands.recv().await, Some(Command::StopListening)));
        assert!(control.shared.drain.is_on() && !drain.is_finished());
        assert_eq!(control.state(), ServerState::Draining);
        drop(guard);
        control.ended().await;
        drain.await.unwrap();
    });
}

#[test]
fn the_drain_time_ends_a_drain() {
    runtime().block_on(async {
        let (control, worker, _commands) = control(DrainStrategy::Immediate, Duration::ZERO);
        let _guard = LoadGuard::new(&worker.load);
        control.clone().drain_and_quit().await;
        control.ended().await;
        assert_eq!(control.connections(), 1);
    });
}

#[test]
fn drain_listeners_closes_sockets_unless_told_otherwise() {
    runtime().block_on(async {
        let (control, _worker, mut commands) = control(DrainStrategy::Immediate, Duration::ZERO);
        control.drain_listeners(false, true, false);
        assert!(control.shared.drain.is_on() && commands.try_recv().is_err());
        control.drain_listeners(true, false, false);
        assert!(matches!(commands.recv().await, Some(Command::StopListening)));
        control.drain_listeners(false, false, false);
        assert!(matches!(commands.try_recv(), Ok(Command::StopListening)));
        control.drain_listeners(false, false, true);
        assert!(matches!(commands.try_recv(), Ok(Command::StopListening)));
    });
}

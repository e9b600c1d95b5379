//! Endpoints that change what the process does.

use std::sync::Arc;

use super::AdminState;
use super::page::Page;
use super::query::Query;

/// `POST /drain_listeners`.
pub fn drain_listeners(state: &Arc<AdminState>, query: &Query) -> Page {
    state.control.drain_listeners(query.has("graceful"), query.has("skip_exit"), query.has("inboundonly"));
    Page::ok()
}

/// `POST /healthcheck/fail`.
pub fn fail(state: &AdminState) -> Page {
    state.shared.drain.fail_health_checks();
    Page::ok()
}

/// `POST /healthcheck/ok`.
pub fn pass(state: &AdminState) -> Page {
    state.shared.drain.cancel();
    Page::ok()
}

/// `POST /quitquitquit`.
pub fn quit(state: &AdminState) -> Page {
    // The connection's task runs on until the answer is written; only then is the turn of another task.
    let control = state.control.clone();
    tokio::spawn(async move { control.quit() });
    Page::ok()
}

/// `POST /reopen_logs`.
pub fn reopen(state: &AdminState) -> Page {
    state.access_logs.reopen();
    state.log.reopen();
    Page::ok()
}

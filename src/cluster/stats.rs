//! A cluster's counters under Envoy's names (`cluster.<name>.…`).

use std::any::Any;
use std::sync::{Arc, OnceLock};

use crate::observe::stats::{Level, Mark, Spread, Stat, StatGroup, Store, Tally};

macro_rules! cluster_stats {
    (counters { $($c:ident)* } gauges { $($g:ident)* } marks { $($m:ident)* } histograms { $($h:ident)* }) => {
        /// One cluster's stats; each field is the stat of the same name.
        #[derive(Debug, Default)]
        #[allow(missing_docs, reason = "the fields are Envoy's stat names")]
        pub struct ClusterStats {
            $(pub $c: Tally,)*
            $(pub $g: Level,)*
            $(pub $m: Mark,)*
            $(pub $h: Spread,)*
            classes: [Tally; 5],
            /// By class and code. A table is made when one of its codes is first seen: most clusters see one or two classes, or nothing.
            codes: OnceLock<Box<[OnceLock<Box<[Tally]>>; 5]>>,
            prefix: Arc<str>,
        }

        impl ClusterStats {
            fn fixed(&self, visit: &mut dyn FnMut(&str, Stat)) {
                $(visit(stringify!($c), Stat::Counter(self.$c.stat()));)*
                $(visit(stringify!($g), Stat::Gauge(self.$g.stat()));)*
                $(visit(stringify!($m), Stat::Gauge(self.$m.stat()));)*
                $(visit(stringify!($h), Stat::Histogram(self.$h.stat()));)*
            }
        }
    };
}

cluster_stats! {
    counters {
        upstream_cx_total
        upstream_cx_http1_total
        upstream_cx_http2_total
        upstream_cx_connect_fail
        upstream_cx_connect_timeout
        upstream_cx_idle_timeout
        upstream_cx_max_requests
        upstream_cx_overflow
        upstream_cx_destroy
        upstream_cx_protocol_error
        upstream_cx_none_healthy
        upstream_cx_rx_bytes_total
        upstream_cx_tx_bytes_total
        upstream_rq_total
        upstream_rq_completed
        upstream_rq_cancelled
        upstream_rq_maintenance_mode
        upstream_rq_timeout
        upstream_rq_per_try_timeout
        upstream_rq_max_duration_reached
        upstream_rq_pending_total
        upstream_rq_pending_overflow
        upstream_rq_pending_failure_eject
        upstream_rq_active_overflow
        upstream_rq_rx_reset
        upstream_rq_tx_reset
        upstream_rq_retry
        upstream_rq_retry_success
        upstream_rq_retry_overflow
        upstream_rq_retry_limit_exceeded
        upstream_rq_retry_backoff_exponential
        upstream_internal_redirect_failed_total
        upstream_internal_redirect_succeeded_total
        lb_healthy_panic
        membership_change
        update_attempt
        update_success
        update_rejected
        update_failure
        update_empty
        init_fetch_timeout
        update_no_rebuild
        original_dst_host_invalid
    }
    gauges {
        upstream_cx_active
        upstream_rq_active
        upstream_rq_pending_active
    }
    marks {
        membership_total
        membership_healthy
        membership_degraded
        version
    }
    histograms {
        upstream_rq_time
        upstream_cx_connect_ms
        upstream_cx_length_ms
    }
}

impl ClusterStats {
    /// The stats of the cluster whose observability name is given; all versions of it have the same.
    pub fn new(store: &Store, name: &str) -> Arc<ClusterStats> {
        store.group(&format!("cluster.{name}."), |prefix| ClusterStats { prefix, ..ClusterStats::default() })
    }

    /// Counts a response: its class and its code.
    pub fn response(&self, status: u16) {
        let class = usize::from(status / 100).wrapping_sub(1);
        let Some(counter) = self.classes.get(class) else { return };
        counter.inc();
        let Some(codes) = self.codes.get_or_init(Box::default).get(class) else { return };
        let codes = codes.get_or_init(|| (0..100).map(|_| Tally::default()).collect());
        if let Some(code) = codes.get(usize::from(status % 100)) {
            code.inc();
        }
    }
}

impl StatGroup for ClusterStats {
    fn prefix(&self) -> &Arc<str> {
        &self.prefix
    }

    fn each(&self, visit: &mut dyn FnMut(&str, Stat)) {
        self.fixed(visit);
        for (class, counter) in (1..).zip(&self.classes) {
            visit(&format!("upstream_rq_{class}xx"), Stat::Counter(counter.stat()));
        }
        for (class, codes) in (1..).zip(self.codes.get().into_iter().flat_map(|c| c.iter())) {
            for (code, counter) in (0..).zip(codes.get().into_iter().flatten()) {
                // A code has a stat from when it is first seen.
                if counter.stat().used() {
                    visit(&format!("upstream_rq_{class}{code:02}"), Stat::Counter(counter.stat()));
                }
            }
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

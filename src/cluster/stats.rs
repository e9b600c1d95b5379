//! A cluster's counters under Envoy's names (`cluster.<name>.…`).

use std::sync::{Arc, OnceLock};

use crate::observe::stats::{Counter, Gauge, Histogram, Store};

macro_rules! cluster_stats {
    (counters { $($c:ident $cn:literal,)* } gauges { $($g:ident $gn:literal,)* } histograms { $($h:ident $hn:literal,)* }) => {
        /// Handles of one cluster's stats; each field is the stat of the same name.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "the fields are Envoy's stat names")]
        pub struct ClusterStats {
            $(pub $c: Counter,)*
            $(pub $g: Gauge,)*
            $(pub $h: Histogram,)*
            classes: [Counter; 5],
            /// By class and code; a class's table is made when the class is first seen, since most clusters see one or two.
            codes: [OnceLock<Box<[OnceLock<Counter>]>>; 5],
            prefix: String,
            store: Arc<Store>,
        }

        impl ClusterStats {
            /// The stats of the cluster whose observability name is given.
            pub fn new(store: &Arc<Store>, name: &str) -> ClusterStats {
                let prefix = format!("cluster.{name}.");
                let class = |n: u32| store.counter(&format!("{prefix}upstream_rq_{n}xx"));
                ClusterStats {
                    $($c: store.counter(&format!("{prefix}{}", $cn)),)*
                    $($g: store.gauge(&format!("{prefix}{}", $gn)),)*
                    $($h: store.histogram(&format!("{prefix}{}", $hn)),)*
                    classes: [class(1), class(2), class(3), class(4), class(5)],
                    codes: Default::default(),
                    prefix,
                    store: store.clone(),
                }
            }
        }
    };
}

cluster_stats! {
    counters {
        upstream_cx_total "upstream_cx_total",
        upstream_cx_http1_total "upstream_cx_http1_total",
        upstream_cx_http2_total "upstream_cx_http2_total",
        upstream_cx_connect_fail "upstream_cx_connect_fail",
        upstream_cx_connect_timeout "upstream_cx_connect_timeout",
        upstream_cx_idle_timeout "upstream_cx_idle_timeout",
        upstream_cx_max_requests "upstream_cx_max_requests",
        upstream_cx_overflow "upstream_cx_overflow",
        upstream_cx_destroy "upstream_cx_destroy",
        upstream_cx_protocol_error "upstream_cx_protocol_error",
        upstream_cx_none_healthy "upstream_cx_none_healthy",
        upstream_cx_rx_bytes_total "upstream_cx_rx_bytes_total",
        upstream_cx_tx_bytes_total "upstream_cx_tx_bytes_total",
        upstream_rq_total "upstream_rq_total",
        upstream_rq_completed "upstream_rq_completed",
        upstream_rq_cancelled "upstream_rq_cancelled",
        upstream_rq_maintenance_mode "upstream_rq_maintenance_mode",
        upstream_rq_timeout "upstream_rq_timeout",
        upstream_rq_per_try_timeout "upstream_rq_per_try_timeout",
        upstream_rq_max_duration_reached "upstream_rq_max_duration_reached",
        upstream_rq_pending_total "upstream_rq_pending_total",
        upstream_rq_pending_overflow "upstream_rq_pending_overflow",
        upstream_rq_pending_failure_eject "upstream_rq_pending_failure_eject",
        upstream_rq_active_overflow "upstream_rq_active_overflow",
        upstream_rq_rx_reset "upstream_rq_rx_reset",
        upstream_rq_tx_reset "upstream_rq_tx_reset",
        upstream_rq_retry "upstream_rq_retry",
        upstream_rq_retry_success "upstream_rq_retry_success",
        upstream_rq_retry_overflow "upstream_rq_retry_overflow",
        upstream_rq_retry_limit_exceeded "upstream_rq_retry_limit_exceeded",
        upstream_rq_retry_backoff_exponential "upstream_rq_retry_backoff_exponential",
        upstream_internal_redirect_failed_total "upstream_internal_redirect_failed_total",
        upstream_internal_redirect_succeeded_total "upstream_internal_redirect_succeeded_total",
        lb_healthy_panic "lb_healthy_panic",
        membership_change "membership_change",
        update_attempt "update_attempt",
        update_success "update_success",
        update_rejected "update_rejected",
        update_no_rebuild "update_no_rebuild",
        original_dst_host_invalid "original_dst_host_invalid",
    }
    gauges {
        upstream_cx_active "upstream_cx_active",
        upstream_rq_active "upstream_rq_active",
        upstream_rq_pending_active "upstream_rq_pending_active",
        membership_total "membership_total",
        membership_healthy "membership_healthy",
        membership_degraded "membership_degraded",
        version "version",
    }
    histograms {
        upstream_rq_time "upstream_rq_time",
        upstream_cx_connect_ms "upstream_cx_connect_ms",
        upstream_cx_length_ms "upstream_cx_length_ms",
    }
}

impl ClusterStats {
    /// Counts a response: its class and its code. A code's counter is made when the code is first seen.
    pub fn response(&self, status: u16) {
        let class = usize::from(status / 100).wrapping_sub(1);
        let (Some(counter), Some(codes)) = (self.classes.get(class), self.codes.get(class)) else { return };
        counter.inc();
        let codes = codes.get_or_init(|| (0..100).map(|_| OnceLock::new()).collect());
        if let Some(code) = codes.get(usize::from(status % 100)) {
            code.get_or_init(|| self.store.counter(&format!("{}upstream_rq_{status}", self.prefix))).inc();
        }
    }
}

//! `http.<stat_prefix>.*`

use std::sync::Arc;

use crate::observe::stats::{Counter, Gauge, Histogram, Store};

macro_rules! stats {
    ($(counters: $($c:ident)*;)? $(gauges: $($g:ident)*;)? $(histograms: $($h:ident)*;)?) => {
        /// The handles of one `stat_prefix`; fields are named as in Envoy.
        #[derive(Clone, Debug)]
        #[allow(missing_docs, reason = "the names are Envoy's and its documentation describes them")]
        pub struct Stats {
            $($(pub $c: Counter,)*)?
            $($(pub $g: Gauge,)*)?
            $($(pub $h: Histogram,)*)?
            /// `downstream_rq_1xx` to `downstream_rq_5xx`
            pub downstream_rq_classes: ByClass,
        }

        impl Stats {
            /// The handles of a prefix.
            pub fn new(store: &Store, stat_prefix: &str) -> Stats {
                let name = |n: &str| format!("http.{stat_prefix}.{n}");
                Stats {
                    $($($c: store.counter(&name(stringify!($c))),)*)?
                    $($($g: store.gauge(&name(stringify!($g))),)*)?
                    $($($h: store.histogram(&name(stringify!($h))),)*)?
                    downstream_rq_classes: ByClass::new(store, &format!("http.{stat_prefix}.")),
                }
            }
        }
    };
}

stats! {
    counters:
        downstream_cx_delayed_close_timeout downstream_cx_destroy downstream_cx_destroy_active_rq downstream_cx_destroy_local
        downstream_cx_destroy_local_active_rq downstream_cx_destroy_remote downstream_cx_destroy_remote_active_rq
        downstream_cx_drain_close downstream_cx_http1_total downstream_cx_http2_total downstream_cx_idle_timeout
        downstream_cx_max_duration_reached downstream_cx_max_requests_reached downstream_cx_protocol_error
        downstream_cx_rx_bytes_total downstream_cx_ssl_total downstream_cx_total downstream_cx_tx_bytes_total
        downstream_cx_upgrades_total downstream_flow_control_paused_reading_total
        downstream_flow_control_resumed_reading_total downstream_rq_failed_path_normalization downstream_rq_header_timeout
        downstream_rq_http1_total downstream_rq_http2_total downstream_rq_idle_timeout downstream_rq_max_duration_reached
        downstream_rq_non_relative_path downstream_rq_redirected_with_normalized_path downstream_rq_rejected_via_ip_detection
        downstream_rq_response_before_rq_complete downstream_rq_rx_reset downstream_rq_timeout downstream_rq_too_large
        downstream_rq_too_many_premature_resets downstream_rq_total downstream_rq_tx_reset downstream_rq_ws_on_non_ws_route
        no_cluster no_route passthrough_internal_redirect_bad_location passthrough_internal_redirect_no_route
        passthrough_internal_redirect_predicate passthrough_internal_redirect_too_many_redirects
        passthrough_internal_redirect_unsafe_scheme rq_direct_response rq_redirect rq_reset_after_downstream_response_started
        rq_total rs_too_large;
    gauges:
        downstream_cx_active downstream_cx_http1_active downstream_cx_http1_soft_drain downstream_cx_http2_active
        downstream_cx_rx_bytes_buffered downstream_cx_ssl_active downstream_cx_tx_bytes_buffered downstream_cx_upgrades_active
        downstream_rq_active;
    histograms: downstream_cx_length_ms downstream_rq_time;
}

/// `downstream_rq_completed` and `downstream_rq_1xx` to `downstream_rq_5xx`: kept for the prefix, and for each listener too
/// (`listener.<address>.http.<stat_prefix>.`).
#[derive(Clone, Debug)]
pub struct ByClass {
    completed: Counter,
    classes: Arc<[Counter; 5]>,
}

impl ByClass {
    /// The handles under a prefix that ends in a dot.
    pub fn new(store: &Store, prefix: &str) -> ByClass {
        let class = |n: u8| store.counter(&format!("{prefix}downstream_rq_{n}xx"));
        ByClass {
            completed: store.counter(&format!("{prefix}downstream_rq_completed")),
            classes: Arc::new([class(1), class(2), class(3), class(4), class(5)]),
        }
    }

    /// Counts a response, and not the informational ones before it; a stream without a response has code 0 and only completes.
    pub fn count(&self, code: u16) {
        self.completed.inc();
        if let Some(c) = usize::from(code / 100).checked_sub(1).and_then(|c| self.classes.get(c)) {
            c.inc();
        }
    }
}

//! How a host's side fails: Envoy's words for it, the local reply to it, and whether another attempt may help.

use http::{HeaderValue, StatusCode};
use waypost_filters::filter::LocalReply;
use waypost_filters::flags::Flag;
use waypost_filters::head::ResponseHead;

use super::upstream::Broken;
use crate::cluster::connect::ConnectError;
use crate::route::{RetryOn, RetryPolicy};

/// Envoy's words for how an upstream failed: status, flag, reason.
pub fn describe(broken: Broken) -> (StatusCode, Flag, &'static str) {
    match broken {
        Broken::Terminated => {
            (StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamConnectionTermination, "connection termination")
        }
        Broken::Reset => (StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamRemoteReset, "remote reset"),
        Broken::Refused => (StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamRemoteReset, "remote refused stream reset"),
        Broken::Protocol => (StatusCode::BAD_GATEWAY, Flag::UpstreamProtocolError, "protocol error"),
    }
}

/// The local reply to a reset before the response's head.
pub fn reset_reply(status: StatusCode, flag: Flag, reason: &str, transport: Option<&str>, retried: bool) -> LocalReply {
    let body = if retried {
        format!(
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: {reason}"
        )
    } else {
        format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}")
    };
    let reason = reason.replace(' ', "_");
    let details = match transport {
        Some(t) if !t.is_empty() => {
            format!("upstream_reset_before_response_started{{{reason}|{}}}", t.replace(' ', "_"))
        }
        _ => format!("upstream_reset_before_response_started{{{reason}}}"),
    };
    LocalReply::new(status, details).body(body).flag(flag)
}

/// The local reply to a connection that could not be made.
pub fn connect_reply(error: &ConnectError, retried: bool) -> LocalReply {
    match error {
        ConnectError::Failed(reason) => reset_reply(
            StatusCode::SERVICE_UNAVAILABLE,
            Flag::UpstreamConnectionFailure,
            "remote connection failure",
            Some(reason),
            retried,
        ),
        ConnectError::Timeout => reset_reply(
            StatusCode::SERVICE_UNAVAILABLE,
            Flag::UpstreamConnectionFailure,
            "connection timeout",
            None,
            retried,
        ),
        ConnectError::Terminated => {
            let (status, flag, reason) = describe(Broken::Terminated);
            reset_reply(status, flag, reason, None, retried)
        }
        ConnectError::Overflow => {
            let mut reply =
                reset_reply(StatusCode::SERVICE_UNAVAILABLE, Flag::UpstreamOverflow, "overflow", None, retried);
            reply.headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
            reply
        }
    }
}

/// An attempt's way of failing that may be worth another.
pub enum Failure {
    /// There was no connection.
    Connect(ConnectError),
    /// There was one, and then it failed.
    Broken(Broken),
    /// `per_try_timeout`
    Timeout,
}

/// Whether a policy lets such a failure be tried again.
pub fn allows(on: RetryOn, failure: &Failure) -> bool {
    match failure {
        Failure::Connect(ConnectError::Failed(_) | ConnectError::Timeout) => {
            on.any(RetryOn::CONNECT_FAILURE)
                || on.any(RetryOn::FIVE_XX)
                || on.any(RetryOn::GATEWAY_ERROR)
                || on.any(RetryOn::RESET)
                || on.any(RetryOn::RESET_BEFORE_REQUEST)
        }
        Failure::Connect(ConnectError::Terminated) => {
            on.any(RetryOn::FIVE_XX) || on.any(RetryOn::GATEWAY_ERROR) || on.any(RetryOn::RESET)
        }
        Failure::Connect(ConnectError::Overflow) => false,
        Failure::Broken(Broken::Refused) => {
            on.any(RetryOn::REFUSED_STREAM)
                || on.any(RetryOn::FIVE_XX)
                || on.any(RetryOn::GATEWAY_ERROR)
                || on.any(RetryOn::RESET)
        }
        Failure::Broken(_) | Failure::Timeout => {
            on.any(RetryOn::FIVE_XX) || on.any(RetryOn::GATEWAY_ERROR) || on.any(RetryOn::RESET)
        }
    }
}

/// Whether a policy lets a response be tried again.
pub fn allows_response(policy: &RetryPolicy, head: &ResponseHead) -> bool {
    let (on, code) = (policy.on, head.status.as_u16());
    if head.headers.contains_key("x-envoy-ratelimited") {
        // Whoever limits the rate is not helped by another request.
        return on.any(RetryOn::ENVOY_RATE_LIMITED);
    }
    (on.any(RetryOn::FIVE_XX) && head.status.is_server_error())
        || (on.any(RetryOn::GATEWAY_ERROR) && matches!(code, 502..=504))
        || (on.any(RetryOn::RETRIABLE_4XX) && code == 409)
        || (on.any(RetryOn::STATUS_CODES) && policy.status_codes.contains(&code))
        || (on.any(RetryOn::HEADERS) && policy.headers.iter().any(|h| h.matches_response(head)))
        || head.headers.get("grpc-status").is_some_and(|status| {
            // The codes of the gRPC protocol, in a response of headers alone.
            on.any(match status.as_bytes() {
                b"1" => RetryOn::GRPC_CANCELLED,
                b"4" => RetryOn::GRPC_DEADLINE_EXCEEDED,
                b"8" => RetryOn::GRPC_RESOURCE_EXHAUSTED,
                b"13" => RetryOn::GRPC_INTERNAL,
                b"14" => RetryOn::GRPC_UNAVAILABLE,
                _ => return false,
            })
        })
}

//! Response flags: why a stream ended as it did (`StreamInfo::CoreResponseFlag`).

/// A set of [`Flag`]s that knows in which order they were set, for that is how a log line prints them (`URX,UF`, but `UF,URX` in TCP).
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    bits: u32,
    /// The first flags set, each as its bit plus one; 0 where there is none. No stream was seen with more than three.
    order: [u8; 4],
}

impl PartialEq for Flags {
    fn eq(&self, other: &Flags) -> bool {
        self.bits == other.bits
    }
}

impl Eq for Flags {}

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        /// One response flag.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Flag { $($(#[$doc])* $name = $bit,)* }

        impl Flag {
            /// Every flag, in Envoy's bit order.
            pub const ALL: &'static [Flag] = &[$(Flag::$name,)*];

            /// The name that `%RESPONSE_FLAGS%` prints and access-log filters take.
            pub const fn short(self) -> &'static str {
                match self { $(Flag::$name => $short,)* }
            }

            /// The name that `%RESPONSE_FLAGS_LONG%` prints.
            pub const fn long(self) -> &'static str {
                match self { $(Flag::$name => $long,)* }
            }
        }
    };
}

flags! {
    /// Local service failed a health check.
    FailedLocalHealthCheck = 0, "LH", "FailedLocalHealthCheck";
    /// No healthy upstream host.
    NoHealthyUpstream = 1, "UH", "NoHealthyUpstream";
    /// The upstream request timed out.
    UpstreamRequestTimeout = 2, "UT", "UpstreamRequestTimeout";
    /// The stream was reset locally.
    LocalReset = 3, "LR", "LocalReset";
    /// The upstream reset the stream.
    UpstreamRemoteReset = 4, "UR", "UpstreamRemoteReset";
    /// The upstream connection could not be made.
    UpstreamConnectionFailure = 5, "UF", "UpstreamConnectionFailure";
    /// The upstream connection ended.
    UpstreamConnectionTermination = 6, "UC", "UpstreamConnectionTermination";
    /// A circuit breaker was open.
    UpstreamOverflow = 7, "UO", "UpstreamOverflow";
    /// No route, or no filter chain.
    NoRouteFound = 8, "NR", "NoRouteFound";
    /// A fault was injected as a delay.
    DelayInjected = 9, "DI", "DelayInjected";
    /// A fault was injected as an abort.
    FaultInjected = 10, "FI", "FaultInjected";
    /// Rate limited.
    RateLimited = 11, "RL", "RateLimited";
    /// Denied by external authorization.
    UnauthorizedExternalService = 12, "UAEX", "UnauthorizedExternalService";
    /// The rate-limit service failed.
    RateLimitServiceError = 13, "RLSE", "RateLimitServiceError";
    /// The downstream connection ended.
    DownstreamConnectionTermination = 14, "DC", "DownstreamConnectionTermination";
    /// Retries were exhausted.
    UpstreamRetryLimitExceeded = 15, "URX", "UpstreamRetryLimitExceeded";
    /// The stream was idle too long.
    StreamIdleTimeout = 16, "SI", "StreamIdleTimeout";
    /// An `x-envoy-*` header was not valid.
    InvalidEnvoyRequestHeaders = 17, "IH", "InvalidEnvoyRequestHeaders";
    /// The downstream broke its protocol.
    DownstreamProtocolError = 18, "DPE", "DownstreamProtocolError";
    /// The upstream stream lived too long.
    UpstreamMaxStreamDurationReached = 19, "UMSDR", "UpstreamMaxStreamDurationReached";
    /// The response came from a cache.
    ResponseFromCacheFilter = 20, "RFCF", "ResponseFromCacheFilter";
    /// A filter's configuration never arrived.
    NoFilterConfigFound = 21, "NFCF", "NoFilterConfigFound";
    /// The connection lived too long.
    DurationTimeout = 22, "DT", "DurationTimeout";
    /// The upstream broke its protocol.
    UpstreamProtocolError = 23, "UPE", "UpstreamProtocolError";
    /// The cluster of the route is not known.
    NoClusterFound = 24, "NC", "NoClusterFound";
    /// The overload manager ended the stream.
    OverloadManager = 25, "OM", "OverloadManagerTerminated";
    /// A name could not be resolved.
    DnsResolutionFailed = 26, "DF", "DnsResolutionFailed";
    /// The load balancer dropped the request.
    DropOverLoad = 27, "DO", "DropOverload";
    /// The downstream reset the stream.
    DownstreamRemoteReset = 28, "DR", "DownstreamRemoteReset";
    /// Everything is dropped.
    UnconditionalDropOverload = 29, "UDO", "UnconditionalDropOverload";
}

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags { bits: 0, order: [0; 4] };

    /// Adds a flag.
    pub fn set(&mut self, flag: Flag) {
        if !self.has(flag) {
            self.bits |= 1 << flag as u8;
            if let Some(place) = self.order.iter_mut().find(|o| **o == 0) {
                *place = flag as u8 + 1;
            }
        }
    }

    /// Whether the flag is there.
    pub fn has(self, flag: Flag) -> bool {
        self.bits & (1 << flag as u8) != 0
    }

    /// Whether both sets have a flag in common.
    pub fn intersects(self, other: Flags) -> bool {
        self.bits & other.bits != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// The flags of the set, in the order of printing: as they were set.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        let first = self.order.into_iter().filter_map(|o| Flag::ALL.get(usize::from(o.checked_sub(1)?)).copied());
        let rest = Flag::ALL.iter().copied().filter(move |f| self.has(*f) && !self.order.contains(&(*f as u8 + 1)));
        first.chain(rest)
    }
}

impl From<Flag> for Flags {
    fn from(flag: Flag) -> Flags {
        let mut flags = Flags::NONE;
        flags.set(flag);
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_in_the_order_of_setting() {
        let mut flags = Flags::NONE;
        for flag in
            [Flag::UpstreamRetryLimitExceeded, Flag::UpstreamConnectionFailure, Flag::UpstreamRetryLimitExceeded]
        {
            flags.set(flag);
        }
        assert!(flags.iter().map(Flag::short).eq(["URX", "UF"]));
        let mut other = Flags::from(Flag::UpstreamConnectionFailure);
        other.set(Flag::UpstreamRetryLimitExceeded);
        assert_eq!(flags, other);
        for flag in
            [Flag::RateLimited, Flag::NoRouteFound, Flag::FailedLocalHealthCheck, Flag::UnconditionalDropOverload]
        {
            flags.set(flag);
        }
        assert!(flags.iter().map(Flag::short).eq(["URX", "UF", "RL", "NR", "LH", "UDO"]));
        assert!(Flag::ALL.iter().enumerate().all(|(i, f)| *f as usize == i), "a bit is a place in the list");
    }
}

//! Response flags: why a stream ended as it did (`StreamInfo::CoreResponseFlag`).

/// A set of [`Flag`]s, in Envoy's bit order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        /// One response flag.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Flag { $($(#[$doc])* $name = $bit,)* }

        impl Flag {
            /// Every flag, in the order in which a log line prints them.
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
    pub const NONE: Flags = Flags(0);

    /// Adds a flag.
    pub fn set(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u8;
    }

    /// Whether the flag is there.
    pub fn has(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }

    /// Whether both sets have a flag in common.
    pub fn intersects(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags of the set, in the order of printing.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL.iter().copied().filter(move |f| self.has(*f))
    }
}

impl From<Flag> for Flags {
    fn from(flag: Flag) -> Flags {
        let mut flags = Flags::NONE;
        flags.set(flag);
        flags
    }
}

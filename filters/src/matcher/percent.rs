//! `type.v3.FractionalPercent`.

use waypost_xds::envoy::config::core::v3::RuntimeFractionalPercent;
use waypost_xds::envoy::r#type::v3 as proto;
use waypost_xds::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::{MatcherError, required};

/// How many of how many. 0 never and 100 % always, whatever the random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FractionalPercent {
    /// How many.
    pub numerator: u32,
    /// Of how many: 100, 10 000 or 1 000 000.
    pub denominator: u32,
}

impl FractionalPercent {
    /// Always.
    pub const ALWAYS: FractionalPercent = FractionalPercent { numerator: 100, denominator: 100 };

    /// Compiles a `FractionalPercent`.
    pub fn compile(percent: proto::FractionalPercent, path: &str) -> Result<FractionalPercent, MatcherError> {
        let proto::FractionalPercent { numerator, denominator } = percent;
        let denominator = match DenominatorType::try_from(denominator) {
            Ok(DenominatorType::Hundred) => 100,
            Ok(DenominatorType::TenThousand) => 10_000,
            Ok(DenominatorType::Million) => 1_000_000,
            Err(_) => return Err(MatcherError::new(format!("{path}.denominator"), "not a denominator")),
        };
        Ok(FractionalPercent { numerator, denominator })
    }

    /// Compiles a `RuntimeFractionalPercent`. There is no runtime here, so that the default is what counts.
    pub fn compile_runtime(percent: RuntimeFractionalPercent, path: &str) -> Result<FractionalPercent, MatcherError> {
        let RuntimeFractionalPercent { default_value, runtime_key: _ } = percent;
        FractionalPercent::compile(required(default_value, path, "default_value")?, &format!("{path}.default_value"))
    }

    /// Whether a random number falls within.
    pub fn matches(self, random: u64) -> bool {
        // The denominator is never 0; `max` says so to the compiler.
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

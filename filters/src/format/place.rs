//! Addresses as operators print them.

use std::io::Write as _;
use std::net::IpAddr;

use super::FormatContext;
use super::operator::{append, number};
use crate::address::Address;

pub(super) type AddressFn = for<'a> fn(&FormatContext<'a>) -> Option<&'a Address>;

/// `…_ADDRESS`, `…_ADDRESS_WITHOUT_PORT`, `…_PORT`, `…_ENDPOINT_ID`.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressOp {
    pub which: AddressFn,
    pub part: Part,
}

/// What of an address is printed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// With its port.
    Whole,
    /// Without.
    WithoutPort,
    /// Masked to so many bits, as a CIDR range.
    Masked(u8),
    /// The port alone.
    Port,
    /// `endpoint_id` of an internal address; empty for others.
    EndpointId,
}

impl AddressOp {
    pub fn is_port(&self) -> bool {
        matches!(self.part, Part::Port)
    }

    pub fn text(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let Some(address) = (self.which)(cx) else { return false };
        match (self.part, address) {
            (Part::Whole, a) => write(a, out),
            (Part::WithoutPort, Address::Ip(a)) => write_ip(a.ip(), out),
            (Part::WithoutPort, a) => write(a, out),
            (Part::Masked(bits), Address::Ip(a)) => write_masked(a.ip(), bits, out),
            (Part::Port, Address::Ip(a)) => number(out, i64::from(a.port())),
            (Part::Masked(_) | Part::Port, _) => false,
            (Part::EndpointId, Address::Internal { endpoint_id, .. }) => append(out, endpoint_id.as_bytes()),
            (Part::EndpointId, _) => true,
        }
    }
}

/// Appends an address with its port.
pub(super) fn write(address: &Address, out: &mut Vec<u8>) -> bool {
    match address {
        Address::Ip(a) if a.is_ipv4() => {
            write_ip(a.ip(), out);
            out.push(b':');
            number(out, i64::from(a.port()))
        }
        Address::Pipe(path) => append(out, path.as_bytes()),
        Address::Internal { listener, endpoint_id } => {
            for part in ["envoy://", listener, "/", endpoint_id] {
                out.extend_from_slice(part.as_bytes());
            }
            true
        }
        Address::Ip(a) => write!(out, "{a}").is_ok(),
    }
}

/// Appends an IP address.
pub(super) fn write_ip(ip: IpAddr, out: &mut Vec<u8>) -> bool {
    let IpAddr::V4(v4) = ip else { return write!(out, "{ip}").is_ok() };
    for (i, octet) in v4.octets().into_iter().enumerate() {
        if i > 0 {
            out.push(b'.');
        }
        let digit = |n: u8| b'0' + n % 10;
        match octet {
            0..10 => out.push(digit(octet)),
            10..100 => out.extend_from_slice(&[digit(octet / 10), digit(octet)]),
            _ => out.extend_from_slice(&[digit(octet / 100), digit(octet / 10), digit(octet)]),
        }
    }
    true
}

fn write_masked(ip: IpAddr, bits: u8, out: &mut Vec<u8>) -> bool {
    let (masked, bits) = match ip {
        IpAddr::V4(v4) => {
            let bits = u32::from(bits).min(32);
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            (IpAddr::from((v4.to_bits() & mask).to_be_bytes()), bits)
        }
        IpAddr::V6(v6) => {
            let bits = u32::from(bits).min(128);
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            (IpAddr::from((v6.to_bits() & mask).to_be_bytes()), bits)
        }
    };
    write_ip(masked, out);
    out.push(b'/');
    number(out, i64::from(bits))
}

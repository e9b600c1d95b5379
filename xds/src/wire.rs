//! The protobuf wire format: just what the transcoder needs of it.

/// A field's value as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw<'a> {
    Varint(u64),
    I64(u64),
    I32(u32),
    Len(&'a [u8]),
}

impl Raw<'_> {
    /// Whether it is what an absent field means. `-0.0` is not.
    pub fn is_default(self) -> bool {
        matches!(self, Raw::Varint(0) | Raw::I64(0) | Raw::I32(0) | Raw::Len([]))
    }
}

const VARINT: u64 = 0;
const I64: u64 = 1;
const LEN: u64 = 2;
const I32: u64 = 5;

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u64) {
    put_varint(out, u64::from(number) << 3 | wire_type);
}

pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, LEN);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a value without its tag, as in a packed list.
pub fn put_bare(out: &mut Vec<u8>, value: Raw<'_>) {
    match value {
        Raw::Varint(value) => put_varint(out, value),
        Raw::I64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Raw::I32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Raw::Len(bytes) => {
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    }
}

pub fn put(out: &mut Vec<u8>, number: u32, value: Raw<'_>) {
    let wire_type = match value {
        Raw::Varint(_) => VARINT,
        Raw::I64(_) => I64,
        Raw::I32(_) => I32,
        Raw::Len(_) => LEN,
    };
    put_tag(out, number, wire_type);
    put_bare(out, value);
}

/// Reads the fields of a message one by one.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

/// The bytes end in the middle of a field, or are not protobuf at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Reader<'a> {
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub fn i64(&mut self) -> Result<u64, Malformed> {
        let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    pub fn i32(&mut self) -> Result<u32, Malformed> {
        let (bytes, rest) = self.0.split_first_chunk::<4>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn len(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The next field's number and value; `None` at the end. Groups are malformed: the API has none.
    pub fn next(&mut self) -> Result<Option<(u32, Raw<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        let value = match tag & 7 {
            VARINT => Raw::Varint(self.varint()?),
            I64 => Raw::I64(self.i64()?),
            LEN => Raw::Len(self.len()?),
            I32 => Raw::I32(self.i32()?),
            _ => return Err(Malformed),
        };
        Ok(Some((number, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read() {
        let mut out = vec![];
        let values = [
            (1, Raw::Varint(0)),
            (15, Raw::Varint(u64::MAX)),
            (16, Raw::I64(u64::MAX - 1)),
            (536_870_911, Raw::I32(7)),
            (3, Raw::Len(b"")),
            (4, Raw::Len(b"abc")),
        ];
        for (number, value) in values {
            put(&mut out, number, value);
        }
        let mut reader = Reader(&out);
        for value in values {
            assert_eq!(reader.next(), Ok(Some(value)));
        }
        assert_eq!(reader.next(), Ok(None));
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        for bytes in [
            &b"\x08"[..],
            b"\x08\x80",
            b"\x0a\x05abc",
            b"\x09abc",
            b"\x0dab",
            b"\x0b",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(Reader(bytes).next(), Err(Malformed), "{bytes:?}");
        }
    }
}

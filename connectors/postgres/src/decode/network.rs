//! `inet`, `cidr`, `macaddr` and `macaddr8` as PostgreSQL writes them.
//!
//! PostgreSQL manual, 8.9 "Network Address Types"; the binary form is `network_send` in
//! `src/backend/utils/adt/network.c`: family, mask bits, whether it is a `cidr`, address length, address.

use std::fmt::Write;

use super::value_error::{Result, ValueError};

const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 3;

/// Writes an address, with its mask where it is a `cidr` or not a single host.
pub(super) fn write_inet(out: &mut String, bytes: &[u8]) -> Result<()> {
    let [family, bits, is_cidr, len, address @ ..] = bytes else {
        return Err(ValueError::Length);
    };
    if usize::from(*len) != address.len() {
        return Err(ValueError::Length);
    }
    let host_bits = match *family {
        FAMILY_V4 => {
            let octets = <[u8; 4]>::try_from(address).map_err(|_| ValueError::Length)?;
            put(out, format_args!("{}", std::net::Ipv4Addr::from(octets)));
            32
        }
        FAMILY_V6 => {
            write_v6(out, &<[u8; 16]>::try_from(address).map_err(|_| ValueError::Length)?);
            128
        }
        _ => return Err(ValueError::Malformed("unknown address family")),
    };
    if *bits > host_bits {
        return Err(ValueError::Malformed("more mask bits than the address has"));
    }
    if *is_cidr != 0 || *bits != host_bits {
        put(out, format_args!("/{bits}"));
    }
    Ok(())
}

/// The longest run of two or more zero words becomes `::`; what holds an IPv4 address shows it
/// with dots. Unlike the standard library's, this also holds for `::1.2.3.4`.
fn write_v6(out: &mut String, octets: &[u8; 16]) {
    let words: [u16; 8] = std::array::from_fn(|i| u16::from_be_bytes([octets[2 * i], octets[2 * i + 1]]));
    let (mut best_start, mut best_len, mut start) = (8, 1, 0);
    while start < 8 {
        let len = words[start..].iter().take_while(|word| **word == 0).count();
        if len > best_len {
            (best_start, best_len) = (start, len);
        }
        start += len.max(1);
    }
    let mut index = 0;
    while index < 8 {
        if index == best_start {
            out.push_str(if index + best_len == 8 { "::" } else { ":" });
            index += best_len;
            continue;
        }
        if index > 0 {
            out.push(':');
        }
        if index == 6 && best_start == 0 && (best_len == 6 || best_len == 5 && words[5] == 0xFFFF) {
            put(
                out,
                format_args!("{}.{}.{}.{}", octets[12], octets[13], octets[14], octets[15]),
            );
            return;
        }
        put(out, format_args!("{:x}", words[index]));
        index += 1;
    }
}

/// Writes 6 or 8 bytes as `08:00:2b:01:02:03`.
pub(super) fn write_mac(out: &mut String, bytes: &[u8]) -> Result<()> {
    if !matches!(bytes.len(), 6 | 8) {
        return Err(ValueError::Length);
    }
    for (index, byte) in bytes.iter().enumerate() {
        put(out, format_args!("{}{byte:02x}", if index == 0 { "" } else { ":" }));
    }
    Ok(())
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn inet(family: u8, bits: u8, is_cidr: u8, address: &[u8]) -> Result<String> {
        let mut out = String::new();
        let header = [family, bits, is_cidr, u8::try_from(address.len()).unwrap()];
        write_inet(&mut out, &[&header, address].concat()).map(|()| out)
    }

    #[test]
    fn addresses_are_written_as_postgresql_does() {
        assert_eq!(inet(2, 32, 0, &[192, 168, 0, 1]).unwrap(), "192.168.0.1");
        assert_eq!(inet(2, 24, 0, &[192, 168, 0, 1]).unwrap(), "192.168.0.1/24");
        assert_eq!(inet(2, 32, 1, &[192, 168, 0, 1]).unwrap(), "192.168.0.1/32");
        for text in [
            "::",
            "::1",
            "1::",
            "2001:db8::1",
            "1:0:0:2::",
            "1:2:3:4:5:6:7:8",
            "::ffff:1.2.3.4",
            "1:0:2:3:4:5:6:7",
        ] {
            let address: Ipv6Addr = text.parse().unwrap();
            assert_eq!(inet(3, 128, 0, &address.octets()).unwrap(), text);
        }
        let compatible: Ipv6Addr = "::1.2.3.4".parse().unwrap();
        assert_eq!(inet(3, 96, 1, &compatible.octets()).unwrap(), "::1.2.3.4/96");
    }

    #[test]
    fn broken_addresses_are_refused() {
        assert!(inet(2, 33, 0, &[0; 4]).is_err());
        assert!(inet(3, 32, 0, &[0; 4]).is_err());
        assert!(inet(9, 32, 0, &[0; 4]).is_err());
        assert!(write_inet(&mut String::new(), &[2, 32, 0]).is_err());
        assert!(write_mac(&mut String::new(), &[0; 7]).is_err());
    }

    #[test]
    fn mac_addresses_have_two_lengths() {
        let mut out = String::new();
        write_mac(&mut out, &[8, 0, 0x2b, 1, 2, 0xff]).unwrap();
        assert_eq!(out, "08:00:2b:01:02:ff");
    }

    proptest! {
        #[test]
        fn every_address_reads_back(octets in any::<[u8; 16]>(), zeros in any::<u16>()) {
            let octets: [u8; 16] = std::array::from_fn(|i| if zeros >> i & 1 == 1 { 0 } else { octets[i] });
            prop_assert_eq!(inet(3, 128, 0, &octets).unwrap().parse::<Ipv6Addr>().unwrap().octets(), octets);
            let v4 = [octets[0], octets[1], octets[2], octets[3]];
            prop_assert_eq!(inet(2, 32, 0, &v4).unwrap().parse::<Ipv4Addr>().unwrap().octets(), v4);
        }
    }
}
